package declared

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"podd/api/objects"
	"podd/internal/atomicfile"
)

// KeptKind is a kind whose objects are kept as files.
type KeptKind struct {
	Resource schema.GroupResource
	Kind     schema.GroupVersionKind
	New      func() objects.Object
}

// Files keeps objects as YAML, one a file:
//
//	<dir>/<resource>[.<group>]/[<namespace>/]<name>.yaml
//
// Only root reads them. An object's name that is too long for a file's is cut, with a
// sum in place of the rest.
type Files struct {
	dir   string
	kinds []KeptKind
}

// OpenFiles keeps the objects of these kinds in a directory, which need not exist.
// Objects of other kinds are not kept.
func OpenFiles(dir string, kinds []KeptKind) *Files { return &Files{dir: dir, kinds: kinds} }

// kindOf finds an object's kind by its Go type.
func (f *Files) kindOf(o objects.Object) (KeptKind, bool) {
	for _, k := range f.kinds {
		if reflect.TypeOf(k.New()) == reflect.TypeOf(o) {
			return k, true
		}
	}
	return KeptKind{}, false
}

// Path is the file of an object; kept is false for an object that is not kept.
func (f *Files) Path(o objects.Object) (path string, kept bool) {
	k, kept := f.kindOf(o)
	if !kept {
		return "", false
	}
	return f.path(objects.Key{Resource: k.Resource, Namespace: o.GetNamespace(), Name: o.GetName()}), true
}

func (f *Files) path(k objects.Key) string {
	return filepath.Join(f.dir, k.Resource.String(), k.Namespace, fileName(k.Name))
}

// longestName leaves room for the ending and for the name of a temporary file.
const longestName = 200

func fileName(name string) string {
	if len(name) > longestName {
		sum := sha256.Sum256([]byte(name))
		name = name[:longestName-33] + "~" + hex.EncodeToString(sum[:16])
	}
	return name + ".yaml"
}

// Text is an object as its file holds it.
func (f *Files) Text(o objects.Object) ([]byte, error) {
	k, kept := f.kindOf(o)
	if !kept {
		return nil, fmt.Errorf("objects such as %s are not kept", o.GetName())
	}
	o = o.DeepCopyObject().(objects.Object)
	o.GetObjectKind().SetGroupVersionKind(k.Kind)
	o.SetResourceVersion("") // the store gives it another one at each start
	text, err := yaml.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s %s as YAML: %w", k.Kind.Kind, nameOf(o), err)
	}
	return text, nil
}

func nameOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// Write keeps an object durably, in place of what its file held. It takes some
// milliseconds on a disk.
func (f *Files) Write(path string, text []byte) error {
	if !f.holds(path) {
		return fmt.Errorf("cannot keep an object in %s: that is not in %s", path, f.dir)
	}
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, text, 0o600)
}

// Remove forgets an object durably. One that was not kept is no error.
func (f *Files) Remove(path string) error {
	if !f.holds(path) {
		return fmt.Errorf("cannot remove %s: it is not in %s", path, f.dir)
	}
	return atomicfile.Remove(path)
}

// holds says that a path leads to a file of an object: names come from clients.
func (f *Files) holds(path string) bool {
	inside, err := filepath.Rel(f.dir, path)
	return err == nil && filepath.IsLocal(inside) && strings.Count(inside, string(os.PathSeparator)) >= 1
}

// Read reads one object; nil if it is not kept.
func (f *Files) Read(k objects.Key) (objects.Object, error) {
	for _, kind := range f.kinds {
		if kind.Resource != k.Resource {
			continue
		}
		o, err := f.read(f.path(k), kind)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return o, err
	}
	return nil, nil
}

// Load reads every object that is kept. The error joins one error for each that
// cannot be read; the others are returned.
func (f *Files) Load() (map[objects.Key]objects.Object, error) {
	all := map[objects.Key]objects.Object{}
	var failures []error
	for _, kind := range f.kinds {
		err := filepath.WalkDir(filepath.Join(f.dir, kind.Resource.String()), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".yaml" || strings.HasPrefix(e.Name(), ".") {
				return err
			}
			o, err := f.read(path, kind)
			if err != nil {
				failures = append(failures, err)
				return nil
			}
			all[objects.Key{Resource: kind.Resource, Namespace: o.GetNamespace(), Name: o.GetName()}] = o
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, fmt.Errorf("cannot read the objects of the API: %w", err))
		}
	}
	return all, errors.Join(failures...)
}

// read reads a file. What the error says of its content is nothing: it may be a Secret.
func (f *Files) read(path string, kind KeptKind) (objects.Object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	o := kind.New()
	data, err := yaml.YAMLToJSON(text)
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not a %s", path, kind.Kind.Kind)
	}
	if got := o.GetObjectKind().GroupVersionKind(); got != kind.Kind {
		return nil, fmt.Errorf("%s: expected a %s; found a %q", path, kind.Kind.Kind, got.Kind)
	}
	if want, _ := f.Path(o); want != path {
		return nil, fmt.Errorf("%s: it holds %s, which belongs into %s", path, nameOf(o), want)
	}
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return o, nil
}
