package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"podd/internal/testimage"
)

// artifactLayer is a layer of an artifact, as tools push it.
type artifactLayer struct {
	title     string // empty: none
	mediaType types.MediaType
	content   []byte
	packed    bool
}

const emptyConfig = types.MediaType("application/vnd.oci.empty.v1+json")

// pushArtifact puts an artifact into a registry on loopback.
func pushArtifact(t *testing.T, ref, artifactType string, config types.MediaType, layers ...artifactLayer) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	blob := func(content []byte, mediaType types.MediaType) v1.Descriptor {
		if err := remote.WriteLayer(r.Context(), static.NewLayer(content, mediaType)); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: digestOf(content), Size: int64(len(content))}
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: blob([]byte("{}"), config), Layers: []v1.Descriptor{},
	}
	for _, l := range layers {
		d := blob(l.content, l.mediaType)
		d.Annotations = map[string]string{}
		if l.title != "" {
			d.Annotations[titleAnnotation] = l.title
		}
		if l.packed {
			d.Annotations[packedAnnotation] = "true"
		}
		m.Layers = append(m.Layers, d)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(r, manifestBytes(data)); err != nil {
		t.Fatal(err)
	}
}

type manifestBytes []byte

func (m manifestBytes) RawManifest() ([]byte, error)        { return m, nil }
func (m manifestBytes) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func TestArtifactsAreFiles(t *testing.T) {
	host := newRegistry(t)
	s := testStore(t)
	ref := host + "/models/small:1"
	model := bytes.Repeat([]byte("weights\x00"), 100_000)
	pushArtifact(t, ref, "application/vnd.example.model", emptyConfig,
		artifactLayer{title: "model.bin", mediaType: "application/octet-stream", content: model},
		artifactLayer{title: "BZh/notes.gz", mediaType: types.OCILayer, content: []byte("\x1f\x8b no gzip, and no tar stream")},
		artifactLayer{mediaType: "application/vnd.example.signature", content: []byte("without a name")},
		artifactLayer{mediaType: types.OCILayer, content: gzipped(t, testimage.Tar(t, testimage.Dir("site/", 0o755), testimage.File("site/index.html", 0, "hello")))},
		artifactLayer{title: "docs", mediaType: types.OCILayer, packed: true, content: gzipped(t, testimage.Tar(t, testimage.File("docs/a", 0, "packed")))},
		artifactLayer{title: "empty", mediaType: "text/plain", content: nil},
	)
	res, err := s.Ensure(t.Context(), Request{Ref: ref, Volume: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	img := res.Image
	if img.Artifact != "application/vnd.example.model" || img.ID != img.Manifest || len(img.Layers) != 5 {
		t.Errorf("the artifact is %q, id %s of manifest %s, %d layers", img.Artifact, img.ID, img.Manifest, len(img.Layers))
	}
	check := func(s *Store) {
		t.Helper()
		dir := rootfs(t, s, img, "", true)
		for file, want := range map[string]string{
			"model.bin": string(model), "BZh/notes.gz": "\x1f\x8b no gzip, and no tar stream", "site/index.html": "hello", "docs/a": "packed", "empty": "",
		} {
			if got := read(t, dir, file); got != want {
				t.Errorf("%s has %d bytes, want %d", file, len(got), len(want))
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 5 {
			t.Errorf("the artifact shows %v (%v)", entries, err)
		}
		info, err := os.Stat(filepath.Join(dir, "model.bin"))
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("a file has mode %v (%v)", info.Mode(), err)
		}
	}
	check(s)
	// Another agent on the same directory knows it too, and it can be removed.
	s = reopen(t, s.config.Root)
	again, err := s.Find(ref)
	if err != nil || again.ID != img.ID || again.Artifact != img.Artifact || !slices.Equal(again.Layers, img.Layers) {
		t.Fatalf("found again is %+v (%v)", again, err)
	}
	check(s)
	// Another artifact has the same empty configuration and is not the same.
	pushArtifact(t, host+"/models/other:1", "", "application/vnd.example.config", artifactLayer{title: "model.bin", mediaType: "text/plain", content: []byte("x")})
	other, err := s.Pull(t.Context(), host+"/models/other:1", PullOptions{})
	if err != nil || other.ID == img.ID || other.Artifact != "application/vnd.example.config" {
		t.Errorf("the other artifact is %+v (%v)", other, err)
	}
	if got := read(t, rootfs(t, s, other, "", true), "model.bin"); got != "x" {
		t.Errorf("the other artifact's file has %q", got)
	}
	for _, policy := range []string{"IfNotPresent", "Always", "Never"} {
		_, err := s.Ensure(t.Context(), Request{Ref: ref, Policy: policy}, time.Now())
		var e *EnsureError
		if !errors.As(err, &e) || e.Reason != ReasonPull || !strings.Contains(e.Message, `no container image but an OCI artifact of type "application/vnd.example.model"`) {
			t.Errorf("an artifact for a container by %s: %v", policy, err)
		}
	}
}

func TestDamagedBlobsOfArtifactsAreFetchedAgain(t *testing.T) {
	host := newRegistry(t)
	s := testStore(t)
	ref := host + "/a:1"
	pushArtifact(t, ref, "x/y", emptyConfig, artifactLayer{title: "f", mediaType: "text/plain", content: []byte("good")})
	blob := s.blobFile(digestOf([]byte("good")))
	if err := os.WriteFile(blob, []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, rootfs(t, s, img, "", true), "f"); got != "good" {
		t.Errorf("the file has %q", got)
	}
}

func TestNamesOfArtifactFilesStayInside(t *testing.T) {
	for _, title := range []string{"../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/", ".", "..", "a/..", "a\x00b",
		".wh.a", "d/.wh..wh..opq", ".wh.d/x", strings.Repeat("x", 256), strings.Repeat("x/", 2100) + "x"} {
		m := &v1.Manifest{Layers: []v1.Descriptor{{Annotations: map[string]string{titleAnnotation: title}}}}
		if _, err := artifactParts(m); err == nil || !strings.Contains(err.Error(), "the artifact's file") {
			t.Errorf("%s: %v", quoted(title), err)
		}
	}
	for _, title := range []string{"a", "a/b.c", "...", ".hidden", "with space", "wh.a", "ü", `back\slash`, strings.Repeat("x", 255)} {
		m := &v1.Manifest{Layers: []v1.Descriptor{{Annotations: map[string]string{titleAnnotation: title}}}}
		if parts, err := artifactParts(m); err != nil || parts[0].file != title {
			t.Errorf("%s: %v", quoted(title), err)
		}
	}
	if _, err := artifactParts(&v1.Manifest{Layers: []v1.Descriptor{{MediaType: emptyConfig}}}); err == nil || !strings.Contains(err.Error(), "the artifact has no files") {
		t.Errorf("an artifact without files: %v", err)
	}
}
