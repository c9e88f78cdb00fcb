package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"podd/api/auth"
)

const kubeAddress = "127.0.0.1:6443" // of the Kubernetes API, in the agent's network namespace

// kubeWatches are what clients such as k9s keep open.
var kubeWatches = []string{
	"/api/v1/pods", "/api/v1/namespaces/default/pods", "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/events",
	"/api/v1/configmaps", "/api/v1/secrets", "/api/v1/services", "/api/v1/serviceaccounts", "/apis/coordination.k8s.io/v1/leases",
}

const (
	asJSON  = "application/json"
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
)

// kubeClient is an administrator with one TLS connection of its own.
func (w *world) kubeClient() (*http.Client, error) {
	pki, err := auth.Open(filepath.Join(w.dir, "root/pki"), nil)
	if err != nil {
		return nil, err
	}
	cert, key, err := pki.Issue("bench", auth.Admin, time.Hour)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(pki.Certificate())
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, MaxConnsPerHost: 1,
		TLSClientConfig: &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{pair}},
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			inErr := w.inHost(func() error {
				conn, err = net.DialTimeout("tcp", kubeAddress, 5*time.Second)
				return nil
			})
			return conn, errors.Join(inErr, err)
		},
	}}, nil
}

// ask sends a GET; the caller closes the body.
func ask(ctx context.Context, c *http.Client, path, accept string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", "https://"+kubeAddress+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return resp.Body, nil
}

// kube measures what clients of the Kubernetes API cost the agent, while it has 50
// pods and 20 clients that watch, each over a connection of its own.
func (b *bench) kube(ctx context.Context) error {
	const pods, watches = 50, 20
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watches
	b.endAgent(unix.SIGTERM)
	if err := b.running(ctx); err != nil { // one that has done nothing else
		return err
	}
	all, started := names("kube-", pods)
	texts := map[string]string{}
	for _, n := range all {
		texts[n] = b.pod(n, idle(n), "")
	}
	for i := range watches {
		c, err := b.kubeClient()
		if err != nil {
			return err
		}
		defer c.CloseIdleConnections()
		accept := asJSON
		if i >= len(kubeWatches) {
			accept = asTable
		}
		path := kubeWatches[i%len(kubeWatches)]
		// As clients do: a list, then its changes.
		body, err := ask(ctx, c, path, accept)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, body)
		body.Close()
		if body, err = ask(ctx, c, path+"?watch=1&allowWatchBookmarks=true", accept); err != nil {
			return err
		}
		defer body.Close()
		go io.Copy(io.Discard, body) // ends with ctx
	}
	if _, err := b.drop(texts); err != nil {
		return err
	}
	if _, err := b.awaitAll(ctx, started); err != nil {
		return err
	}

	window := time.Duration(b.runs(60, 10)) * time.Second
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	if err := b.idle(ctx, "50 idle pods and 20 watches", window); err != nil {
		return err
	}
	if err := b.agentMemory("agent's memory with 50 pods and 20 watches", 35); err != nil {
		return err
	}

	c, err := b.kubeClient()
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	gets := b.runs(2000, 500)
	each, err := b.perGet(ctx, c, "/api/v1/namespaces/default/pods/"+all[0], `"phase":"Running"`, gets)
	if err != nil {
		return err
	}
	floor, err := b.perGet(ctx, c, "/version", "gitVersion", gets)
	if err != nil {
		return err
	}
	b.add(Figure{What: "GET of a pod over TLS, in the agent", Unit: "CPU-ms", Runs: gets, Median: inMS(each), Floor: number(inMS(floor)),
		Budget: number(0.2), Note: "mean; HTTP/2, one connection; floor: GET /version"})
	// What requests needed is given back a minute after.
	if err := pause(ctx, 70*time.Second); err != nil {
		return err
	}
	if err := b.agentMemory(fmt.Sprintf("agent's memory after %d requests", 2*gets), 35); err != nil {
		return err
	}
	return b.clear(ctx)
}

// perGet is the processor time that the agent takes for one of n GETs, whose answers
// must have a text in them.
func (b *bench) perGet(ctx context.Context, c *http.Client, path, want string, n int) (time.Duration, error) {
	get := func() error {
		body, err := ask(ctx, c, path, asJSON)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(body)
		body.Close()
		if err == nil && !strings.Contains(string(text), want) {
			err = fmt.Errorf("%s: unexpected answer %s", path, text)
		}
		return err
	}
	for range 50 { // what is made at the first request, and the handshake
		if err := get(); err != nil {
			return 0, err
		}
	}
	before, err := processClock(b.agent.Process.Pid)
	if err != nil {
		return 0, err
	}
	for range n {
		if err := get(); err != nil {
			return 0, err
		}
	}
	after, err := processClock(b.agent.Process.Pid)
	return (after - before) / time.Duration(n), err
}
