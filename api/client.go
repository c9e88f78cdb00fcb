package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"podd/pod"
)

// SocketName is the control socket's name in the run directory.
const SocketName = "podd.sock"

// ErrNoAgent is returned, wrapped, when nobody listens on the socket.
var ErrNoAgent = errors.New("no agent is running there")

// maxStatus bounds an error that is read, in bytes.
const maxStatus = 64 << 10

// Client talks to an agent over its control socket.
type Client struct {
	runDir string
	http   *http.Client
}

// NewClient returns a client for the agent of a run directory. It connects
// when it is used.
func NewClient(runDir string) *Client {
	c := &Client{runDir: runDir}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, DisableCompression: true}}
	return c
}

// dial goes through the directory's descriptor: a socket path has 107 bytes.
func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	dir, err := os.Open(c.runDir)
	if err != nil {
		return nil, c.noAgent(err)
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketName))
	if err != nil {
		return nil, c.noAgent(err)
	}
	return conn, nil
}

func (c *Client) noAgent(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("cannot reach the agent in %s: permission denied; only root may", c.runDir)
	}
	return fmt.Errorf("cannot reach the agent at %s: %w (start one with: podd run)", filepath.Join(c.runDir, SocketName), ErrNoAgent)
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	return c.send(ctx, method, path, q, nil)
}

// send is do with something in the request.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "podd", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", string(types.StrategicMergePatchType))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, responseError(resp)
	}
	return resp, nil
}

// responseError makes an error of an answer that is a Kubernetes Status.
func responseError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return err
	}
	var status metav1.Status
	if json.Unmarshal(data, &status) == nil && status.Message != "" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("the agent answered %s: %s", resp.Status, strings.TrimSpace(string(data)))
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	resp, err := c.do(ctx, http.MethodGet, path, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// Pods returns all pods.
func (c *Client) Pods(ctx context.Context) (*v1.PodList, error) {
	var list v1.PodList
	return &list, c.get(ctx, "/api/v1/pods", nil, &list)
}

// Get reads what the Kubernetes API has at a path.
func (c *Client) Get(ctx context.Context, path string, into any) error {
	return c.get(ctx, path, nil, into)
}

// Watch calls observe for each change after the given resource version, until
// ctx ends or the agent does.
func (c *Client) Watch(ctx context.Context, resourceVersion string, observe func(watch.EventType, *v1.Pod)) error {
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/pods", url.Values{"watch": {"true"}, "resourceVersion": {resourceVersion}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := dec.Decode(&event); err != nil {
			return err
		}
		if event.Type == watch.Error {
			var status metav1.Status
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return err
			}
			return &apierrors.StatusError{ErrStatus: status}
		}
		p := &v1.Pod{}
		if err := json.Unmarshal(event.Object, p); err != nil {
			return err
		}
		observe(event.Type, p)
	}
}

// podPath is where the API has a pod, or something of it.
func podPath(key pod.Key, subresource string) string {
	path := "/api/v1/namespaces/" + key.Namespace + "/pods/" + key.Name
	if subresource != "" {
		path += "/" + subresource
	}
	return path
}

// Events returns the events about a pod, the oldest first.
func (c *Client) Events(ctx context.Context, key pod.Key) ([]v1.Event, error) {
	var list v1.EventList
	q := url.Values{"fieldSelector": {"involvedObject.kind=Pod,involvedObject.name=" + key.Name}}
	err := c.get(ctx, "/api/v1/namespaces/"+key.Namespace+"/events", q, &list)
	// What happened in one second is in the order in which the store heard of it.
	slices.SortStableFunc(list.Items, func(a, b v1.Event) int {
		return cmp.Or(a.LastTimestamp.Time.Compare(b.LastTimestamp.Time), cmp.Compare(len(a.ResourceVersion), len(b.ResourceVersion)),
			cmp.Compare(a.ResourceVersion, b.ResourceVersion))
	})
	return list.Items, err
}

// Problems returns the lines about manifests that are not as they should be.
func (c *Client) Problems(ctx context.Context) ([]string, error) {
	var lines []string
	return lines, c.get(ctx, "/podd/problems", nil, &lines)
}

// Claims lists the PersistentVolumeClaims.
func (c *Client) Claims(ctx context.Context) ([]*v1.PersistentVolumeClaim, error) {
	var list []*v1.PersistentVolumeClaim
	return list, c.get(ctx, "/podd/persistentvolumeclaims", nil, &list)
}

// Volumes lists the PersistentVolumes.
func (c *Client) Volumes(ctx context.Context) ([]*v1.PersistentVolume, error) {
	var list []*v1.PersistentVolume
	return list, c.get(ctx, "/podd/persistentvolumes", nil, &list)
}

// Why tells what a pod waits for and what befell it. With a container, only what
// concerns that one and the pod as a whole.
func (c *Client) Why(ctx context.Context, key pod.Key, container string) ([]pod.Chain, error) {
	var chains []pod.Chain
	return chains, c.get(ctx, "/podd/why/"+key.Namespace+"/"+key.Name, url.Values{"container": {container}}, &chains)
}

// Version returns the agent's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	resp, err := c.do(ctx, http.MethodGet, "/podd/version", nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	return strings.TrimSpace(string(data)), err
}

// Logs copies a container's log to w. q has the parameters of the
// API's log.
func (c *Client) Logs(ctx context.Context, key pod.Key, container string, q url.Values, w io.Writer) error {
	q = maps.Clone(q)
	q.Set("container", container)
	resp, err := c.do(ctx, http.MethodGet, podPath(key, "log"), q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Restart stops and starts a pod in place.
func (c *Client) Restart(ctx context.Context, key pod.Key) error {
	return c.post(ctx, "/podd/restart/"+key.Namespace+"/"+key.Name)
}

// Debug adds an ephemeral container to a pod. It returns before that is started.
func (c *Client) Debug(ctx context.Context, key pod.Key, add v1.EphemeralContainer) error {
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []v1.EphemeralContainer{add}}})
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPatch, podPath(key, "ephemeralcontainers"), nil, bytes.NewReader(data))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Diff asks what manifests would do, one outcome for each.
func (c *Client) Diff(ctx context.Context, all []pod.Desired) ([]pod.Outcome, error) {
	data, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, http.MethodPost, "/podd/diff", nil, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var outcomes []pod.Outcome
	if err := json.NewDecoder(resp.Body).Decode(&outcomes); err != nil {
		return nil, err
	}
	if len(outcomes) != len(all) {
		return nil, fmt.Errorf("the agent answered about %d of %d manifests", len(outcomes), len(all))
	}
	return outcomes, nil
}

// Down stops all pods and returns when they are stopped.
func (c *Client) Down(ctx context.Context) error { return c.post(ctx, "/podd/down") }

func (c *Client) post(ctx context.Context, path string) error {
	resp, err := c.do(ctx, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
