// Package seal keeps values encrypted for an age identity, so that a file with
// them can be shown to everybody. It knows nothing of Secrets or manifests. It
// owns no state but an identity that was read.
//
// Read first: [Value], [Opener], [NewIdentity].
package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"

	"podd/internal/atomicfile"
)

// maxIdentityBytes is how much of an identity file is read.
const maxIdentityBytes = 64 << 10

// Recipients are for whom values are sealed, not empty.
type Recipients []age.Recipient

// ParseRecipients reads recipients such as age1….
func ParseRecipients(texts []string) (Recipients, error) {
	var all Recipients
	for _, text := range texts {
		r, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("expected a recipient of age such as age1…; found %q", text)
		}
		for _, one := range r {
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no recipient given")
	}
	return all, nil
}

// Value returns a value as an age file, which only the recipients open.
func Value(value []byte, to Recipients) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(value); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

// IsValue says whether data begins as what [Value] returns.
func IsValue(data []byte) bool { return bytes.HasPrefix(data, []byte("age-encryption.org/v1\n")) }

// NewIdentity makes an identity file, mode 0600, in the form of age-keygen. It is
// an error that the file exists.
func NewIdentity(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("cannot make the identity %s: it exists", path)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("cannot make an identity: %w", err)
	}
	text := fmt.Appendf(nil, "# made by podd; whoever has it can open what is sealed for it\n# public key: %s\n%s\n", identity.Recipient(), identity)
	defer clear(text)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot make the identity: %w", err)
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return fmt.Errorf("cannot make the identity: %w", err)
	}
	return nil
}

// Opener opens values with the identities of a file, which is read when the first
// value is opened, and again after it has changed. Its methods may be called at
// the same time.
type Opener struct {
	Path string // the file, in the form of age-keygen; nobody but its owner may read it

	mu         sync.Mutex
	identities []age.Identity // guarded by mu
	read       fs.FileInfo    // guarded by mu; of the file that identities are from
}

// Recipients are those for whom sealed values can be opened.
func (o *Opener) Recipients() (Recipients, []string, error) {
	identities, err := o.load()
	if err != nil {
		return nil, nil, err
	}
	var all Recipients
	var names []string
	for _, i := range identities {
		switch i := i.(type) {
		case *age.X25519Identity:
			all, names = append(all, i.Recipient()), append(names, i.Recipient().String())
		case *age.HybridIdentity:
			all, names = append(all, i.Recipient()), append(names, i.Recipient().String())
		}
	}
	return all, names, nil
}

// Open returns the value that was sealed. Its errors tell nothing of the value.
func (o *Opener) Open(sealed []byte) ([]byte, error) {
	identities, err := o.load()
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fmt.Errorf("it was sealed for another identity than %s", o.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	// A value is shorter than what it is sealed in: no copies by growing. Only EOF
	// is its end; what was cut off gives an error.
	value := make([]byte, len(sealed))
	for n := 0; ; {
		read, err := r.Read(value[n:])
		n += read
		if err == io.EOF {
			return value[:n:n], nil
		}
		if err != nil {
			clear(value)
			return nil, fmt.Errorf("it is damaged: %w", err)
		}
	}
}

// load returns the identities of the file as it is now.
func (o *Opener) load() ([]age.Identity, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f, err := os.Open(o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no identity %s", o.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the identity: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the identity %s is not used: others than its owner can reach it, its mode is %04o; chmod it to 0600", o.Path, info.Mode().Perm())
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the identity %s is no regular file", o.Path)
	}
	if o.read != nil && os.SameFile(o.read, info) && o.read.ModTime().Equal(info.ModTime()) && o.read.Size() == info.Size() {
		return o.identities, nil
	}
	data := make([]byte, maxIdentityBytes)
	defer clear(data)
	n, err := io.ReadFull(f, data)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return nil, fmt.Errorf("cannot read the identity: %w", err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(data[:n]))
	if err != nil {
		// age's message holds the line.
		return nil, fmt.Errorf("the identity %s cannot be read: expected lines AGE-SECRET-KEY-1…, as age-keygen writes them", o.Path)
	}
	o.identities, o.read = identities, info
	return identities, nil
}
