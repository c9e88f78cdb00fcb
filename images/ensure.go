package images

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reasons why an image is not there, as a container's status shows them.
// Source: kubelet, pkg/kubelet/images/types.go.
const (
	ReasonPull             = "ErrImagePull"
	ReasonNeverPull        = "ErrImageNeverPull"
	ReasonInvalidName      = "InvalidImageName"
	ReasonRegistryNotThere = "RegistryUnavailable"
)

// EnsureError says why an image is not there.
type EnsureError struct {
	Reason string // one of the Reason constants
	// Message is the text of the event, in the kubelet's words: `Failed to pull
	// image "x": …`. The event's reason is Failed, but InspectFailed for
	// InvalidImageName and ErrImageNeverPull for ErrImageNeverPull.
	Message string
	Err     error // the cause; nil for ErrImageNeverPull
}

func (e *EnsureError) Error() string {
	if e.Err == nil || e.Reason == ReasonInvalidName || e.Reason == ReasonRegistryNotThere {
		return e.Message
	}
	return e.Err.Error()
}

func (e *EnsureError) Unwrap() error { return e.Err }

// Request is what [Store.Ensure] is asked for.
type Request struct {
	Ref    string // as the manifest names it
	Policy string // Always, IfNotPresent or Never; empty means IfNotPresent

	// Volume says that the image is to be mounted and not to be run: an OCI artifact
	// will do.
	Volume bool

	// DockerConfigs are the contents of the pod's pull secrets (.dockerconfigjson
	// or .dockercfg), asked for credentials before [Config].AuthFiles.
	DockerConfigs [][]byte

	// Pulling is called when a pull is about to begin, for the event "Pulling";
	// not if the image is present, nor if the pull is refused before it begins.
	Pulling func()

	// Progress is called from other goroutines, a few times a second.
	Progress func(Progress)
}

// Result is an image that is there.
type Result struct {
	Image    *Image
	Pulled   bool          // false if it was present already
	Took     time.Duration // the pull itself
	Waited   time.Duration // Took and the time until the pull's turn
	Size     int64         // bytes, compressed
	ImageRef string        // as a status shows it: the familiar name with tag, or the name@digest asked for
	ImageID  string        // familiar name@digest if pulled, the config's digest if loaded
}

// Message is the text of the event Pulled for the image called ref, in the
// kubelet's words.
func (r Result) Message(ref string) string {
	if !r.Pulled {
		return fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", ref)
	}
	return fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		ref, r.Took.Truncate(time.Millisecond), r.Waited.Truncate(time.Millisecond), r.Size)
}

// Ensure makes an image available by the rules of its pull policy, and notes it
// as used at now. A pull has no deadline but ctx's, and the same image is pulled
// once however many callers ask for it at a time. Every error but ctx's is an
// *[EnsureError].
// Source: kubelet, pkg/kubelet/images/image_manager.go.
func (s *Store) Ensure(ctx context.Context, req Request, now time.Time) (Result, error) {
	r, err := parseReference(req.Ref)
	if err != nil {
		return Result{}, &EnsureError{
			Reason:  ReasonInvalidName,
			Message: fmt.Sprintf("Failed to apply default image tag %q: %v", req.Ref, err),
			Err:     err,
		}
	}
	present, err := s.Find(r.String())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Result{}, pullFailed(req.Ref, err)
	}
	if present != nil && req.Policy != "Always" {
		if err := present.usable(req); err != nil {
			return Result{}, err
		}
		s.touch(present.ID, now)
		present.LastUsed = now
		return present.result(r), nil
	}
	if req.Policy == "Never" {
		return Result{}, &EnsureError{
			Reason:  ReasonNeverPull,
			Message: fmt.Sprintf("Container image %q is not present with pull policy of Never", req.Ref),
		}
	}
	img, took, waited, err := s.pull(ctx, r, PullOptions{DockerConfigs: req.DockerConfigs, Progress: req.Progress}, req.Ref, req.Pulling)
	if err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if present != nil {
			err = fmt.Errorf("%w (the image is present on this machine, but imagePullPolicy Always asks the registry each time)", err)
		}
		return Result{}, pullFailed(req.Ref, err)
	}
	if err := img.usable(req); err != nil {
		return Result{}, err
	}
	s.touch(img.ID, now)
	img.LastUsed = now
	result := img.result(r)
	result.Pulled, result.Took, result.Waited = true, took, waited
	return result, nil
}

// usable refuses an artifact for a container.
func (img *Image) usable(req Request) error {
	if img.Artifact == "" || req.Volume {
		return nil
	}
	return pullFailed(req.Ref, fmt.Errorf("it is no container image but an OCI artifact of type %s; only a volume can be made of it", quoted(img.Artifact)))
}

func pullFailed(ref string, err error) *EnsureError {
	var unreachable *unreachableError
	if errors.As(err, &unreachable) {
		return &EnsureError{
			Reason:  ReasonRegistryNotThere,
			Message: fmt.Sprintf("image pull failed for %s because the registry is unavailable: %v", ref, err),
			Err:     err,
		}
	}
	return &EnsureError{Reason: ReasonPull, Message: fmt.Sprintf("Failed to pull image %q: %v", ref, err), Err: err}
}

func (img *Image) result(r reference) Result {
	res := Result{Image: img, Size: img.Size, ImageRef: r.familiar(), ImageID: img.ID}
	if digest := img.repoDigest(r); digest != "" {
		res.ImageID = digest
	}
	return res
}

// repoDigest is the image's name@digest with the repository of r, else any.
func (img *Image) repoDigest(r reference) string {
	for _, d := range img.RepoDigests {
		if p, err := parseReference(d); err == nil && p.name() == r.name() && (r.digest == "" || p.digest == r.digest) {
			return d
		}
	}
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return ""
}
