package images

import (
	"bufio"
	"bytes"

	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// The agent and the process that unpacks one layer:
//
//	agent                                      unpacker
//	  clone + exec, own mount, PID, network,     make the layer's mount the root, leave the old one,
//	    IPC and UTS namespaces                   drop privileges
//	  0: the layer's file        ───────────▶    read, decompress, unpack
//	  1: a pipe                  ◀───────────    unpacked, as JSON, after success
//	  2: a pipe                  ◀───────────    one line that says what is wrong, after failure
//	  3: a detached mount of the layer's directory, without devices, set-id and execution
//	  4: a pipe that the agent never writes to:  its end means that the agent is gone; exit
//	  5: the lock of the directory: while this process lives, nobody cleans up below it
//
// Arguments after the command: the limits of [limits], bytes and files.

// unpacked is what the unpacker reports about a layer.
type unpacked struct {
	DiffID string // sha256:<hex> of the uncompressed tar stream
	Bytes  int64  // of file contents
	Marks  marks
}

// UnpackMain is the whole life of a process that unpacks one image layer; it
// does not return. The program must call it, before anything else, when it was
// started by [Config].UnpackCommand.
func UnpackMain() {
	if err := unpackMain(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func unpackMain(args []string) error {
	// Threads keep privileges of their own; this one keeps the ones it gave up
	// given up also where the others cannot be reached.
	runtime.LockOSThread()
	if len(args) < 3 {
		return errors.New("this command is started by podd itself to unpack image layers")
	}
	maxBytes, err := strconv.ParseInt(args[len(args)-2], 10, 64)
	if err != nil {
		return fmt.Errorf("cannot read the size limit: %w", err)
	}
	maxFiles, err := strconv.ParseInt(args[len(args)-1], 10, 64)
	if err != nil {
		return fmt.Errorf("cannot read the limit of entries: %w", err)
	}
	// Started here, ends with the process; owns descriptor 4.
	go func() {
		os.NewFile(4, "agent").Read(make([]byte, 1))
		os.Exit(1)
	}()
	if err := enterLayer(3); err != nil {
		return fmt.Errorf("cannot enter the layer's directory: %w", err)
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("cannot drop privileges: %w", err)
	}
	unix.Umask(0)
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	result, err := unpackStream(root, os.Stdin, limits{maxBytes, maxFiles})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// enterLayer makes the detached mount the root of this process and leaves no
// way back to the host's files.
func enterLayer(mount int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Fchdir(mount); err != nil {
		return err
	}
	// The layer is mounted over the old root; exchange them and let the old one,
	// which then lies over the layer, go.
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Close(mount)
}

// unpackCapabilities are the ones that making any file takes. Trusted
// attributes, which would need more, are set by the agent afterwards.
const unpackCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP

// dropPrivileges keeps unpackCapabilities and nothing else, for all threads.
func dropPrivileges() error {
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if unpackCapabilities&(1<<c) != 0 {
			continue
		}
		if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil && err != syscall.EINVAL {
			return err // EINVAL: this kernel does not know the capability
		}
	}
	return setCapabilities(unpackCapabilities)
}

// unpackStream unpacks a layer's file, whatever its compression, into root.
func unpackStream(root *os.File, file io.Reader, limit limits) (unpacked, error) {
	plain, err := decompress(file)
	if err != nil {
		return unpacked{}, err
	}
	defer plain.Close()
	sum := sha256.New()
	stream := io.TeeReader(plain, sum)
	m, size, err := untar(root, stream, limit)
	if err != nil {
		return unpacked{}, err
	}
	// What follows the end marker belongs to the stream's digest.
	rest, err := io.Copy(io.Discard, io.LimitReader(stream, maxTrailer+1))
	if err != nil {
		return unpacked{}, fmt.Errorf("cannot read the end of the tar stream: %w", err)
	}
	if rest > maxTrailer {
		return unpacked{}, fmt.Errorf("more than %d bytes follow the end of the tar stream", maxTrailer)
	}
	return unpacked{DiffID: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Bytes: size, Marks: m}, nil
}

const maxTrailer = 64 << 20

// decompress recognises gzip and zstd by their first bytes; what is neither is
// returned as it is.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("cannot decompress (gzip): %w", err)
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("cannot decompress (zstd): %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, errors.New("compressed with bzip2 or xz, which is not supported; supported: gzip, zstd")
	}
	return io.NopCloser(b), nil
}

// unpackLayer unpacks the layer's file into the empty directory dir, in a
// process of its own. With name the file is not a tar stream, but one file of the
// layer. lock is handed to it. progress is told how many bytes of
// the file are done.
func (s *Store) unpackLayer(ctx context.Context, file *os.File, name, dir string, lock *os.File, progress func(done int64)) (unpacked, error) {
	mount, err := layerMount(dir)
	if err != nil {
		return unpacked{}, fmt.Errorf("cannot unpack into %s: %w", dir, err)
	}
	defer mount.Close()
	alive, ours, err := os.Pipe()
	if err != nil {
		return unpacked{}, err
	}
	defer ours.Close()
	defer alive.Close()
	stream := file
	if name != "" {
		if stream, err = asTar(file, name); err != nil {
			return unpacked{}, err
		}
		defer stream.Close()
	}

	args := append(s.config.UnpackCommand[1:len(s.config.UnpackCommand):len(s.config.UnpackCommand)],
		strconv.FormatInt(s.config.MaxLayerBytes, 10), strconv.FormatInt(s.config.MaxLayerFiles, 10))
	cmd := exec.CommandContext(ctx, s.config.UnpackCommand[0], args...)
	cmd.Env = []string{"GOTRACEBACK=none"}
	cmd.Dir = "/"
	cmd.Stdin = stream
	var stdout, stderr limitedBuffer
	stdout.limit, stderr.limit = 256<<20, 4<<10
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = []*os.File{mount, alive, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		return unpacked{}, fmt.Errorf("cannot start the unpacking process: %w", err)
	}
	if stream != file {
		stream.Close() // the unpacker alone reads it
	}
	stop := watchOffset(file, progress)
	err = cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return unpacked{}, ctx.Err()
	}
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return unpacked{}, errors.New(strings.Split(text, "\n")[0])
		}
		return unpacked{}, fmt.Errorf("the unpacking process ended early: %w", err)
	}
	var result unpacked
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		return unpacked{}, fmt.Errorf("cannot read the unpacking process's report: %w", err)
	}
	return result, nil
}

// layerMount returns a detached mount of a directory on which nothing can be
// executed and no device opened.
func layerMount(dir string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), dir)
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// watchOffset reports how far a file that is shared with another process was
// read, until stop is called.
func watchOffset(file *os.File, progress func(int64)) (stop func()) {
	return every(100*time.Millisecond, func() {
		if offset, err := file.Seek(0, io.SeekCurrent); err == nil {
			progress(offset)
		}
	})
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
