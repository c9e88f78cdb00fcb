// Podd runs pods from YAML files on one Linux machine, without a cluster.
//
//	podd run --manifests DIR     the agent
//	podd check FILES…            what is wrong with manifests
//	podd diff FILES…             what they would do
//	podd get | describe | why | logs | exec | attach | debug | restart | down
//	podd export | secret seal | kubeconfig | doctor
//	podd image load | pull | ls | rm | prune
//
// run.go shows all wiring of the agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"podd/images"
)

// version is set when podd is built by make.
var version = ""

func main() {
	// Re-executed to unpack an image layer, before anything else is set up.
	if len(os.Args) > 1 && os.Args[1] == "unpack-layer" {
		images.UnpackMain()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// exitCode ends the program with this code; what there is to say was said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// defaultRootDir is where an agent that is told nothing else keeps everything.
const defaultRootDir = "/var/lib/podd"

// globals are the flags that every command has.
type globals struct {
	rootDir string
	runDir  string
}

func newRootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "podd",
		Short: "Run Kubernetes pods from files on one machine",
		Long: `podd runs standard Kubernetes Pod manifests on one Linux machine: drop a file
into a directory and the pod runs, with init containers, sidecars, volumes,
probes, logs and metrics. No cluster is needed.

  podd run --manifests /etc/podd/manifests    start the agent (as root)
  podd get                                    what runs
  podd logs -f POD                            what it says`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&g.rootDir, "root-dir", defaultRootDir, "directory of images, volumes and records")
	root.PersistentFlags().StringVar(&g.runDir, "run-dir", "/run/podd", "directory of what lives until the next boot, and of the agent's socket")
	root.AddGroup(
		&cobra.Group{ID: "agent", Title: "The agent:"},
		&cobra.Group{ID: "pods", Title: "Pods:"},
		&cobra.Group{ID: "files", Title: "Manifests and images:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"agent": {runCommand(g), downCommand(g), doctorCommand(g), kubeconfigCommand(g), versionCommand(g)},
		"pods":  {getCommand(g), describeCommand(g), whyCommand(g), logsCommand(g), execCommand(g), attachCommand(g), debugCommand(g), restartCommand(g)},
		"files": {checkCommand(), diffCommand(g), exportCommand(g), secretCommand(), imageCommand(g)},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	return root
}

// versionText is the version that make set, or what the Go tool recorded.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
