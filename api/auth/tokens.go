package auth

import (
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Tokens are the bearer tokens of a file in the form of Kubernetes' static token
// file: token,user,uid and, quoted, the groups. The group podd:view, podd:edit or
// podd:admin gives the role. The file is read anew when it has changed.
type Tokens struct {
	path string

	mu    sync.Mutex
	stamp fileStamp // guarded by mu, as all below
	users map[[sha256.Size]byte]User
}

type fileStamp struct {
	modified time.Time
	size     int64
}

// maxTokens is the largest file of tokens, in bytes.
const maxTokens = 1 << 20

// OpenTokens reads a file of tokens. A file that others than its owner can read
// is refused.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	return t, t.refresh()
}

// refresh reads the file if it is not the one that was read last.
func (t *Tokens) refresh() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, err := os.Open(t.path)
	if err != nil {
		return fmt.Errorf("cannot read tokens: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot read tokens: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: others can read the tokens: the file's mode is %04o; chmod it to 0600", t.path, info.Mode().Perm())
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	if t.users != nil && stamp == t.stamp {
		return nil
	}
	users, err := parseTokens(io.LimitReader(f, maxTokens))
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	t.users, t.stamp = users, stamp
	return nil
}

// user finds whose token this is. When the file cannot be read any more, what
// was read last holds.
func (t *Tokens) user(token string) (User, error) {
	err := t.refresh()
	t.mu.Lock()
	defer t.mu.Unlock()
	// Digests are compared, so the time of an answer tells nothing of a token.
	if u, found := t.users[sha256.Sum256([]byte(token))]; found && token != "" {
		return u, nil
	}
	return User{}, errors.Join(errUnknown, err)
}

var errUnknown = errors.New("unknown token")

// parseTokens reads lines of token,user,uid[,"group,group"].
func parseTokens(r io.Reader) (map[[sha256.Size]byte]User, error) {
	lines := csv.NewReader(r)
	lines.FieldsPerRecord = -1
	lines.Comment = '#'
	lines.TrimLeadingSpace = true
	users := map[[sha256.Size]byte]User{}
	for {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return users, nil
		}
		if err != nil {
			var parse *csv.ParseError
			if errors.As(err, &parse) { // its text may show a token
				return nil, fmt.Errorf("line %d: expected token,user,uid,\"groups\"", parse.Line)
			}
			return nil, err
		}
		line, _ := lines.FieldPos(0)
		if len(fields) < 3 || len(fields) > 4 || fields[0] == "" || fields[1] == "" {
			return nil, fmt.Errorf("line %d: expected token,user,uid and perhaps quoted groups; found %d fields", line, len(fields))
		}
		digest := sha256.Sum256([]byte(fields[0]))
		if _, given := users[digest]; given {
			return nil, fmt.Errorf("line %d: its token is given twice", line)
		}
		var groups []string
		if len(fields) == 4 {
			for g := range strings.SplitSeq(fields[3], ",") {
				if g = strings.TrimSpace(g); g != "" {
					groups = append(groups, g)
				}
			}
		}
		users[digest] = newUser(fields[1], fields[2], groups)
	}
}
