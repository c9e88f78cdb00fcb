package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"podd/internal/atomicfile"
)

// maxDocument bounds manifests, indexes and image configurations.
const maxDocument = 8 << 20

func (s *Store) blobDir() string     { return filepath.Join(s.layout, "blobs", "sha256") }
func (s *Store) downloadDir() string { return filepath.Join(s.layout, "downloads") }

func (s *Store) blobFile(digest v1.Hash) string { return filepath.Join(s.blobDir(), digest.Hex) }

func (s *Store) haveBlob(digest v1.Hash, size int64) bool {
	info, err := os.Stat(s.blobFile(digest))
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

// readBlob returns a manifest, an index or a configuration, verified.
func (s *Store) readBlob(digest v1.Hash) ([]byte, error) {
	f, err := os.Open(s.blobFile(digest))
	if err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", digest, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read blob %s: %w", digest, err)
	}
	if got := digestOf(data); got != digest {
		return nil, fmt.Errorf("blob %s is damaged: its content has digest %s", digest, got)
	}
	return data, nil
}

// dropDamaged removes a blob whose content is not what its digest says, so that
// it is fetched again, and says whether it did.
func (s *Store) dropDamaged(digest v1.Hash) bool {
	f, err := os.Open(s.blobFile(digest))
	if err != nil {
		return false
	}
	defer f.Close()
	got, _, err := v1.SHA256(f)
	if err != nil || got == digest {
		return false
	}
	s.log.Info("blob is damaged and is fetched again", "digest", digest.String())
	return os.Remove(s.blobFile(digest)) == nil
}

func digestOf(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// putBlob keeps a document.
func (s *Store) putBlob(data []byte) (v1.Hash, error) {
	digest := digestOf(data)
	if s.haveBlob(digest, int64(len(data))) {
		if _, err := s.readBlob(digest); err == nil {
			return digest, nil
		}
		os.Remove(s.blobFile(digest))
	}
	return digest, s.fetchBlob(context.Background(), v1.Descriptor{Digest: digest, Size: int64(len(data))},
		func(_ context.Context, offset int64) (io.ReadCloser, int64, error) {
			return io.NopCloser(bytes.NewReader(data[min(offset, int64(len(data))):])), offset, nil
		}, func(int64, bool) {})
}

// opener opens a blob's content at an offset. What it returns may begin earlier,
// at the second value, if the source cannot begin in the middle.
type opener func(ctx context.Context, offset int64) (io.ReadCloser, int64, error)

// permanentError is one that another attempt will not cure.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// maxAttempts is how often in a row a download may fail without progress.
const maxAttempts = 5

// fetchBlob brings a blob into the store. What arrived stays on disk if it
// fails, also over a restart, and the next attempt asks only for the rest.
// arrived is told each number of bytes, and whether they were here already; a
// negative number takes back what turned out wrong.
func (s *Store) fetchBlob(ctx context.Context, d v1.Descriptor, open opener, arrived func(n int64, found bool)) error {
	if d.Digest.Algorithm != "sha256" {
		return &permanentError{fmt.Errorf("blob %s: only sha256 digests are supported", d.Digest)}
	}
	if s.haveBlob(d.Digest, d.Size) {
		arrived(d.Size, true)
		return nil
	}
	f, err := s.openDownload(ctx, d)
	if err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
	}
	if f == nil { // somebody else has just brought it
		arrived(d.Size, true)
		return nil
	}
	defer f.Close()
	sum := sha256.New()
	offset, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
	}
	if offset > d.Size {
		if offset, err = 0, restart(f, sum); err != nil {
			return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
		}
	}
	arrived(offset, true)
	for failures := 0; offset < d.Size; {
		n, err := s.continueBlob(ctx, f, sum, offset, d.Size, open, arrived)
		if n > offset {
			failures = 0
		}
		offset = n
		if err == nil {
			break
		}
		var permanent *permanentError
		if failures++; errors.As(err, &permanent) || failures >= maxAttempts {
			return err
		}
		if err := s.pause(ctx, failures, err); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.Digest.Hex {
		os.Remove(f.Name())
		arrived(-offset, false)
		return &permanentError{fmt.Errorf("blob %s has wrong content: what arrived has digest sha256:%s; it is thrown away", d.Digest, got)}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
	}
	if err := os.Rename(f.Name(), s.blobFile(d.Digest)); err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", d.Digest, err)
	}
	return atomicfile.SyncDir(s.blobDir())
}

// openDownload opens the file of a blob under way, at its beginning, and owns it
// until it is closed. It waits while another goroutine or process owns it, and
// returns nil if that one brought the blob.
func (s *Store) openDownload(ctx context.Context, d v1.Descriptor) (*os.File, error) {
	path := filepath.Join(s.downloadDir(), d.Digest.Hex)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			if s.haveBlob(d.Digest, d.Size) {
				if sameFile(f, path) {
					os.Remove(path)
				}
				f.Close()
				return nil, nil
			}
			if sameFile(f, path) {
				return f, nil
			}
			f.Close() // its former owner finished or removed it: look again
			continue
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			f.Close()
			return nil, err
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

func restart(f *os.File, sum hash.Hash) error {
	sum.Reset()
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// continueBlob appends to f what is missing from offset on, and returns how far
// it came.
func (s *Store) continueBlob(ctx context.Context, f *os.File, sum hash.Hash, offset, size int64, open opener, arrived func(int64, bool)) (int64, error) {
	r, begins, err := open(ctx, offset)
	if err != nil {
		return offset, err
	}
	defer r.Close()
	if begins != offset {
		arrived(-offset, true)
		if err := restart(f, sum); err != nil {
			return 0, &permanentError{err}
		}
		if offset = 0; begins != 0 {
			return 0, &permanentError{fmt.Errorf("the source offers the blob from byte %d, asked for was %d", begins, offset)}
		}
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if offset+int64(n) > size {
			restart(f, sum)
			arrived(-offset, false)
			return 0, &permanentError{fmt.Errorf("the source sends more than the blob's %d bytes", size)}
		}
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return offset, &permanentError{err}
			}
			sum.Write(buf[:n])
			offset += int64(n)
			arrived(int64(n), false)
		}
		switch {
		case err == io.EOF && offset < size:
			return offset, fmt.Errorf("the connection ended after %d of %d bytes", offset, size)
		case err == io.EOF:
			return offset, nil
		case err != nil:
			return offset, fmt.Errorf("the connection broke after %d of %d bytes: %w", offset, size, err)
		}
	}
}

// pause waits before attempt number failures+1: 0.25 s, doubling up to 8 s, a
// bit more or less by chance, or as long as the registry asks for.
func (s *Store) pause(ctx context.Context, failures int, cause error) error {
	delay := retryBase << (failures - 1)
	delay = min(delay, 32*retryBase)
	delay = delay*3/4 + time.Duration(rand.Int64N(int64(delay)/2+1))
	var asked *retryAfterError
	if errors.As(cause, &asked) {
		delay = max(delay, asked.after)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
		return nil
	}
}

const retryBase = 250 * time.Millisecond

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
