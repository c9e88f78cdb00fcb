package declared

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/objects"
	"podd/api/podlogs"
	"podd/api/rest"
	"podd/api/stream"
	"podd/pod"
)

// Reacher reaches into pods. [pod.Manager] is it.
type Reacher interface {
	Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (exitCode int, err error)
	Attach(ctx context.Context, key pod.Key, r pod.AttachRequest) error
	Dial(ctx context.Context, key pod.Key, port uint16) (net.Conn, error)
}

// Connect adds to the kind Pod what needs a connection into the pod: exec, attach,
// portforward and proxy.
func Connect(kind *rest.Kind, pods Reacher) {
	on := func(name string, serve func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error) {
		kind.Sub[name] = &rest.Subresource{Handler: func(w http.ResponseWriter, r *http.Request, o objects.Object) {
			p := asPod(o)
			err := placed(p)
			if err == nil {
				err = serve(w, r, p)
			}
			if err != nil {
				rest.Fail(r.Context(), err)
			}
		}}
	}
	on("exec", func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
		container, err := runningIn(p, r.URL.Query().Get("container"))
		command := r.URL.Query()["command"]
		if err == nil && len(command) == 0 {
			err = apierrors.NewBadRequest("you must specify at least one command for the container")
		}
		if err == nil {
			stream.Exec(w, r, stream.Command(pods.Exec, keyOf(p), pod.ExecRequest{Container: container, Command: command}))
		}
		return err
	})
	on("attach", func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
		container, err := runningIn(p, r.URL.Query().Get("container"))
		if err == nil {
			stream.Exec(w, r, stream.Process(pods.Attach, keyOf(p), container))
		}
		return err
	})
	on("portforward", func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
		stream.PortForward(w, r, func(ctx context.Context, port uint16) (net.Conn, error) { return pods.Dial(ctx, keyOf(p), port) })
		return nil
	})
	on("proxy", func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
		port, err := proxyPort(p, rest.RequestOf(r.Context()).Name)
		if err == nil {
			proxy(w, r, p, port, pods.Dial)
		}
		return err
	})
}

// placed refuses to connect to a pod that has no node yet.
func placed(p *v1.Pod) error {
	if p.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	}
	return nil
}

// connectTo is the container that a request means: the one it names, or the only one
// that is neither an init container nor was added, as in Kubernetes.
func connectTo(p *v1.Pod, container string) (string, error) {
	all := pod.ContainerNames(p)
	switch {
	case container == "" && len(p.Spec.Containers) == 1:
		return p.Spec.Containers[0].Name, nil
	case container == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(all, " ")))
	case !slices.Contains(all, container):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, p.Name))
	}
	return container, nil
}

// runningIn is [connectTo] for what needs a process in the container.
func runningIn(p *v1.Pod, container string) (string, error) {
	container, err := connectTo(p, container)
	if s := podlogs.StatusOf(p, container); err == nil && (s == nil || !pod.HasProcess(s)) {
		err = apierrors.NewBadRequest(fmt.Sprintf("container not found (%q): it does not run", container))
	}
	return container, err
}

// proxyPort is the port that the name of a proxy request gives: NAME, NAME:PORT or
// http:NAME:PORT, the port by number or by name. Without one it is the first of the
// pod's first container, else 80.
func proxyPort(p *v1.Pod, name string) (uint16, error) {
	parts := strings.Split(name, ":")
	if len(parts) == 3 && (parts[0] == "http" || parts[0] == "") {
		parts = parts[1:]
	}
	switch {
	case len(parts) > 2:
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q: expected NAME, NAME:PORT or http:NAME:PORT", name))
	case len(parts) == 1 || parts[1] == "":
		if ports := p.Spec.Containers[0].Ports; len(ports) > 0 {
			return uint16(ports[0].ContainerPort), nil
		}
		return 80, nil
	}
	for _, c := range p.Spec.Containers {
		for _, named := range c.Ports {
			if named.Name == parts[1] {
				return uint16(named.ContainerPort), nil
			}
		}
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil || port == 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q: no port %q", name, parts[1]))
	}
	return uint16(port), nil
}

// proxy passes a request on to a port of a pod.
func proxy(w http.ResponseWriter, r *http.Request, p *v1.Pod, port uint16, dial func(context.Context, pod.Key, uint16) (net.Conn, error)) {
	to := &url.URL{Scheme: "http", Host: net.JoinHostPort(p.Status.PodIP, strconv.Itoa(int(port)))}
	rest.Forward(w, r, to, "pod", &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, keyOf(p), port)
		},
	})
}
