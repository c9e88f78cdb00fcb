package network

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eachBridgeFilter runs a test with and without br_netfilter's hook, which sends
// frames between ports of a bridge through the host's rules.
func eachBridgeFilter(t *testing.T, f func(t *testing.T, w *world)) {
	for _, on := range []string{"1", "0"} {
		t.Run("bridge-nf-call "+on, func(t *testing.T) {
			w := newWorld(t)
			if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
				for _, v := range []string{"iptables", "ip6tables"} {
					writeSysctlIn(t, w.host, "bridge/bridge-nf-call-"+v, on)
				}
			} else if on == "1" {
				t.Log("this kernel has no br_netfilter loaded: its half is not shown")
			}
			f(t, w)
		})
	}
}

func TestPodsReachEachOtherAndTheOutside(t *testing.T) {
	eachBridgeFilter(t, func(t *testing.T, w *world) {
		n := w.open(t)
		a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
		serve(t, w.outside, ":80", "outside")
		serve(t, w.host, ":80", "host")
		for _, proto := range []string{"tcp", "udp"} {
			wantAnswer(t, a.ns, proto, "127.0.0.1:80", "pod-a from 127.0.0.1")
			wantAnswer(t, a.ns, proto, "[::1]:80", "pod-a from ::1")
			wantAnswer(t, a.ns, proto, hostPort(b.addr4(), 80), "pod-b from "+a.addr4().String())
			wantAnswer(t, a.ns, proto, hostPort(b.addr6(), 80), "pod-b from "+a.addr6().String())
			// The outside knows no pod: it sees the host.
			wantAnswer(t, a.ns, proto, hostPort(outsideAddr4.Addr(), 80), "outside from "+hostAddr4.Addr().String())
			wantAnswer(t, a.ns, proto, hostPort(outsideAddr6.Addr(), 80), "outside from "+hostAddr6.Addr().String())
			// Pod and host see each other as they are.
			wantAnswer(t, a.ns, proto, hostPort(n.Gateways()[0], 80), "host from "+a.addr4().String())
			wantAnswer(t, a.ns, proto, hostPort(n.Gateways()[1], 80), "host from "+a.addr6().String())
			wantAnswer(t, w.host, proto, hostPort(a.addr4(), 80), "pod-a from "+n.Gateways()[0].String())
			wantAnswer(t, w.host, proto, hostPort(a.addr6(), 80), "pod-a from "+n.Gateways()[1].String())
		}
	})
}

func TestHostPortIsReachedFromEverywhere(t *testing.T) {
	eachBridgeFilter(t, func(t *testing.T, w *world) {
		n := w.open(t)
		a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
		mappings := []PortMapping{
			{Protocol: "TCP", HostPort: 8080, ContainerPort: 80},
			{Protocol: "UDP", HostPort: 8080, ContainerPort: 80},
		}
		files, err := n.ReservePorts(a.uid, mappings, a.addrs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			defer f.Close()
		}
		if err := n.MapPorts(t.Context(), a.uid, mappings, a.addrs); err != nil {
			t.Fatal(err)
		}
		check := func(t *testing.T) {
			t.Helper()
			for _, proto := range []string{"tcp", "udp"} {
				wantAnswer(t, w.host, proto, "127.0.0.1:8080", "pod-a from "+n.Gateways()[0].String())
				wantAnswer(t, w.host, proto, hostPort(hostAddr4.Addr(), 8080), "pod-a from")
				wantAnswer(t, w.host, proto, hostPort(hostAddr6.Addr(), 8080), "pod-a from")
				wantAnswer(t, w.host, proto, hostPort(n.Gateways()[0], 8080), "pod-a from")
				wantAnswer(t, w.outside, proto, hostPort(hostAddr4.Addr(), 8080), "pod-a from "+outsideAddr4.Addr().String())
				wantAnswer(t, w.outside, proto, hostPort(hostAddr6.Addr(), 8080), "pod-a from "+outsideAddr6.Addr().String())
				for _, from := range []*testPod{b, a} { // from a itself: hairpin
					wantAnswer(t, from.ns, proto, hostPort(hostAddr4.Addr(), 8080), "pod-a from "+n.Gateways()[0].String())
					wantAnswer(t, from.ns, proto, hostPort(hostAddr6.Addr(), 8080), "pod-a from "+n.Gateways()[1].String())
					wantAnswer(t, from.ns, proto, hostPort(n.Gateways()[0], 8080), "pod-a from "+n.Gateways()[0].String())
				}
			}
		}
		check(t)
		// Programs that try "localhost" as ::1 first must hear at once to go on.
		if _, err := ask(w.host, "tcp", "[::1]:8080"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connecting to [::1]:8080: %v; want refused", err)
		}

		// The agent dies; the mapping works without it and with the next one.
		n.Close()
		check(t)
		n = w.open(t)
		check(t)

		if err := n.UnmapPorts(t.Context(), a.uid); err != nil {
			t.Fatal(err)
		}
		for _, proto := range []string{"tcp", "udp"} {
			wantNoAnswer(t, w.outside, proto, hostPort(hostAddr4.Addr(), 8080))
			wantNoAnswer(t, w.host, proto, "127.0.0.1:8080")
		}
	})
}

func TestHostPortOfOneHostAddressIsOnlyThere(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	a, b := startPod(t, n, "pod-a"), startPod(t, n, "pod-b")
	for _, c := range []struct {
		pod *testPod
		m   PortMapping
	}{
		{a, PortMapping{Protocol: "TCP", HostIP: hostAddr4.Addr(), HostPort: 8080, ContainerPort: 80}},
		{b, PortMapping{Protocol: "TCP", HostIP: n.Gateways()[0], HostPort: 8080, ContainerPort: 80}},
		{a, PortMapping{Protocol: "TCP", HostIP: hostAddr6.Addr(), HostPort: 8081, ContainerPort: 80}},
	} {
		files, err := n.ReservePorts(c.pod.uid, []PortMapping{c.m}, c.pod.addrs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			defer f.Close()
		}
		if err := n.MapPorts(t.Context(), c.pod.uid, []PortMapping{c.m}, c.pod.addrs); err != nil {
			t.Fatal(err)
		}
	}
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr4.Addr(), 8080), "pod-a from "+outsideAddr4.Addr().String())
	wantAnswer(t, w.host, "tcp", hostPort(n.Gateways()[0], 8080), "pod-b from")
	wantAnswer(t, w.outside, "tcp", hostPort(hostAddr6.Addr(), 8081), "pod-a from "+outsideAddr6.Addr().String())
	wantNoAnswer(t, w.host, "tcp", "127.0.0.1:8080")
	wantNoAnswer(t, w.outside, "tcp", hostPort(hostAddr6.Addr(), 8080))
}

func TestFirstConnectionToANewPodIsNotLost(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	measureAttach(t, w, n, 50)
}

func uidOf(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

// measureAttach attaches pods one after the other, and connects to each at once.
func measureAttach(t *testing.T, w *world, n *Network, pods int) {
	var attach, connect, mapping []time.Duration
	for i := range pods {
		uid, ns := uidOf(i), newNetNS(t)
		addrs, err := n.Allocate(uid)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := n.Attach(t.Context(), uid, ns, addrs); err != nil {
			t.Fatal(err)
		}
		attach = append(attach, time.Since(begin))
		serve(t, ns, ":80", uid)
		for _, a := range addrs {
			if a.Is6() {
				inNetNS(ns, func() error {
					if table, err := os.ReadFile("/proc/thread-self/net/igmp6"); err != nil || !joined(string(table), "eth0", solicitedNode(a)) {
						t.Errorf("pod %d cannot be found by %s yet: %v", i, a, err)
					}
					return nil
				})
			}
			begin = time.Now()
			wantAnswer(t, w.host, "tcp", hostPort(a, 80), uid+" from")
			connect = append(connect, time.Since(begin))
			if d := time.Since(begin); d > 100*time.Millisecond {
				t.Logf("pod %d by %s: %v", i, a, d)
			}
		}
	}
	for i := range pods {
		begin := time.Now()
		addrs, err := n.Allocate(uidOf(i))
		if err == nil {
			err = n.MapPorts(t.Context(), uidOf(i), []PortMapping{{Protocol: "TCP", HostPort: uint16(9000 + i), ContainerPort: 80}}, addrs)
		}
		if err != nil {
			t.Fatal(err)
		}
		mapping = append(mapping, time.Since(begin))
	}
	slices.Sort(mapping)
	slices.Sort(attach)
	slices.Sort(connect)
	t.Logf("%d pods: attach median %v, longest %v; first connection median %v, longest %v; host port median %v",
		pods, attach[len(attach)/2], attach[len(attach)-1], connect[len(connect)/2], connect[len(connect)-1], mapping[len(mapping)/2])
	// A lost first packet costs a whole second; a loaded machine some milliseconds.
	if longest := connect[len(connect)-1]; longest >= 900*time.Millisecond {
		t.Errorf("a first connection took %v: its first packet was lost", longest)
	}
}
