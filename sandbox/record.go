package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// named is a process named for good: by pid and start time in clock ticks.
type named struct {
	pid   int
	ticks string
}

// open returns a pidfd of the process, or ESRCH if it is gone.
func (p named) open() (*os.File, error) {
	if p.pid <= 1 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return nil, err
	}
	// Compared after opening: from here on the pid cannot be given to another.
	if t, err := startTicks(p.pid); err != nil || t != p.ticks {
		unix.Close(fd)
		return nil, unix.ESRCH
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// wait waits until the process is gone, at most so long.
func (p named) wait(limit time.Duration) bool {
	f, err := p.open()
	if err != nil {
		return true
	}
	defer f.Close()
	return waitPidfd(f, limit)
}

func waitPidfd(f *os.File, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, int(max(0, left.Milliseconds())))
		if n > 0 || err != nil && err != unix.EINTR {
			return true
		}
		if left <= 0 {
			return false
		}
	}
}

// kill kills the process and waits for its end.
func (p named) kill() error {
	f, err := p.open()
	if err != nil {
		return nil // gone
	}
	defer f.Close()
	if err := unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return cannot("kill process "+strconv.Itoa(p.pid), err)
	}
	if !waitPidfd(f, 5*time.Second) {
		return fmt.Errorf("process %d does not die", p.pid)
	}
	return nil
}

func startTicks(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return "", errors.New("unexpected form of /proc/PID/stat")
	}
	if f[0] == "Z" {
		return "", unix.ESRCH
	}
	return f[19], nil
}

func writePid(dir string, pid int) error {
	t, err := startTicks(pid)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, pidName), []byte(strconv.Itoa(pid)+" "+t+"\n"), 0o600)
	}
	if err != nil {
		return cannot("note the pause process", err)
	}
	return nil
}

func readPid(dir string) (named, error) {
	b, err := os.ReadFile(filepath.Join(dir, pidName))
	if err != nil {
		return named{}, err
	}
	pid, ticks, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	n, err := strconv.Atoi(pid)
	return named{n, ticks}, err
}

// ReadExitFile reads what the pause process left in an exit file. Exit is nil
// when it holds no exit, because the container runs or its pause process died.
// A file that a start never got to is [ErrNoContainer].
func ReadExitFile(path string) (Container, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Container{}, err
	}
	c, _, err := parseExitFile(string(b))
	if err != nil {
		return Container{}, cannot("read exit file "+path, err)
	}
	return c, nil
}

// parseExitFile reads lines "started key=value …" and "exited key=value …". A
// later start replaces what was before; a line without newline was not finished.
func parseExitFile(text string) (c Container, p named, err error) {
	for line := range strings.SplitAfterSeq(text, "\n") {
		line, complete := strings.CutSuffix(line, "\n")
		if !complete {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		v := map[string]string{}
		for _, f := range strings.Fields(rest) {
			k, value, _ := strings.Cut(f, "=")
			v[k] = value
		}
		at, aerr := strconv.ParseInt(v["at"], 10, 64)
		switch word {
		case "started":
			pid, perr := strconv.Atoi(v["pid"])
			attempt, terr := strconv.Atoi(v["attempt"])
			if err := errors.Join(aerr, perr, terr); err != nil {
				return Container{}, named{}, err
			}
			c = Container{ID: v["id"], Name: v["name"], Attempt: attempt, Pid: pid, StartedAt: time.Unix(0, at)}
			p = named{pid, v["ticks"]}
		case "exited":
			code, cerr := strconv.Atoi(v["code"])
			signal, serr := strconv.Atoi(v["signal"])
			if err := errors.Join(aerr, cerr, serr); err != nil {
				return Container{}, named{}, err
			}
			c.Exit = &Exit{Code: code, Signal: signal, At: time.Unix(0, at)}
		}
	}
	if c.ID == "" {
		return Container{}, named{}, ErrNoContainer
	}
	return c, p, nil
}

// killRecorded kills a container's main process if its exit file says that it
// runs and it still does. In a PID namespace of its own, all of the container dies
// with it.
func killRecorded(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // removed meanwhile
	}
	c, p, err := parseExitFile(string(b))
	if err != nil || c.Exit != nil {
		return nil
	}
	return p.kill()
}
