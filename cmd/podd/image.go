package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"podd/api"
	"podd/images"
	"podd/pod/store"
	"podd/volumes"
)

func imageCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Load, pull, list and remove images",
		Long:  "Work on the images in the root directory, with or without a running agent.",
	}
	c.AddCommand(imageLoad(g), imagePull(g), imageList(g), imageRemove(g), imagePrune(g))
	return c
}

// openImages opens the store; o is nil outside the agent.
func openImages(g *globals, o *runOptions, log logr.Logger) (*images.Store, error) {
	root, err := filepath.Abs(g.rootDir)
	if err != nil {
		return nil, err
	}
	c := images.Config{Root: root, Logger: log}
	if o != nil {
		c.Providers = o.providers
		c.QPS, c.Burst, c.MaxParallelPulls = o.pullQPS, o.pullBurst, o.parallelPulls
		for _, m := range o.mirrors {
			prefix, where, ok := strings.Cut(m, "=")
			if !ok || prefix == "" || where == "" {
				return nil, fmt.Errorf("--image-mirror: expected PREFIX=URL or PREFIX=DIR; found %q", m)
			}
			mirror := images.Mirror{Prefix: prefix, URL: where}
			if strings.HasPrefix(where, "/") {
				mirror.URL, mirror.Dir = "", where
			}
			c.Mirrors = append(c.Mirrors, mirror)
		}
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("images lie in %s, which is root's: run this as root", root)
	}
	return images.Open(c)
}

func imageLoad(g *globals) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "load FILE…",
		Short: "Load images from OCI layouts, OCI archives and docker archives",
		Long:  "Load images from OCI layouts (directories), OCI archives and docker archives\n(what docker save writes), compressed or not; - reads an archive from the input.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := openImages(g, nil, logr.Discard())
			if err != nil {
				return err
			}
			for _, file := range args {
				bar := newProgressBar(c.ErrOrStderr(), filepath.Base(file))
				opts := images.LoadOptions{Name: name, Progress: bar.update}
				var names []string
				if file == "-" {
					names, err = s.LoadStream(c.Context(), c.InOrStdin(), opts)
				} else {
					names, err = s.Load(c.Context(), file, opts)
				}
				bar.end()
				if err != nil {
					return err
				}
				for _, n := range names {
					fmt.Fprintln(c.OutOrStdout(), "loaded", n)
					warnHealthcheck(c.ErrOrStderr(), s, n)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "name for an image that its archive does not name")
	return c
}

func imagePull(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "pull IMAGE…",
		Short: "Pull images from their registries",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := openImages(g, nil, logr.Discard())
			if err != nil {
				return err
			}
			for _, ref := range args {
				bar := newProgressBar(c.ErrOrStderr(), ref)
				img, err := s.Pull(c.Context(), ref, images.PullOptions{Progress: bar.update})
				bar.end()
				if err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "pulled", ref, img.ID)
				warnHealthcheck(c.ErrOrStderr(), s, ref)
			}
			return nil
		},
	}
}

// warnHealthcheck says that an image's HEALTHCHECK does nothing here, and what
// does the same.
func warnHealthcheck(out io.Writer, s *images.Store, ref string) {
	if img, err := s.Find(ref); err == nil {
		if text := images.Healthcheck(img); text != "" {
			fmt.Fprintln(out, text)
		}
	}
}

func imageList(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := openImages(g, nil, logr.Discard())
			if err != nil {
				return err
			}
			list, err := s.List()
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(t, "NAME\tIMAGE ID\tSIZE\tADDED")
			for _, img := range list {
				names := slices.Clone(img.Names)
				if len(names) == 0 {
					names = append(slices.Clone(img.RepoDigests), "<none>")[:1]
				}
				for _, n := range names {
					fmt.Fprintf(t, "%s\t%.19s\t%s\t%s ago\n", n, img.ID, bytesText(img.Size), duration.HumanDuration(time.Since(img.Added)))
				}
			}
			return t.Flush()
		},
	}
}

func imageRemove(g *globals) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Remove images that no container uses",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := openImages(g, nil, logr.Discard())
			if err != nil {
				return err
			}
			used, err := imagesInUse(c.Context(), g)
			if err != nil {
				return err
			}
			for _, ref := range args {
				if err := s.Remove(ref, force, used); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "removed", ref)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also an image with several names, by its id")
	return c
}

func imagePrune(g *globals) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove images without a name that no container uses",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := openImages(g, nil, logr.Discard())
			if err != nil {
				return err
			}
			used, err := imagesInUse(c.Context(), g)
			if err != nil {
				return err
			}
			freed, removed, err := s.Prune(all, used)
			for _, n := range removed {
				fmt.Fprintln(c.OutOrStdout(), "removed", n)
			}
			fmt.Fprintf(c.OutOrStdout(), "freed %s\n", bytesText(freed))
			return err
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also images with a name")
	return c
}

// imagesInUse asks the agent, or without one the records of pods, which go on
// while there is no agent.
func imagesInUse(ctx context.Context, g *globals) (func(id string) bool, error) {
	var refs []string
	list, err := g.client().Pods(ctx)
	switch {
	case errors.Is(err, api.ErrNoAgent):
		if refs, err = imagesOfRecords(g); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		for i := range list.Items {
			refs = append(refs, imagesOf(&list.Items[i])...)
		}
	}
	s, err := openImages(g, nil, logr.Discard())
	if err != nil {
		return nil, err
	}
	ids, err := volumes.MountedImages(filepath.Join(g.rootDir, "pods"))
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if img, err := s.Find(ref); err == nil {
			ids[img.ID] = true
		}
	}
	return func(id string) bool { return ids[id] }, nil
}

// imagesOfRecords lists the names and ids of the images of recorded pods.
func imagesOfRecords(g *globals) ([]string, error) {
	s, err := store.Open(store.Config{RootDir: g.rootDir, RunDir: g.runDir, Logger: logr.Discard()})
	if err != nil {
		return nil, err
	}
	records, err := s.List()
	if err != nil {
		return nil, err
	}
	var refs []string
	for _, r := range records {
		refs = append(refs, imagesOf(r.Pod)...)
		for _, c := range r.Observed.Containers {
			for _, id := range []string{c.Image.ID, c.Made.ID} {
				if id != "" {
					refs = append(refs, id)
				}
			}
		}
	}
	return refs, nil
}

// imagesOf lists the names of the images that a pod's manifest names, and what
// its containers were started from.
func imagesOf(p *v1.Pod) []string {
	var refs []string
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range containers {
			refs = append(refs, c.Image)
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		refs = append(refs, c.Image)
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			refs = append(refs, v.Image.Reference)
		}
	}
	for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range statuses {
			if s.ImageID != "" {
				refs = append(refs, s.ImageID)
			}
		}
	}
	return refs
}

// gcPeriod is how often the kubelet looks for images to collect.
const gcPeriod = 5 * time.Minute

// collectImages removes unused images when the disk fills up, until ctx ends.
func (a *agent) collectImages(ctx context.Context) {
	tick := time.NewTicker(gcPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		named := map[string]bool{}
		ids, err := volumes.MountedImages(filepath.Join(a.rootDir, "pods"))
		if err != nil {
			a.log.Error(err, "images are not collected")
			continue
		}
		pods, _ := a.board.Snapshot()
		for _, p := range pods {
			for _, ref := range imagesOf(p) {
				if familiar, err := images.Familiar(ref); err == nil {
					named[familiar] = true
				}
				if img, err := a.images.Find(ref); err == nil {
					ids[img.ID] = true
				}
			}
		}
		freed, removed, err := a.images.Collect(ctx, images.GC{HighPercent: a.gcHigh, LowPercent: a.gcLow, MinAge: a.gcMinAge, MaxAge: a.gcMaxAge}, time.Now(),
			func(id string) bool { return ids[id] },
			func(ref string) bool { return named[ref] },
			func() (int, error) { return diskPercent(a.rootDir) })
		if len(removed) > 0 {
			a.counters.ImagesCollected(len(removed), "space")
			a.log.Info("removed unused images", "images", removed, "bytes", freed)
		}
		if err != nil && ctx.Err() == nil {
			a.log.Error(err, "cannot make room by removing images")
		}
	}
}

// diskPercent is how full the file system of a path is, as df says it.
func diskPercent(path string) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, err
	}
	used := fs.Blocks - fs.Bfree
	if used+fs.Bavail == 0 {
		return 0, nil
	}
	return int((used*100 + used + fs.Bavail - 1) / (used + fs.Bavail)), nil
}

// progressBar shows how far a pull or load is, on a terminal only.
type progressBar struct {
	out   io.Writer
	name  string
	shown bool
}

func newProgressBar(out io.Writer, name string) *progressBar {
	if f, ok := out.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		out = nil
	}
	return &progressBar{out: out, name: name}
}

func (b *progressBar) update(p images.Progress) {
	total := p.FetchTotal + p.UnpackTotal
	if b.out == nil || total == 0 {
		return
	}
	const width = 30
	done := p.Fetched + p.Unpacked
	filled := int(min(width, done*width/total))
	fmt.Fprintf(b.out, "\r%-30.30s [%s%s] %3d%% of %s", b.name, strings.Repeat("=", filled), strings.Repeat(" ", width-filled), done*100/total, bytesText(p.FetchTotal))
	b.shown = true
}

func (b *progressBar) end() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1fKiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%dB", n)
}
