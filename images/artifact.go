package images

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// An OCI artifact is a manifest whose configuration is not an image's. Its layers
// are files, each named by an annotation, or what a layer of an image is.
// Source: OCI image specification, manifest.md, "Guidelines for Artifact Usage",
// and annotations.md.

const (
	titleAnnotation = "org.opencontainers.image.title"
	// packedAnnotation says that a titled layer is a directory in a tar stream, as
	// ORAS packs it.
	packedAnnotation = "io.deis.oras.content.unpack"
)

// imageConfigs are the media types of an image's configuration; older builders give
// none, or the second.
var imageConfigs = []types.MediaType{"", "application/octet-stream", types.OCIConfigJSON, types.DockerConfigJSON}

// artifactType is the type of an artifact, empty for an image.
func artifactType(m *v1.Manifest) string {
	if slices.Contains(imageConfigs, m.Config.MediaType) {
		return ""
	}
	return cmp.Or(m.ArtifactType, string(m.Config.MediaType))
}

// part is one layer of an image or an artifact, as it is unpacked.
type part struct {
	layer int // which of the manifest's, from 0
	blob  v1.Descriptor
	// diffID is the digest of an image's layer before its compression. For an
	// artifact it stands for the layer and what is made of it.
	diffID v1.Hash
	// file is the name of the one file that the blob is; empty: it is a tar stream.
	file string
	// artifact says that no configuration tells the digest of the tar stream: that
	// of the blob was checked.
	artifact bool
}

// imageParts are the layers that the configuration describes, lowest first.
func imageParts(m *v1.Manifest, config *v1.ConfigFile) []part {
	parts := make([]part, len(m.Layers))
	for i, layer := range m.Layers {
		parts[i] = part{layer: i, blob: layer, diffID: config.RootFS.DiffIDs[i]}
	}
	return parts
}

// artifactParts are the layers of an artifact that can be files, lowest first:
// those with a title, and streams that a layer's media type says to unpack. The
// others are left out, as CRI-O does.
func artifactParts(m *v1.Manifest) ([]part, error) {
	var parts []part
	for i, layer := range m.Layers {
		title := layer.Annotations[titleAnnotation]
		p := part{layer: i, blob: layer, artifact: true}
		switch {
		case title != "" && layer.Annotations[packedAnnotation] == "true":
		case title != "":
			if err := checkTitle(title); err != nil {
				return nil, fmt.Errorf("the artifact's file %s: %w", quoted(title), err)
			}
			p.file = title
		case !layer.MediaType.IsLayer():
			continue
		}
		p.diffID = digestOf([]byte("artifact layer\x00" + p.file + "\x00" + layer.Digest.String()))
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("the artifact has no files: none of its %d layers has a name (%s)", len(m.Layers), titleAnnotation)
	}
	return parts, nil
}

// checkTitle refuses names that lead elsewhere, or that a layer gives a meaning.
func checkTitle(title string) error {
	if title != path.Clean(title) || path.IsAbs(title) || title == "." || strings.ContainsRune(title, 0) {
		return errors.New(`expected as name a relative path without "." and ".."`)
	}
	for element := range strings.SplitSeq(title, "/") {
		if element == ".." || strings.HasPrefix(element, whiteoutPrefix) {
			return fmt.Errorf("its name may have no part %q", element)
		}
	}
	_, err := layerPath(title)
	return err
}

func diffIDs(parts []part) []v1.Hash {
	ids := make([]v1.Hash, len(parts))
	for i, p := range parts {
		ids[i] = p.diffID
	}
	return ids
}

// checkArtifact refuses what cannot be mounted.
func checkArtifact(parts []part) error {
	if len(parts) > maxLayers {
		return fmt.Errorf("the artifact has %d files; at most %d are possible", len(parts), maxLayers)
	}
	for _, p := range parts {
		if p.blob.Size < 0 {
			return fmt.Errorf("layer %s has the size %d", p.blob.Digest, p.blob.Size)
		}
	}
	return nil
}

// asTar returns a pipe with a tar stream of one file. The caller closes it; what
// is left unread ends with that.
func asTar(file *os.File, name string) (*os.File, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// Started here, ends with the file, or when nobody reads the pipe any more;
	// owns w. What it cannot write is missing from the stream, which ends early.
	go func() {
		defer w.Close()
		stream := tar.NewWriter(w)
		// Without "./" a name could look like the beginning of a compressed file.
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0)}
		if stream.WriteHeader(h) != nil {
			return
		}
		if _, err := io.Copy(stream, file); err == nil {
			stream.Close()
		}
	}()
	return r, nil
}
