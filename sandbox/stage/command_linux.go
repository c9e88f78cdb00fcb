package stage

import (
	"strings"

	"golang.org/x/sys/unix"
)

// A CommandError says that a command cannot be executed, in the words that
// users of other runtimes know.
type CommandError struct{ Text string }

func (e *CommandError) Error() string { return e.Text }

// candidates returns the files that name can mean, in the order they are to be
// tried, as the kernel sees them from here. Whether the user may execute them is
// left to the execve itself.
func candidates(name string, env []string) ([]string, error) {
	quoted := `exec: "` + name + `": `
	var st unix.Stat_t
	if strings.Contains(name, "/") {
		if err := unix.Stat(name, &st); err != nil {
			return nil, &CommandError{quoted + "stat " + name + ": " + err.Error()}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil, &CommandError{quoted + "is a directory"}
		}
		return []string{name}, nil
	}
	search := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var found, forbidden []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" || name == "" || name == "." || name == ".." {
			continue
		}
		p := dir + "/" + name
		if unix.Stat(p, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if st.Mode&0o111 == 0 {
			forbidden = append(forbidden, p)
		} else {
			found = append(found, p)
		}
	}
	if len(found) == 0 && len(forbidden) > 0 {
		return nil, &CommandError{quoted + "permission denied"}
	}
	if len(found) == 0 {
		return nil, &CommandError{quoted + "executable file not found in $PATH"}
	}
	return found, nil
}

func permissionDenied(name string) error {
	return &CommandError{`exec: "` + name + `": permission denied`}
}
