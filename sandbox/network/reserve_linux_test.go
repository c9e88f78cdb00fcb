package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sendUDP(to string, bytes int) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write(make([]byte, bytes)) // an earlier one may have been refused
	return nil
}

func reservePorts(t testing.TB, n *Network, uid string, addrs []netip.Addr, m ...PortMapping) []*os.File {
	t.Helper()
	files, err := n.ReservePorts(uid, m, addrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	return files
}

var (
	tcp8080 = PortMapping{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}
	udp8080 = PortMapping{Protocol: "UDP", HostPort: 8080, ContainerPort: 80}
)

func TestNobodyTakesAReservedPort(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	addrs, err := n.Allocate("pod-a")
	if err != nil {
		t.Fatal(err)
	}
	files := reservePorts(t, n, "pod-a", addrs, tcp8080, udp8080)
	if len(files) != 2 {
		t.Fatalf("%d sockets; want one for both families of each", len(files))
	}
	for _, host := range []string{"0.0.0.0", "127.0.0.1", "192.0.2.1", "[::]", "[::1]", "[2001:db8:1::1]"} {
		to := host + ":8080"
		inNetNS(w.host, func() error {
			if l, err := net.Listen("tcp", to); err == nil { // Go sets SO_REUSEADDR, as most servers do
				l.Close()
				t.Errorf("a process could listen on %s", to)
			}
			if u, err := net.ListenPacket("udp", to); err == nil {
				u.Close()
				t.Errorf("a process could receive on %s", to)
			}
			if host == "0.0.0.0" || host == "[::]" {
				return nil
			}
			begin := time.Now()
			if c, err := net.DialTimeout("tcp", to, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("connecting to the unmapped port %s: %v, %v after %v; want refused at once", to, c, err, time.Since(begin))
			}
			return nil
		})
	}
	for _, f := range files {
		f.Close()
	}
	serve(t, w.host, ":8080", "process") // free again at once
}

func TestAConflictNamesThePod(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
	loopback := netip.MustParseAddr("127.0.0.1")
	reservePorts(t, n, "pod-a", a.addrs, tcp8080, udp8080)
	check := func(when string, n *Network) {
		t.Helper()
		for _, m := range []PortMapping{tcp8080, udp8080, {Protocol: "TCP", HostIP: loopback, HostPort: 8080, ContainerPort: 1}} {
			files, err := n.ReservePorts("pod-b", []PortMapping{{Protocol: "TCP", HostPort: 9999, ContainerPort: 9}, m}, b.addrs)
			var conflict *PortConflictError
			if !errors.As(err, &conflict) || conflict.PodUID != "pod-a" || files != nil {
				t.Errorf("%s: %s: %v, files %v; want the pod named, and no file", when, m, err, files)
			} else if want := fmt.Sprintf("host port %s is taken by pod pod-a", m); err.Error() != want {
				t.Errorf("%s: %v; want %s", when, err, want)
			}
		}
	}
	check("reserved", n)
	if err := n.MapPorts(t.Context(), "pod-a", []PortMapping{tcp8080, udp8080}, a.addrs); err != nil {
		t.Fatal(err)
	}
	check("mapped", n)
	n.Close()
	check("after a restart", w.open(t))
}

func TestAConflictNamesTheProcess(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a := startPod(t, n, "pod-a")
	comm, _ := os.ReadFile("/proc/self/comm")
	for i, c := range []struct {
		listen string
		hostIP netip.Addr
		taken  bool
	}{
		{"0.0.0.0", netip.Addr{}, true},
		{"127.0.0.1", netip.Addr{}, true},
		{"[::]", netip.Addr{}, true},
		{"[::1]", netip.Addr{}, true},
		{"0.0.0.0", hostAddr4.Addr(), true},
		{"[::]", hostAddr4.Addr(), true},
		{"127.0.0.1", hostAddr4.Addr(), false},
		{"[::1]", netip.IPv4Unspecified(), false},
	} {
		port := uint16(7000 + i)
		serve(t, w.host, fmt.Sprintf("%s:%d", c.listen, port), "process")
		for _, proto := range []string{"TCP", "UDP"} {
			m := PortMapping{Protocol: proto, HostIP: c.hostIP, HostPort: port, ContainerPort: 80}
			files, err := n.ReservePorts("pod-a", []PortMapping{m}, a.addrs)
			for _, f := range files {
				f.Close()
			}
			if !c.taken {
				if err != nil {
					t.Errorf("%s beside a server on %s: %v", m, c.listen, err)
				}
				continue
			}
			want := fmt.Sprintf("host port %s is taken by process %d (%s)", m, os.Getpid(), string(comm[:len(comm)-1]))
			if err == nil || err.Error() != want {
				t.Errorf("server on %s: %v; want %s", c.listen, err, want)
			}
		}
	}
	m := PortMapping{Protocol: "TCP", HostIP: netip.MustParseAddr("203.0.113.7"), HostPort: 80, ContainerPort: 80}
	if _, err := n.ReservePorts("pod-a", []PortMapping{m}, a.addrs); err == nil || err.Error() != "host port 203.0.113.7:80/TCP: this host has no address 203.0.113.7" {
		t.Errorf("an address the host does not have: %v", err)
	}
}

// A server that just ended leaves connections in TIME_WAIT for a minute. They
// are no reason to keep a pod waiting, whatever options the server had set.
func TestConnectionsOfAFormerServerAreNoConflict(t *testing.T) {
	for _, reuse := range []int{0, 1} {
		t.Run(fmt.Sprintf("SO_REUSEADDR %d", reuse), func(t *testing.T) {
			w := newWorld(t)
			n := w.open(t)
			a := startPod(t, n, "pod-a")
			err := inNetNS(w.host, func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse)
				if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 8080}); err != nil {
					return err
				}
				if err := unix.Listen(fd, 1); err != nil {
					return err
				}
				c, err := net.DialTimeout("tcp", "127.0.0.1:8080", 3*time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				conn, _, err := unix.Accept(fd)
				if err != nil {
					return err
				}
				unix.Close(conn) // the server closes first: TIME_WAIT is its
				c.SetReadDeadline(time.Now().Add(3 * time.Second))
				c.Read(make([]byte, 1))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			// The kernel heeds the former server's SO_REUSEADDR. Without it the port
			// cannot be reserved for a minute, but it works.
			if files := reservePorts(t, n, "pod-a", a.addrs, tcp8080); len(files) != reuse {
				t.Errorf("%d sockets hold the port, want %d", len(files), reuse)
			}
			if err := n.MapPorts(t.Context(), "pod-a", []PortMapping{tcp8080}, a.addrs); err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "pod-a from "+outsideAddr4.Addr().String())
		})
	}
}

// A UDP client that keeps one port is one connection to the kernel. It must
// reach the pod that has the host port now.
func TestAUDPClientFollowsAHostPortToTheNextPod(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
	var client net.Conn
	if err := inNetNS(w.outside, func() (err error) {
		client, err = net.Dial("udp", hostPort(hostAddr4.Addr(), 8080))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	question := func() string {
		client.SetDeadline(time.Now().Add(time.Second))
		client.Write([]byte("?"))
		b := make([]byte, 100)
		k, err := client.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:k])
	}
	files := reservePorts(t, n, "pod-a", a.addrs, udp8080)
	client.Write([]byte("early")) // before the port is mapped
	for _, pod := range []*testPod{a, b} {
		if err := n.MapPorts(t.Context(), pod.uid, []PortMapping{udp8080}, pod.addrs); err != nil {
			t.Fatal(err)
		}
		if got, want := question(), pod.uid+" from "+outsideAddr4.Addr().String(); got != want {
			t.Errorf("answer %q, want %q", got, want)
		}
		if err := n.UnmapPorts(t.Context(), pod.uid); err != nil {
			t.Fatal(err)
		}
		if got := question(); strings.Contains(got, " from ") {
			t.Errorf("answer %q although the port is not mapped", got)
		}
	}
	for _, f := range files {
		f.Close()
	}
}

func TestMappingAgainReplacesWhatAnotherPodLeft(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
	for _, p := range []*testPod{a, a, b} {
		if err := n.MapPorts(t.Context(), p.uid, []PortMapping{tcp8080}, p.addrs); err != nil {
			t.Fatal(err)
		}
	}
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "pod-b from "+outsideAddr4.Addr().String())
	for _, uid := range []string{"pod-a", "pod-a", "nobody"} { // nothing of theirs is left
		if err := n.UnmapPorts(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
	}
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "pod-b from "+outsideAddr4.Addr().String())
}

// Looking whether ports are free tells so while they are taken and once they are
// not, and takes nothing itself.
func TestPortsAreSeenToBeFree(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	addrs, err := n.Allocate("pod-a")
	if err != nil {
		t.Fatal(err)
	}
	var server net.Listener
	inNetNS(w.host, func() error {
		server, err = net.Listen("tcp", "0.0.0.0:8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := []PortMapping{udp8080, tcp8080}
	if n.PortsFree("pod-a", all, addrs) {
		t.Error("free while a process listens")
	}
	server.Close()
	for range 2 {
		if !n.PortsFree("pod-a", all, addrs) {
			t.Error("not free once nobody listens")
		}
	}
	reservePorts(t, n, "pod-b", addrs, all...)
	if n.PortsFree("pod-a", all, addrs) {
		t.Error("free while another pod has it")
	}
}
