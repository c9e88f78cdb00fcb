package native

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"podd/internal/kerneltest"
	"podd/pod"
)

// listenIn listens in a network namespace until the test ends, and answers each
// connection with what it reads and a last word.
func listenIn(t *testing.T, ns *os.File, address string) (port uint16) {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			err = netns.Set(netns.NsHandle(ns.Fd()))
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
		made <- result{l, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := r.l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				io.Copy(c, c)
				io.WriteString(c, "!")
			})
		}
	})
	t.Cleanup(func() {
		r.l.Close()
		serving.Wait()
	})
	return uint16(r.l.Addr().(*net.TCPAddr).Port)
}

// networkOf returns a pod's network namespace.
func networkOf(t *testing.T, r *Runtime, uid types.UID) *os.File {
	t.Helper()
	ns, err := r.live(uid).getSandbox().NetNS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestDialReachesAListenerInThePod(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "dialled", UID: types.UID(uuid.NewUUID())},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "docker.io/library/busybox:1.36"}}},
	}
	target, _ := bringUp(t, r, p)
	ns := networkOf(t, r, p.UID)
	ports := []uint16{listenIn(t, ns, "127.0.0.1:0"), listenIn(t, ns, "[::1]:0")}
	exchange := func(port uint16, size int) error {
		c, err := r.Dial(t.Context(), target, port)
		if err != nil {
			return err
		}
		defer c.Close()
		sent := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size)}).Read(sent)
		go func() { // ends with the connection
			c.Write(sent)
			c.(*net.TCPConn).CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, append(sent, '!')) {
			return fmt.Errorf("%d bytes came back of %d: %w", len(got), size+1, err)
		}
		return nil
	}
	for i, port := range ports {
		for _, size := range []int{0, 1000, 10 << 20} {
			if err := exchange(port, size); err != nil {
				t.Errorf("listener %d, %d bytes: %v", i, size, err)
			}
		}
	}
	var many sync.WaitGroup
	for i := range 100 {
		many.Go(func() {
			if err := exchange(ports[i%2], 1000); err != nil {
				t.Error(err)
			}
		})
	}
	many.Wait()
	// No thread was left behind in the pod.
	inside, err := ns.Stat()
	if err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, path := range threads {
		if st, err := os.Stat(path); err == nil && os.SameFile(st, inside) {
			t.Errorf("%s is the pod's", path)
		}
	}
	// Nobody listens on 127.0.0.1:1 or [::1]:1 of the pod.
	_, err = r.Dial(t.Context(), target, 1)
	if want := "IPv4: connect: connection refused; IPv6: connect: connection refused"; err == nil || err.Error() != want {
		t.Errorf("a port on which nobody listens: %v; want %s", err, want)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if c, err := r.Dial(ctx, target, ports[0]); err == nil {
		c.Close()
		t.Error("connected although nobody waits any more")
	}
}

func TestDialReachesAListenerOfTheHostForAPodOnItsNetwork(t *testing.T) {
	kerneltest.Root(t)
	r := newRuntime(t)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "host", UID: types.UID(uuid.NewUUID())},
		Spec:       v1.PodSpec{HostNetwork: true, Containers: []v1.Container{{Name: "app", Image: "docker.io/library/busybox:1.36"}}},
	}
	target, perform := bringUp(t, r, p)
	c, err := r.Dial(t.Context(), target, listenIn(t, networkOf(t, r, p.UID), "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if got, _ := io.ReadAll(c); string(got) != "!" {
		t.Errorf("got %q", got)
	}
	c.Close()
	perform(pod.DestroySandbox{})
	if _, err := r.Dial(t.Context(), target, 80); err == nil || !strings.Contains(err.Error(), "no live sandbox") {
		t.Errorf("a pod without a sandbox: %v", err)
	}
}
