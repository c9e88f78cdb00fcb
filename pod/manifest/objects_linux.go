package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"podd/pod"
)

// ParseObject reads a file in which the API keeps one object. It differs from
// [Parse] in what belongs to such objects: their metadata hold as they are written,
// a pod may have ephemeral containers, a runtime class, its overhead and scheduling
// gates, and spec.nodeName says that it has its place. Origins say API.
func ParseObject(file string, data []byte) Result {
	p := parser{file: file, api: true, opener: sealedObject}
	r := p.parse(data)
	if len(r.Desired)+len(r.Sources) == 0 {
		return r
	}
	var given struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			NodeName string `json:"nodeName"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &given); err != nil || len(r.Objects) > 1 {
		if err == nil {
			err = errors.New("expected one object")
		}
		return Result{Problems: []Problem{{File: file, Message: printable(err.Error())}}, Unknown: 1}
	}
	meta := given.Metadata
	if meta.Namespace == "" {
		meta.Namespace = r.Objects[0].Key.Namespace
	}
	meta.ResourceVersion = ""
	for i := range r.Desired {
		d := &r.Desired[i]
		d.Pod.ObjectMeta, d.Pod.Spec.NodeName, d.Origin.API = meta, given.Spec.NodeName, true
	}
	for i := range r.Sources {
		s := &r.Sources[i]
		s.Origin.API = true
		switch {
		case s.ConfigMap != nil:
			s.ConfigMap.ObjectMeta = meta
		case s.Secret != nil:
			s.Secret.ObjectMeta = meta
		case s.Claim != nil:
			s.Claim.ObjectMeta = meta
		case s.Volume != nil:
			s.Volume.ObjectMeta = meta
		}
	}
	return r
}

// sealedObject opens no Secret of the API: what is in one is the API's to show.
func sealedObject([]byte) ([]byte, error) {
	return nil, errors.New("only Secrets in files of the manifest directory may be sealed")
}

// apiOnly are fields that a pod made through the API may have and no manifest.
var apiOnly = &Field{Support: Honoured}

// apiFieldAt is [fieldAt] for objects of the API.
func apiFieldAt(path string) *Field {
	if rest, in := strings.CutPrefix(path, "spec.ephemeralContainers"); in {
		if rest == "" || rest == "[]" || rest == "[].targetContainerName" {
			return apiOnly
		}
		return fieldAt("spec.containers" + rest)
	}
	for _, field := range []string{"spec.nodeName", "spec.overhead", "spec.runtimeClassName", "spec.schedulingGates"} {
		if strings.HasPrefix(path, field) {
			return apiOnly
		}
	}
	return fieldAt(path)
}

// objectFiles are the objects that are made through the API, one a file. Nobody but
// the agent writes them, so they are read once; from then on they are handed over.
type objectFiles struct {
	dir   string // empty: there are none
	now   func() time.Time
	files map[string]*file // by path
	// removed are those that the API has withdrawn.
	removed map[pod.SourceID]bool
	// strays are pods known from before whose files cannot be looked for.
	strays  []loaded
	trouble string // why they cannot
}

// newObjectFiles reads a directory: a directory for each resource, with one for each
// namespace in it, with one file for each object. What of known is not there is gone,
// unless that cannot be told.
func newObjectFiles(dir string, known []pod.Desired, now func() time.Time) *objectFiles {
	o := &objectFiles{dir: dir, now: now, files: map[string]*file{}, removed: map[pod.SourceID]bool{}}
	loadedFrom := map[string]loaded{}
	for _, k := range known {
		if k.Origin.API && k.Pod != nil && !k.Gone {
			loadedFrom[k.Origin.File] = loaded{desired: k, kept: true}
		}
	}
	if dir == "" {
		return o
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == dir && !e.IsDir():
			return &fs.PathError{Op: "read", Path: dir, Err: syscall.ENOTDIR}
		case e.IsDir() || !IsManifest(e.Name()) || !isHandedOver(dir, path):
			return nil
		}
		f := &file{good: map[pod.Key]loaded{}, sources: map[pod.SourceID]loadedSource{}}
		if l, known := loadedFrom[path]; known {
			f.good[l.desired.Key] = l
			delete(loadedFrom, path)
		}
		o.files[path] = f
		data, _, err := read(path)
		if err != nil {
			f.trouble = err.Error()
			return nil
		}
		f.takeObject(ParseObject(path, data), now())
		return nil
	})
	if err != nil {
		for _, l := range loadedFrom {
			o.strays = append(o.strays, l)
		}
		if !errors.Is(err, fs.ErrNotExist) || len(o.strays) > 0 {
			o.trouble = "cannot be read: " + reason(err).Error()
		}
	}
	return o
}

// ObjectDirs are the directories, of those with objects of the API, whose objects
// pods are made of: the others are not read here.
var ObjectDirs = []string{"pods", "configmaps", "secrets", "persistentvolumeclaims", "persistentvolumes"}

func isHandedOver(dir, path string) bool {
	inside, err := filepath.Rel(dir, path)
	resource, _, _ := strings.Cut(inside, string(os.PathSeparator))
	return err == nil && slices.Contains(ObjectDirs, resource)
}

// takeObject is [file.take] for an object of the API. What has no effect was said to
// whoever made it.
func (f *file) takeObject(r Result, now time.Time) {
	r.Problems = slices.DeleteFunc(r.Problems, func(p Problem) bool { return p.Warning })
	f.trouble = ""
	f.take(r, 0o600, now)
}

// handed is an object that the API hands over.
type handed struct {
	file   string
	result *Result // nil: it is gone
	done   chan struct{}
}

// take takes over what is handed over.
func (o *objectFiles) take(h handed) {
	if h.result == nil {
		if f := o.files[h.file]; f != nil {
			for id := range f.sources {
				o.removed[id] = true
			}
		}
		delete(o.files, h.file)
		o.strays = slices.DeleteFunc(o.strays, func(l loaded) bool { return l.desired.Origin.File == h.file })
		return
	}
	f := o.files[h.file]
	if f == nil {
		f = &file{good: map[pod.Key]loaded{}, sources: map[pod.SourceID]loadedSource{}}
		o.files[h.file] = f
	}
	f.takeObject(*h.result, o.now())
	for id := range f.sources {
		delete(o.removed, id)
	}
}

// wanted lists the pods that have their place, and all other objects.
func (o *objectFiles) wanted() (pods []loaded, sources []loadedSource) {
	pods = slices.Clone(o.strays)
	for _, f := range o.files {
		for _, l := range f.good {
			if l.desired.Pod.Spec.NodeName != "" {
				pods = append(pods, l)
			}
		}
		for _, l := range f.sources {
			sources = append(sources, l)
		}
	}
	return pods, sources
}

// Declare hands over an object that the API has written to a file of Config.Objects:
// what [ParseObject] says of it. It returns once the object is in force; what runs
// follows. It needs Run, and returns ctx's error when ctx ends first.
func (w *Watcher) Declare(ctx context.Context, file string, r Result) error {
	return w.hand(ctx, handed{file: file, result: &r})
}

// Withdraw says that a file of Config.Objects is gone. It returns as Declare does.
func (w *Watcher) Withdraw(ctx context.Context, file string) error {
	return w.hand(ctx, handed{file: file})
}

func (w *Watcher) hand(ctx context.Context, h handed) error {
	h.done = make(chan struct{})
	select {
	case w.handed <- h:
		<-h.done
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot hand over %s: %w", filepath.Base(h.file), ctx.Err())
	}
}

// fromFiles leaves out what the API keeps.
func fromFiles(sources []pod.Source) []pod.Source {
	return slices.DeleteFunc(slices.Clone(sources), func(s pod.Source) bool { return s.Origin.API })
}
