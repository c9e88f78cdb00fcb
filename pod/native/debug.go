package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"podd/pod"
	"podd/sandbox"
)

// errOldPause says that a pod's pause process does not know how to let containers
// share one's processes.
var errOldPause = errors.New("the pod's pause process is of an older version and cannot target a container; podd restart gives the pod a new one")

// checkShared sees to it that a container which is to share another's processes
// does: a pause process of an older version does not know the wish.
func checkShared(ctx context.Context, s *sandbox.Sandbox, a pod.StartContainer, pid int) error {
	if a.Target == "" {
		return nil
	}
	st, err := s.State(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(st.Containers, func(c sandbox.Container) bool { return c.ID == a.Target })
	if i < 0 {
		return sandbox.ErrNoContainer
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", st.Containers[i].Pid))
	if err != nil {
		return err
	}
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return err
	}
	if ours != theirs {
		return errOldPause
	}
	return nil
}
