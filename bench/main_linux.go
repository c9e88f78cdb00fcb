package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	// The leader thread never enters a namespace: it could not end afterwards.
	runtime.LockOSThread()
}

func main() {
	quick := flag.Bool("quick", false, "fewer runs")
	only := flag.String("only", "", "measure only these parts, such as start,logs")
	list := flag.Bool("list", false, "list the parts")
	bin := flag.String("bin", "bin", "directory of podd and podd-pause")
	out := flag.String("json", "bench/results.json", "file for the results")
	flag.Parse()
	if *list {
		for _, p := range parts {
			fmt.Println(p.name)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	r, err := measure(ctx, *bin, *only, *quick)
	if r != nil && len(r.Figures) > 0 {
		err = errors.Join(err, r.print(os.Stdout), r.save(*out))
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; everything is cleaned up")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure does all parts, or those that only names, in one world. What was
// measured before an error is returned with it.
func measure(ctx context.Context, bin, only string, quick bool) (*Results, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root, as the agent does (try: make bench)")
	}
	chosen, err := choose(only)
	if err != nil {
		return nil, err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	for _, p := range []string{"podd", "podd-pause"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return nil, fmt.Errorf("cannot find %s: %w (try: make build)", p, err)
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	r := &Results{Time: time.Now().UTC().Truncate(time.Second), Kernel: unix.ByteSliceToString(uts.Release[:]), CPUs: runtime.NumCPU(), Quick: quick}
	r.Load[0] = loadAverage()
	w, err := newWorld(bin)
	if err != nil {
		return nil, err
	}
	defer w.close()
	b := &bench{world: w, results: r, quick: quick}
	if b.floor, err = newFloor(w); err != nil {
		return nil, err
	}
	defer b.floor.close()
	if err := errors.Join(b.floor.makeFiles(), w.running(ctx)); err != nil {
		return nil, err
	}
	for i, p := range chosen {
		began := time.Now()
		progress("%d/%d %s", i+1, len(chosen), p.what)
		err := p.measure(b, ctx)
		if err != nil {
			return r, fmt.Errorf("%s: %w", p.what, err)
		}
		progress("%d/%d %s: %.1f s", i+1, len(chosen), p.what, time.Since(began).Seconds())
	}
	r.Load[1] = loadAverage()
	return r, nil
}

func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(only, ",") {
		known := false
		for _, p := range parts {
			if p.name == name {
				chosen, known = append(chosen, p), true
			}
		}
		if !known {
			return nil, fmt.Errorf("-only: there is no part %q (see -list)", name)
		}
	}
	return chosen, nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}
