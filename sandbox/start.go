package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"podd/sandbox/wire"
)

// Start runs a container. Asked again for a known ID, it returns that start. The
// request's descriptors stay the caller's and are used during the call only.
func (s *Sandbox) Start(ctx context.Context, r Start) (Started, error) {
	body, err := stageRequest(&r)
	if err != nil {
		return Started{}, err
	}
	request, err := wire.SealedFile("podd-stage", wire.Marshal(body))
	if err != nil {
		return Started{}, cannot("make the start request", err)
	}
	defer request.Close()
	exit, err := s.openExitFile(&r)
	if err != nil {
		return Started{}, err
	}
	defer exit.Close()

	m := wire.Start{
		ID: r.ID, Name: r.Name, Attempt: r.Attempt,
		LogMaxBytes: max(r.LogMaxBytes, 0), LogMaxFiles: r.LogMaxFiles,
		Stdin: r.Stdin, StdinOnce: r.StdinOnce, TTY: body.Process.TTY,
		UseStageForExec: r.UseStageForExec, Process: body.Process, PIDOf: r.PIDOf,
	}
	files := []*os.File{s.host.program, request, exit}
	if r.LogPath != "" {
		dir, err := os.OpenFile(filepath.Dir(r.LogPath), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return Started{}, cannot("open the log's directory", err)
		}
		defer dir.Close()
		m.LogName = filepath.Base(r.LogPath)
		files = append(files, dir)
	}
	if c := r.Cgroup; c != nil {
		if m.Unified = c.Unified != nil; m.Unified {
			files = append(files, c.Unified)
		}
		m.Procs, m.Tasks = len(c.Procs), len(c.Tasks)
		files = append(append(files, c.Procs...), c.Tasks...)
	}
	files = append(files, r.Rootfs)
	trees, err := treesInOrder(&r)
	if err != nil {
		return Started{}, err
	}
	files = append(files, trees...)

	c, hangUp, err := s.dial(ctx)
	if err != nil {
		return Started{}, err
	}
	defer hangUp()
	if err := c.Send(wire.KindStart, &m, files...); err != nil {
		return Started{}, lost(ctx, err)
	}
	reply, err := answer(ctx, c)
	if err == nil && reply.Kind == wire.KindReady {
		var ready wire.Started
		if err := wire.Unmarshal(reply.Body, &ready); err != nil {
			return Started{}, cannot("understand the pause process", err)
		}
		if r.Ready != nil {
			if err := r.Ready(ready.Pid); err != nil {
				return Started{}, err // hanging up aborts the start
			}
		}
		if err := c.Send(wire.KindGo, nil); err != nil {
			return Started{}, lost(ctx, err)
		}
		reply, err = answer(ctx, c)
	}
	if err != nil {
		return Started{}, err
	}
	var started wire.Started
	if err := wire.Unmarshal(reply.Body, &started); err != nil || reply.Kind != wire.KindStarted {
		return Started{}, cannot("understand the pause process", errors.Join(err, fmt.Errorf("message %d came", reply.Kind)))
	}
	return Started{Pid: started.Pid, At: timeOf(started.At)}, nil
}

func (s *Sandbox) openExitFile(r *Start) (*os.File, error) {
	path := r.ExitFile
	if path == "" {
		path = filepath.Join(s.host.dir(s.uid), containersName, r.Name, strconv.Itoa(r.Attempt), "exit")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, cannot("make the container's run directory", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, cannot("open the exit file", err)
	}
	return f, nil
}

// treesInOrder returns the detached mounts in the order of the spec's mounts,
// which is the order that [stageRequest] counts them in.
func treesInOrder(r *Start) ([]*os.File, error) {
	if r.Rootfs == nil {
		return nil, errors.New("cannot start a container without a root file system")
	}
	var trees []*os.File
	for i := range r.Spec.Mounts {
		if t := r.Trees[i]; t != nil {
			trees = append(trees, t)
		}
	}
	return trees, nil
}
