package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	magic      = 0x6470 // "pd"
	headerSize = 16
	// maxInline is the longest body that travels in the message itself; a
	// longer one goes in a sealed memory file, the message's first descriptor.
	maxInline = 4096
	// maxFiles is the most descriptors in one message; the kernel's limit is 253.
	// More go in numbered messages.
	maxFiles = 200
	// maxBody bounds what a peer can make us read.
	maxBody = 64 << 20
	// maxTotalFiles bounds what a peer can make us hold.
	maxTotalFiles = 4096

	flagMemfd = 1 // the body is in the first descriptor
)

// A Conn carries messages with descriptors over a SOCK_SEQPACKET socket. One
// goroutine may read while another writes.
type Conn struct {
	f  *os.File
	rc syscall.RawConn
}

// NewConn takes over a connected socket.
func NewConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "control socket")
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Conn{f, rc}, nil
}

// Close hangs up.
func (c *Conn) Close() error { return c.f.Close() }

// SetDeadline bounds all reads and writes; a time in the past ends those under way.
func (c *Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// A Message is what was received. Its Files are owned by whoever received it.
type Message struct {
	Kind  Kind
	Body  []byte
	Files []*os.File
}

// CloseFiles closes the message's descriptors.
func (m *Message) CloseFiles() {
	for _, f := range m.Files {
		f.Close()
	}
}

// Send sends one message. m may be nil: no body. The files stay the caller's.
func (c *Conn) Send(k Kind, m fielder, files ...*os.File) error {
	var body []byte
	if m != nil {
		body = Marshal(m)
		defer clear(body) // variables may come from a Secret
	}
	return c.send(k, body, files)
}

func (c *Conn) send(k Kind, body []byte, files []*os.File) error {
	fds := make([]int, 0, len(files)+1)
	flags := uint16(0)
	inline := body
	if len(body) > maxInline {
		f, err := SealedFile("podd-message", body)
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
		flags |= flagMemfd
		inline = nil
	}
	for _, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// The number is used below while the caller keeps the file open.
		if err := rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	parts := max(1, (len(fds)+maxFiles-1)/maxFiles)
	for part := range parts {
		n := min(maxFiles, len(fds)-part*maxFiles)
		p := make([]byte, headerSize, headerSize+len(inline))
		binary.LittleEndian.PutUint16(p[0:], magic)
		binary.LittleEndian.PutUint16(p[2:], Version)
		binary.LittleEndian.PutUint16(p[4:], uint16(k))
		binary.LittleEndian.PutUint16(p[6:], flags)
		binary.LittleEndian.PutUint32(p[8:], uint32(len(body)))
		binary.LittleEndian.PutUint16(p[12:], uint16(part))
		binary.LittleEndian.PutUint16(p[14:], uint16(parts))
		if part == 0 {
			p = append(p, inline...)
		}
		var oob []byte
		if n > 0 {
			oob = unix.UnixRights(fds[part*maxFiles : part*maxFiles+n]...)
		}
		if err := c.sendmsg(p, oob); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) sendmsg(p, oob []byte) error {
	var err error
	werr := c.rc.Write(func(fd uintptr) bool {
		for {
			err = unix.Sendmsg(int(fd), p, oob, nil, unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if werr != nil {
		return werr
	}
	return err
}

// receiveBuffer is what a message and its descriptors fit in. They are reused:
// in a pause process every kilobyte counts once per pod.
type receiveBuffer struct {
	body [headerSize + maxInline]byte
	oob  [24 + (maxFiles+1)*4]byte // unix.CmsgSpace, rounded up
}

var receiveBuffers = sync.Pool{New: func() any { return new(receiveBuffer) }}

// Receive waits for the next message; io.EOF after the peer hung up.
func (c *Conn) Receive() (Message, error) {
	if err := c.readable(); err != nil {
		return Message{}, err
	}
	b := receiveBuffers.Get().(*receiveBuffer)
	defer receiveBuffers.Put(b)
	var m Message
	buf, oob := b.body[:], b.oob[:]
	flags, size := uint16(0), uint32(0)
	for part, parts := 0, 1; part < parts; part++ {
		n, files, err := c.recvmsg(buf, oob)
		m.Files = append(m.Files, files...)
		if err == nil && n < headerSize {
			err = ErrMalformed
		}
		if err == nil && binary.LittleEndian.Uint16(buf[0:]) != magic {
			err = ErrMalformed
		}
		if err == nil && binary.LittleEndian.Uint16(buf[2:]) != Version {
			err = ErrVersion
		}
		if err == nil && (int(binary.LittleEndian.Uint16(buf[12:])) != part || len(m.Files) > maxTotalFiles) {
			err = ErrMalformed
		}
		if err != nil {
			m.CloseFiles()
			return Message{}, err
		}
		if part == 0 {
			m.Kind = Kind(binary.LittleEndian.Uint16(buf[4:]))
			flags = binary.LittleEndian.Uint16(buf[6:])
			size = binary.LittleEndian.Uint32(buf[8:])
			parts = int(binary.LittleEndian.Uint16(buf[14:]))
			if flags&flagMemfd == 0 {
				m.Body = append([]byte(nil), buf[headerSize:n]...)
			}
		}
	}
	if flags&flagMemfd != 0 {
		if len(m.Files) == 0 || size > maxBody {
			m.CloseFiles()
			return Message{}, ErrMalformed
		}
		body, err := readAll(m.Files[0], int(size))
		if err != nil {
			m.CloseFiles()
			return Message{}, err
		}
		m.Files[0].Close()
		m.Body, m.Files = body, m.Files[1:]
	}
	if len(m.Body) != int(size) {
		m.CloseFiles()
		return Message{}, ErrMalformed
	}
	return m, nil
}

// ErrVersion is returned for a message of another protocol version.
var ErrVersion = errors.New("the peer speaks another version of the sandbox protocol")

// readable waits for something to receive, so that a conversation that waits
// for long holds no buffer.
func (c *Conn) readable() error {
	var err error
	rerr := c.rc.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK)
			if err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return rerr
	}
	if err == unix.ECONNRESET {
		return io.EOF
	}
	return err
}

func (c *Conn) recvmsg(p, oob []byte) (n int, files []*os.File, err error) {
	var oobn, rflags int
	rerr := c.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, rflags, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr != nil {
		return 0, nil, rerr
	}
	if err != nil {
		if err == unix.ECONNRESET {
			err = io.EOF
		}
		return 0, nil, err
	}
	files, err = rights(oob[:oobn])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && rflags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = ErrMalformed
	}
	return n, files, err
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range cmsgs {
		if cmsgs[i].Header.Level != unix.SOL_SOCKET || cmsgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// SealedFile returns a memory file with this content that nobody can change.
func SealedFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // MFD_NOEXEC_SEAL came with Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS,
			unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadSealed returns the whole content of a file made by [SealedFile],
// whatever its offset.
func ReadSealed(f *os.File) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Size > maxBody {
		return nil, ErrMalformed
	}
	return readAll(f, int(st.Size))
}

func readAll(f *os.File, size int) ([]byte, error) {
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}
