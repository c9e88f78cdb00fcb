package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"podd/internal/kerneltest"
)

// A world is a host in a network namespace of its own, and a machine outside
// that knows the host and no pod. The real host's network is not touched.
type world struct {
	host, outside *os.File
	state         string
}

var (
	hostAddr4    = netip.MustParsePrefix("192.0.2.1/24")
	outsideAddr4 = netip.MustParsePrefix("192.0.2.2/24")
	hostAddr6    = netip.MustParsePrefix("2001:db8:1::1/64")
	outsideAddr6 = netip.MustParsePrefix("2001:db8:1::2/64")
)

func newWorld(t testing.TB) *world {
	t.Helper()
	kerneltest.Root(t)
	w := &world{host: newNetNS(t), outside: newNetNS(t), state: t.TempDir()}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "up0", 1400
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "up0", netlink.NsFd(w.outside.Fd())
	in(t, w.host, func(nl *netlink.Handle) error { return nl.LinkAdd(veth) })
	in(t, w.host, func(nl *netlink.Handle) error { return setUp(nl, "up0", hostAddr4, hostAddr6) })
	in(t, w.outside, func(nl *netlink.Handle) error { return setUp(nl, "up0", outsideAddr4, outsideAddr6) })
	in(t, w.host, func(nl *netlink.Handle) error {
		for _, gw := range []netip.Addr{outsideAddr4.Addr(), outsideAddr6.Addr()} {
			dst := ipNet(netip.PrefixFrom(unspecified(gw), 0))
			if err := nl.RouteReplace(&netlink.Route{Dst: dst, Gw: gw.AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	})
	return w
}

func setUp(nl *netlink.Handle, name string, addrs ...netip.Prefix) error {
	for _, n := range []string{"lo", name} {
		link, err := nl.LinkByName(n)
		if err != nil {
			return err
		}
		if err := nl.LinkSetUp(link); err != nil {
			return err
		}
		for _, a := range addrs {
			if n == "lo" {
				break
			}
			if err := nl.AddrAdd(link, linkAddr(a)); err != nil {
				return err
			}
		}
	}
	return nil
}

// newNetNS makes a network namespace that lives until the test ends.
func newNetNS(t testing.TB) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		var f *os.File
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

// in runs f in a namespace, with a handle for it.
func in(t testing.TB, ns *os.File, f func(nl *netlink.Handle) error) {
	t.Helper()
	err := inNetNS(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		return f(nl)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) open(t testing.TB, change ...func(*Config)) *Network {
	t.Helper()
	c := Config{StateDir: w.state, HostNetNS: w.host, Logger: logr.Discard()}
	for _, f := range change {
		f(&c)
	}
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// testPod is a pod with a TCP and a UDP server on port 80, which answer with the
// pod's name and the address that the question came from.
type testPod struct {
	uid   string
	ns    *os.File
	addrs []netip.Addr
}

func startPod(t testing.TB, n *Network, uid string) *testPod {
	t.Helper()
	p := &testPod{uid: uid, ns: newNetNS(t)}
	var err error
	if p.addrs, err = n.Allocate(uid); err != nil {
		t.Fatal(err)
	}
	if err := n.Attach(t.Context(), uid, p.ns, p.addrs); err != nil {
		t.Fatal(err)
	}
	serve(t, p.ns, ":80", uid)
	return p
}

func (p *testPod) addr4() netip.Addr { return p.addrs[0] }
func (p *testPod) addr6() netip.Addr { return p.addrs[1] }

// serve answers on TCP and UDP with "name from ADDRESS" until the test ends.
func serve(t testing.TB, ns *os.File, addr, name string) {
	t.Helper()
	err := inNetNS(ns, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s from %s", name, remoteAddr(c.RemoteAddr()))
				c.Close()
			}
		}()
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { u.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo(fmt.Appendf(nil, "%s from %s", name, remoteAddr(from)), from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func remoteAddr(a net.Addr) netip.Addr {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap()
}

// ask connects from a namespace and returns what the server says.
func ask(ns *os.File, proto, to string) (answer string, err error) {
	err = inNetNS(ns, func() error {
		c, err := net.DialTimeout(proto, to, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(3 * time.Second))
		if proto == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			b := make([]byte, 100)
			k, err := c.Read(b)
			answer = string(b[:k])
			return err
		}
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer, err
}

// wantAnswer asks, and wants this answer; a trailing " from" matches any origin.
func wantAnswer(t *testing.T, ns *os.File, proto, to, want string) {
	t.Helper()
	got, err := ask(ns, proto, to)
	if err != nil {
		t.Errorf("%s to %s: %v; want %q", proto, to, err, want)
		return
	}
	if strings.HasSuffix(want, " from") {
		got, _, _ = strings.Cut(got, " from")
		got += " from"
	}
	if got != want {
		t.Errorf("%s to %s: answered %q, want %q", proto, to, got, want)
	}
}

func wantNoAnswer(t *testing.T, ns *os.File, proto, to string) {
	t.Helper()
	err := inNetNS(ns, func() error {
		c, err := net.DialTimeout(proto, to, 300*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		c.Write([]byte("?"))
		_, err = c.Read(make([]byte, 1))
		return err
	})
	if err == nil {
		t.Errorf("%s to %s is answered", proto, to)
	}
}

func hostPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// logLines collects what is logged for operators.
type logLines struct{ lines []string }

func (l *logLines) Init(logr.RuntimeInfo)            {}
func (l *logLines) Enabled(int) bool                 { return true }
func (l *logLines) Info(_ int, msg string, _ ...any) { l.lines = append(l.lines, msg) }
func (l *logLines) Error(err error, msg string, _ ...any) {
	l.lines = append(l.lines, msg+": "+err.Error())
}
func (l *logLines) WithValues(...any) logr.LogSink { return l }
func (l *logLines) WithName(string) logr.LogSink   { return l }

func sysctlIn(t testing.TB, ns *os.File, key string) (value string) {
	t.Helper()
	if err := inNetNS(ns, func() (err error) { value, err = readSysctl(key); return err }); err != nil {
		t.Fatal(err)
	}
	return value
}

func writeSysctlIn(t testing.TB, ns *os.File, key, value string) {
	t.Helper()
	if err := inNetNS(ns, func() error { return setSysctl(key, value) }); err != nil {
		t.Fatal(err)
	}
}
