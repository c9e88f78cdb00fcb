package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"

	"podd/sandbox/cgroup"
)

// openCgroups opens the agent's tree of control groups and remembers in the run
// directory where it is. Pods that an agent of this boot left in another tree
// would be neither measured nor limited nor killed: it refuses to start beside
// them. Another tree that is empty is removed.
func openCgroups(ctx context.Context, runDir, root string, log logr.Logger) (*cgroup.Tree, error) {
	root = strings.Trim(root, "/")
	note := filepath.Join(runDir, "cgroup-root")
	noted, err := os.ReadFile(note)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot tell where this agent's pods live: %w", err)
	}
	if before := string(noted); before != "" && before != root {
		old, err := cgroup.Open(before, log)
		if err != nil {
			return nil, err
		}
		if !old.Root().Empty() {
			return nil, fmt.Errorf("pods live in cgroup %s, and the agent is told to use %s: start it with --cgroup-root %s, "+
				"or stop them first (podd down, with an agent that was started so)", before, root, before)
		}
		if err := old.Close(ctx); err != nil {
			log.Info("an empty cgroup stays behind", "cgroup", before, "error", err.Error())
		}
	}
	tree, err := cgroup.Open(root, log)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(note, []byte(root), 0o644); err != nil {
		return nil, fmt.Errorf("cannot note where pods live: %w", err)
	}
	return tree, nil
}
