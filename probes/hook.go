package probes

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// HookUserAgent is what the requests of lifecycle hooks call themselves.
const HookUserAgent = "kube-lifecycle/1.36"

// Hook sends the request of a lifecycle hook, which is built like a probe's.
// Any answer will do, whatever its status; only a request that gets none is an
// error. A request over TLS that is answered in plain HTTP is sent again in plain
// HTTP, without its Authorization header, and fellBack says that this helped.
// There is no time limit but ctx's.
// Source: kubelet, pkg/kubelet/lifecycle/handlers.go.
func Hook(ctx context.Context, get HTTPGet, dial Dial) (fellBack bool, err error) {
	req, err := newRequest(get, HookUserAgent)
	if err != nil {
		return false, err
	}
	client := newClient(dial)
	err = send(ctx, client, req)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return false, err
	}
	req.URL.Scheme = "http"
	req.Header.Del("Authorization")
	if again := send(ctx, client, req); again != nil {
		return false, again
	}
	return true, nil
}

// send sends a copy of a request and reads a little of the answer, so that a
// server that is still writing is not cut off.
func send(ctx context.Context, client *http.Client, req *http.Request) error {
	res, err := client.Do(req.Clone(ctx))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.CopyN(io.Discard, res.Body, maxOutput)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
