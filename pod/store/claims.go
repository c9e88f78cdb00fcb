package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"podd/internal/atomicfile"
	"podd/pod/claims"
)

// Claims keeps which volume each claim is bound to, in <root>/claims.json, and
// deletes the directories of claims that are gone where that is wanted. The
// directories are <root>/claims/<namespace>/<claim>; a volume is set up by whoever
// makes a pod's volumes.
//
// A file that cannot be read is set aside. Claims then find their directories by
// name, and volumes by the rules.
type Claims struct {
	store *Store
	node  claims.Node
	now   func() time.Time
	// changed is signalled after bindings have changed.
	changed chan struct{}

	mu      sync.Mutex
	bound   claims.Bound     // guarded by mu
	written []claims.Binding // guarded by mu
}

// claimsFile is what is written.
type claimsFile struct {
	Version  int              `json:"version"`
	Bindings []claims.Binding `json:"bindings"`
}

// Claims reads what was bound when the last agent ended. node is this node, for the
// affinity of volumes.
func (s *Store) Claims(node claims.Node) (*Claims, error) {
	c := &Claims{store: s, node: node, now: time.Now, changed: make(chan struct{}, 1)}
	data, err := os.ReadFile(c.file())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which volumes claims are bound to: %w", err)
	}
	kept, err := parseClaims(data)
	if err != nil {
		aside := setAside(c.file())
		s.config.Logger.Error(err, "cannot read which volumes claims are bound to; the file is set aside", "file", aside)
	}
	c.bound.Bindings, c.written = kept, kept
	return c, nil
}

// parseClaims reads a file's content.
func parseClaims(data []byte) ([]claims.Binding, error) {
	var f claimsFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != version {
		return nil, fmt.Errorf("version %d is not known here; expected %d", f.Version, version)
	}
	for _, b := range f.Bindings {
		if b.Claim.Namespace == "" || b.Claim.Name == "" || b.Volume == "" ||
			b.Made != nil && (b.Made.Name != b.Volume || b.Made.Spec.Local == nil) {
			return nil, errors.New("expected a claim and a volume in each binding")
		}
	}
	return f.Bindings, nil
}

func (c *Claims) file() string { return filepath.Join(c.store.config.RootDir, "claims.json") }
func (c *Claims) dir() string  { return filepath.Join(c.store.config.RootDir, "claims") }

// Bind binds claims and writes down what changed before it returns: a claim must
// not get another volume after a crash. Of in, it fills in what is kept, the node
// and the time.
func (c *Claims) Bind(in claims.Input) claims.Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	in.Kept, in.Node, in.Dir, in.Now = c.kept(), c.node, c.dir(), c.now()
	c.bound = claims.Bind(in)
	c.write()
	return c.bound
}

// kept are the bindings without those of claims that are gone and whose directory
// somebody has removed.
func (c *Claims) kept() []claims.Binding {
	var kept []claims.Binding
	for _, b := range c.bound.Bindings {
		if b.Released != nil && b.Made != nil {
			if _, err := os.Lstat(b.Made.Spec.Local.Path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		kept = append(kept, b)
	}
	return kept
}

// write keeps the bindings. What cannot be written is logged and tried again at the
// next occasion.
func (c *Claims) write() {
	if reflect.DeepEqual(c.written, c.bound.Bindings) {
		return
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
	data, err := json.Marshal(claimsFile{Version: version, Bindings: c.bound.Bindings})
	if err == nil {
		err = atomicfile.Write(c.file(), data, 0o600)
	}
	if err != nil {
		c.store.config.Logger.Error(err, "cannot write down which volumes claims are bound to")
		return
	}
	c.written = c.bound.Bindings
}

// Bound is what was bound last.
func (c *Claims) Bound() claims.Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bound
}

// removedPrefix begins the name of a directory that is being deleted.
const removedPrefix = ".removed-"

// Reclaim deletes directories whose claim is gone and whose class says so, until
// ctx ends. used says whether a pod that is still there names a claim; remove deletes
// a directory with all that is in it.
func (c *Claims) Reclaim(ctx context.Context, used func(claims.Key) bool, remove func(ctx context.Context, dir, name string) error) {
	c.removeLeftovers(ctx, remove)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
		case <-timer.C:
		}
		next, moved := c.takeAway(used)
		if moved {
			c.removeLeftovers(ctx, remove)
		}
		if !next.IsZero() {
			timer.Reset(next.Sub(c.now()))
		}
	}
}

// takeAway moves directories whose time has come aside and forgets their bindings.
func (c *Claims) takeAway(used func(claims.Key) bool) (next time.Time, moved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest, due, next := claims.Reclaimable(c.bound.Bindings, used, c.now())
	for _, b := range due {
		path := filepath.Join(c.dir(), b.Claim.Namespace, b.Claim.Name) // never what a file says
		aside := filepath.Join(c.dir(), removedPrefix+b.Volume+"-"+strconv.FormatInt(c.now().UnixNano(), 10))
		if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.store.config.Logger.Error(err, "cannot delete the data of a claim that was removed", "claim", b.Claim.String())
			rest = append(rest, b)
			continue
		}
		c.store.config.Logger.Info("the data of a claim that was removed is deleted, as its class says", "claim", b.Claim.String(), "path", path)
		moved = true
	}
	if moved {
		c.bound = c.bound.With(rest)
		c.write()
	}
	return next, moved
}

// removeLeftovers deletes what was moved aside, also by an earlier agent.
func (c *Claims) removeLeftovers(ctx context.Context, remove func(ctx context.Context, dir, name string) error) {
	entries, err := os.ReadDir(c.dir())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removedPrefix) {
			err = errors.Join(err, remove(ctx, c.dir(), e.Name()))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		c.store.config.Logger.Error(err, "cannot delete the data of claims that were removed; the next agent tries again", "dir", c.dir())
	}
}
