package declared

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/objects"
	"podd/api/podlogs"
	"podd/api/rest"
	"podd/api/stream"
	"podd/pod"
)

// Connector leads into pods. [pod.Manager] is it.
type Connector interface {
	Exec(ctx context.Context, key pod.Key, r pod.ExecRequest) (exitCode int, err error)
	Attach(ctx context.Context, key pod.Key, r pod.AttachRequest) error
	Dial(ctx context.Context, key pod.Key, port uint16) (net.Conn, error)
}

// connections are the subresources that lead into a pod, and its logs.
func connections(to Connector, logs podlogs.Config) map[string]*rest.Subresource {
	handle := func(serve func(http.ResponseWriter, *http.Request, *v1.Pod) error) *rest.Subresource {
		return &rest.Subresource{Handler: func(w http.ResponseWriter, r *http.Request, o objects.Object) {
			if err := serve(w, r, asPod(o)); err != nil {
				rest.Fail(r.Context(), err)
			}
		}}
	}
	return map[string]*rest.Subresource{
		"log": handle(func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
			container, err := chosen(r, p)
			if err != nil {
				return err
			}
			read, err := logs.Open(p, container, r.URL.Query())
			if err != nil {
				return apierrors.NewBadRequest(err.Error())
			}
			stream.Log(w, r, read)
			return nil
		}),
		"exec": handle(func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
			container, err := running(r, p)
			command := r.URL.Query()["command"]
			switch {
			case err != nil:
				return err
			case len(command) == 0:
				return apierrors.NewBadRequest("you must specify at least one command for the container")
			}
			stream.Exec(w, r, stream.Command(to.Exec, keyOf(p), pod.ExecRequest{Container: container, Command: command}))
			return nil
		}),
		"attach": handle(func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
			container, err := running(r, p)
			if err != nil {
				return err
			}
			stream.Exec(w, r, stream.Process(to.Attach, keyOf(p), container))
			return nil
		}),
		"portforward": handle(func(w http.ResponseWriter, r *http.Request, p *v1.Pod) error {
			stream.PortForward(w, r, func(ctx context.Context, port uint16) (net.Conn, error) { return to.Dial(ctx, keyOf(p), port) })
			return nil
		}),
	}
}

// chosen is the container that a request names, or the only one.
func chosen(r *http.Request, p *v1.Pod) (string, error) {
	all := containerNames(p)
	switch name := r.URL.Query().Get("container"); {
	case name == "" && len(all) == 1:
		return all[0], nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(all, " ")))
	case !slices.Contains(all, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
	default:
		return name, nil
	}
}

// running is the container that a request names, if it has a process.
func running(r *http.Request, p *v1.Pod) (string, error) {
	name, err := chosen(r, p)
	if err != nil {
		return "", err
	}
	if status := podlogs.StatusOf(p, name); status == nil || !pod.HasProcess(status) {
		return "", &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
			Message: fmt.Sprintf("container not found (%q)", name),
		}}
	}
	return name, nil
}

func containerNames(p *v1.Pod) []string {
	var all []string
	for _, c := range p.Spec.Containers {
		all = append(all, c.Name)
	}
	for _, c := range p.Spec.InitContainers {
		all = append(all, c.Name)
	}
	for _, c := range p.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	return all
}
