package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"podd/api/auth"
)

// exchange sends a request as it is over HTTP/1.1 and returns the status; 0 where the
// server has hung up.
func exchange(c net.Conn, request string) int {
	go io.WriteString(c, request) // the server may answer before it has read all
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

// hangsUp reports whether the server ends a connection that says no more.
func hangsUp(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	late, timedOut := err.(net.Error)
	return !timedOut || !late.Timeout()
}

// What hostile clients do to the wired server, and that root is served meanwhile;
// docs/security.md has the table. What the package rest bounds by itself is tested
// there.
func TestHostileClientsOfTheAPI(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	pki := s.pki()
	root := s.kubeRoot()
	rootClient := root.client()
	served := func(t *testing.T) {
		t.Helper()
		began := time.Now()
		if status, text := root.do(root.client(), "GET", "/api/v1/namespaces/default/pods", nil); status != 200 {
			t.Errorf("root is answered %d: %s", status, text)
		}
		t.Logf("root is served after %v", time.Since(began).Round(time.Millisecond))
	}
	s.drop("web", `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: busybox:1.36, command: [sleep, "1000"]}]
`)

	// These take as long as the server waits; the rest goes on meanwhile.
	var slow sync.WaitGroup
	defer slow.Wait()
	silent, err := s.dialHost(kubeAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	headers := root.dial(kubeAddress)
	io.WriteString(headers, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	for what, c := range map[string]net.Conn{"no handshake": silent, "headers that never end": headers} {
		slow.Go(func() {
			if !hangsUp(c) {
				t.Errorf("%s: the server keeps the connection", what)
			}
		})
	}

	t.Run("certificates", func(t *testing.T) {
		other, err := auth.Open(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for who, u := range map[string]*kubeUser{
			"nobody":                 s.kubeUser(nil, "", auth.None, 0),
			"another authority's":    s.kubeUser(other, "root", auth.Admin, time.Hour),
			"an expired certificate": s.kubeUser(pki, "root", auth.Admin, -time.Minute),
		} {
			for _, at := range []string{kubeAddress, kubeletAddress} {
				if status, text := u.doAt(u.client(), at, "GET", "/pods", nil); status != 401 {
					t.Errorf("%s at %s is answered %d: %s", who, at, status, text)
				}
			}
		}
		plain, err := s.dialHost(kubeAddress)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if status := exchange(plain, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n"); status != 400 {
			t.Errorf("without TLS: %d", status)
		}
	})

	t.Run("sizes", func(t *testing.T) {
		if status := exchange(root.dial(kubeAddress), "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("x", 200<<10)+"\r\n\r\n"); status != 431 {
			t.Errorf("headers of 200 KB: %d", status)
		}
		body := bytes.Repeat([]byte(" "), 4<<20)
		if status, text := root.do(rootClient, "POST", "/api/v1/namespaces/default/configmaps", bytes.NewReader(body)); status != 413 {
			t.Errorf("a body of 4 MB: %d %s", status, text)
		}
	})

	t.Run("paths", func(t *testing.T) {
		viewer := s.kubeUser(pki, "viewer", auth.View, time.Hour)
		for _, path := range []string{
			"/api/v1/namespaces/default/pods/../secrets", "/api/v1/namespaces/default/pods/..%2fsecrets", "/api/v1/namespaces/default/pods/%2e%2e/secrets",
			"//api/v1/secrets", "/api/v1/./secrets", "/api/v1/secrets/", "/api/v1/namespaces/default%2fsecrets", "/api/v1/watch/secrets", "/API/V1/secrets",
			"/openapi/../api/v1/secrets", "/livez/../api/v1/secrets", "/livez/%2e%2e/%2e%2e/api/v1/secrets", "/api/v1/pods?/../secrets",
		} {
			c := viewer.dial(kubeAddress)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
			answer, _ := io.ReadAll(c)
			if bytes.Contains(answer, []byte("SecretList")) || len(answer) == 0 {
				t.Errorf("%s: %.300s", path, answer)
			}
		}
		for _, path := range []string{"/logs/../../etc/passwd", "/logs/%2e%2e/%2e%2e/etc/passwd", "/logs/..%2f..%2fetc%2fpasswd", "/logs//etc/passwd"} {
			c := root.dial(kubeletAddress)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
			if answer, _ := io.ReadAll(c); bytes.Contains(answer, []byte("root:")) || len(answer) == 0 {
				t.Errorf("%s: %.300s", path, answer)
			}
		}
	})

	t.Run("10000 watches", func(t *testing.T) {
		u := s.kubeUser(pki, "watcher", auth.View, time.Hour)
		var mu sync.Mutex
		statuses := map[int]int{}
		var all sync.WaitGroup
		for range 40 {
			c := u.client()
			all.Go(func() {
				for range 250 {
					r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+kubeAddress+"/api/v1/configmaps?watch=1", nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := c.Do(r) // its body is never read
					if err != nil {
						t.Error(err)
						return
					}
					if resp.StatusCode != 200 {
						resp.Body.Close()
					}
					mu.Lock()
					statuses[resp.StatusCode]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if statuses[200] != 250 || statuses[429] != 9750 {
			t.Errorf("answers to 10,000 watches: %v", statuses)
		}
		served(t)
	})

	t.Run("2000 silent connections", func(t *testing.T) {
		for range 2000 {
			c, err := s.dialHost(kubeAddress)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		served(t)
	})

	t.Run("300 port-forwards", func(t *testing.T) {
		s.eventually("the pod runs", func() bool { return s.pods()["web"].Status.Phase == "Running" })
		u := s.kubeUser(pki, "forwarder", auth.Edit, time.Hour)
		statuses := map[int]int{}
		for range 300 {
			c := u.dial(kubeAddress)
			statuses[exchange(c, "POST /api/v1/namespaces/default/pods/web/portforward HTTP/1.1\r\nHost: x\r\n"+
				"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n")]++
		}
		if statuses[101] != 256 || statuses[429] != 44 {
			t.Errorf("answers to 300 port-forwards: %v", statuses)
		}
		served(t)
	})
}

// The API is on the host's loopback: a pod reaches it at no address, but with
// hostNetwork, where it needs a certificate as everybody does. That packets for
// 127.0.0.1 do not leave a pod for the host is tested in sandbox/network.
func TestAPodDoesNotReachTheAPI(t *testing.T) {
	t.Parallel()
	s := tell(t, []string{busyboxImage(t)})
	for name, field := range map[string]string{"inside": "", "host": "hostNetwork: true"} {
		s.drop(name, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: busybox:1.36, command: [sleep, "1000"]}]
`, name, field))
		s.untilReady(name)
	}
	for _, port := range []string{"6443", "10250"} {
		const ask = "nc -w 3 %s %s </dev/null >/dev/null 2>&1 && echo open || echo closed"
		gateway := strings.TrimSpace(s.sh("inside", "app", "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'"))
		for _, address := range []string{"127.0.0.1", gateway, "192.0.2.10"} {
			if got := strings.TrimSpace(s.sh("inside", "app", fmt.Sprintf(ask, address, port))); got != "closed" {
				t.Errorf("port %s of %s is %s from a pod", port, address, got)
			}
		}
		if got := strings.TrimSpace(s.sh("host", "app", fmt.Sprintf(ask, "127.0.0.1", port))); got != "open" {
			t.Errorf("port %s is %s from a pod with hostNetwork: this test asks the wrong way", port, got)
		}
	}
}
