package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// PullOptions are the details of one pull.
type PullOptions struct {
	// DockerConfigs are the contents of pull secrets, as in [Request].
	DockerConfigs [][]byte
	// Progress is called from other goroutines, a few times a second; may be nil.
	Progress func(Progress)
}

// parallelFetches is how many layers of one image are fetched at a time.
const parallelFetches = 3

// Pull gets an image from its registry or a mirror, also if an image of this
// name is present: the registry is asked what the name means now.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (*Image, error) {
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	img, _, _, err := s.pull(ctx, r, opts, ref, nil)
	return img, err
}

// pull is one pull under way, shared by all who ask for the same.
type pull struct {
	cancel  context.CancelFunc
	began   chan struct{} // closed when its turn came
	done    chan struct{} // closed at the end; then the fields below are set
	img     *Image
	took    time.Duration
	err     error
	waiters int // guarded by Store.mu

	meter meter
}

// Pulling is how many pulls are under way.
func (s *Store) Pulling() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pulls)
}

var errTooManyPulls = errors.New("pull QPS exceeded")

// pull joins the pull of r or begins one, and returns the image, how long the
// pull took, and how long with waiting. begun may be nil.
func (s *Store) pull(ctx context.Context, r reference, opts PullOptions, asNamed string, begun func()) (*Image, time.Duration, time.Duration, error) {
	asked := time.Now()
	key := r.String()
	for _, secret := range opts.DockerConfigs {
		key += "\x00" + digestOf(secret).Hex
	}
	s.mu.Lock()
	p := s.pulls[key]
	if p == nil {
		if s.limiter != nil && !s.limiter.Allow() {
			s.mu.Unlock()
			return nil, 0, 0, errTooManyPulls
		}
		pullCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p = &pull{cancel: cancel, began: make(chan struct{}), done: make(chan struct{})}
		s.pulls[key] = p
		// Started here, ends with the pull or when nobody waits for it any more;
		// owns p's results until done is closed.
		go s.runPull(pullCtx, p, key, r, opts.DockerConfigs)
	}
	p.waiters++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.waiters--; p.waiters == 0 {
			p.cancel()
			if s.pulls[key] == p {
				delete(s.pulls, key) // who comes now begins anew
			}
		}
	}()

	select {
	case <-p.began:
		if begun != nil {
			begun()
		}
	case <-p.done:
	case <-ctx.Done():
		return nil, 0, 0, ctx.Err()
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			if p.err != nil {
				return nil, 0, 0, p.err
			}
			if opts.Progress != nil {
				opts.Progress(p.meter.read(asNamed))
			}
			img := *p.img
			return &img, p.took, time.Since(asked), nil
		case <-tick.C:
			if opts.Progress != nil {
				opts.Progress(p.meter.read(asNamed))
			}
		case <-ctx.Done():
			return nil, 0, 0, ctx.Err()
		}
	}
}

func (s *Store) runPull(ctx context.Context, p *pull, key string, r reference, secrets [][]byte) {
	defer func() {
		s.mu.Lock()
		if s.pulls[key] == p {
			delete(s.pulls, key)
		}
		s.mu.Unlock()
		close(p.done)
	}()
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		p.err = ctx.Err()
		return
	}
	close(p.began)
	start := time.Now()
	p.img, p.err = s.pullNow(ctx, r, secrets, &p.meter)
	p.took = time.Since(start)
}

// pullNow asks the mirrors and then the registry.
func (s *Store) pullNow(ctx context.Context, r reference, secrets [][]byte, m *meter) (*Image, error) {
	var failures []error
	for _, mirror := range s.config.Mirrors {
		rest, ok := mirror.covers(r)
		if !ok {
			continue
		}
		var img *Image
		var err error
		if mirror.Dir != "" {
			img, err = s.pullFromDir(ctx, mirror.Dir, r, m)
		} else {
			img, err = s.pullFrom(ctx, mirror.endpoint(rest), r, secrets, m)
		}
		if err == nil {
			return img, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.log.V(1).Info("mirror does not help", "image", r.String(), "mirror", mirror.label(), "error", err.Error())
		failures = append(failures, err)
		m.reset()
	}
	img, err := s.pullFrom(ctx, origin(r), r, secrets, m)
	if err == nil {
		return img, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, f := range slices.Backward(failures) {
		err = fmt.Errorf("%w; before that, %s", err, f)
	}
	return nil, err
}

// pullFrom gets an image from one registry.
func (s *Store) pullFrom(ctx context.Context, e *endpoint, r reference, secrets [][]byte, m *meter) (*Image, error) {
	credentials, unanswered, err := s.credentials(ctx, e.host, e.repository, secrets)
	if err != nil {
		return nil, err
	}
	if err := e.prepare(s.config.CertDirs); err != nil {
		return nil, fmt.Errorf("%s: %w", e.label, err)
	}
	defer e.close()
	identifier := r.tag
	if r.digest != "" {
		identifier = r.digest
	}
	var top document
	for _, c := range credentials {
		if err = s.connect(ctx, e, c); err == nil {
			top, err = s.manifest(ctx, e, identifier)
		}
		if !isDenied(err) {
			break
		}
	}
	if isDenied(err) && len(unanswered) > 0 {
		return nil, fmt.Errorf("%w; %w", e.explain(r, err), errors.Join(unanswered...))
	}
	if err != nil {
		return nil, e.explain(r, err)
	}
	manifest := top
	if top.mediaType.IsIndex() {
		digest, err := top.choose()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", e.label, r.familiar(), err)
		}
		if manifest, err = s.manifest(ctx, e, digest.String()); err != nil {
			return nil, e.explain(r, err)
		}
	}
	img, err := s.keep(ctx, source{
		manifest: manifest,
		open:     e.blob,
	}, func(base entry) []entry {
		base.repoDigest = r.at(top.digest.String()).String()
		if r.digest == "" {
			base.name = r.String()
		}
		return []entry{base}
	}, m)
	if err != nil {
		return nil, e.explain(r, err)
	}
	return img, nil
}

// source is an image somewhere else that is to come into the store.
type source struct {
	manifest document
	open     func(d v1.Descriptor) opener
}

// maxKeepAttempts is how often an image is completed again after another
// process removed parts of it that were here already.
const maxKeepAttempts = 3

// keep brings an image into the store: configuration, layers, unpacked layers,
// and then, at once, the entries by which it is found. name makes those of one
// that has all but names.
func (s *Store) keep(ctx context.Context, src source, name func(entry) []entry, m *meter) (*Image, error) {
	var manifest v1.Manifest
	if err := json.Unmarshal(src.manifest.data, &manifest); err != nil {
		return nil, &permanentError{fmt.Errorf("cannot read the manifest: %w", err)}
	}
	if src.manifest.mediaType.IsIndex() {
		return nil, &permanentError{errors.New("expected an image's manifest, found an index")}
	}
	for attempt := 1; ; attempt++ {
		img, err := s.keepOnce(ctx, src, &manifest, name, m)
		if !errors.Is(err, errVanished) || attempt >= maxKeepAttempts {
			return img, err
		}
		m.reset()
	}
}

var errVanished = errors.New("parts of the image were removed while it was being completed")

func (s *Store) keepOnce(ctx context.Context, src source, manifest *v1.Manifest, name func(entry) []entry, m *meter) (*Image, error) {
	if manifest.Config.Size > maxDocument {
		return nil, &permanentError{fmt.Errorf("the image's configuration is larger than %d bytes", maxDocument)}
	}
	if err := s.fetchBlob(ctx, manifest.Config, src.open(manifest.Config), func(int64, bool) {}); err != nil {
		return nil, fmt.Errorf("cannot get the image's configuration: %w", err)
	}
	config, parts, err := s.describe(manifest)
	if err != nil && s.dropDamaged(manifest.Config.Digest) {
		return nil, errVanished
	}
	if err != nil {
		return nil, &permanentError{err}
	}

	var total int64
	for _, layer := range manifest.Layers {
		total += layer.Size
	}
	m.fetchTotal.Store(total)
	m.unpackTotal.Store(total)

	work, err := s.newWorkplace()
	if err != nil {
		return nil, fmt.Errorf("cannot prepare unpacking: %w", err)
	}
	defer work.close()
	group, groupCtx := errgroup.WithContext(ctx)
	turns := make(chan struct{}, parallelFetches)
	chain := chainIDs(diffIDs(parts))
	jobs := make([]layerJob, 0, len(parts))
	for i, layer := range manifest.Layers {
		ready := make(chan struct{})
		if n := len(jobs); n < len(parts) && parts[n].layer == i {
			jobs = append(jobs, layerJob{parts[n], chain[n], ready})
		}
		group.Go(func() error {
			select {
			case turns <- struct{}{}:
			case <-groupCtx.Done():
				return groupCtx.Err()
			}
			defer func() { <-turns }()
			err := s.fetchBlob(groupCtx, layer, src.open(layer), m.arrived)
			if err != nil {
				return fmt.Errorf("cannot get layer %d of %d: %w", i+1, len(manifest.Layers), err)
			}
			close(ready)
			return nil
		})
	}
	var layers []newLayer
	group.Go(func() error {
		var err error
		layers, err = s.unpackMissing(groupCtx, work, jobs, func(n int64) { m.unpacked.Add(n) })
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	digest, err := s.putBlob(src.manifest.data)
	if err != nil {
		return nil, err
	}
	d := v1.Descriptor{MediaType: src.manifest.mediaType, Digest: digest, Size: int64(len(src.manifest.data))}
	if config != nil {
		d.Platform = &v1.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	}
	return s.commit(manifest, layers, name(entry{manifest: d, id: idOf(manifest, digest), added: time.Now()}))
}

// describe says what an image or an artifact, whose configuration is in the store,
// is made of. An artifact has no configuration to run by. What cannot be used here
// is an error.
func (s *Store) describe(manifest *v1.Manifest) (*v1.ConfigFile, []part, error) {
	if artifactType(manifest) != "" {
		parts, err := artifactParts(manifest)
		if err != nil {
			return nil, nil, err
		}
		return nil, parts, checkArtifact(parts)
	}
	config, err := s.readConfig(manifest.Config.Digest)
	if err != nil {
		return nil, nil, err
	}
	if err := checkImage(manifest, config); err != nil {
		return nil, nil, err
	}
	return config, imageParts(manifest, config), nil
}

// commit makes an image that is complete on disk visible.
func (s *Store) commit(manifest *v1.Manifest, layers []newLayer, added []entry) (*Image, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	if err := s.keepLayers(st, layers); err != nil {
		return nil, fmt.Errorf("cannot keep the layers: %w", err)
	}
	if st, err = s.state(); err != nil {
		return nil, err
	}
	for _, blob := range append([]v1.Descriptor{manifest.Config, added[0].manifest}, manifest.Layers...) {
		if !s.haveBlob(blob.Digest, blob.Size) {
			return nil, errVanished
		}
	}
	img, err := s.readImage(added[0].manifest)
	if err != nil {
		return nil, err
	}
	for _, chain := range img.Layers {
		if _, ok := st.unpacked[chain.String()]; !ok {
			return nil, errVanished
		}
	}
	entries := withEntries(st.entries, added...)
	if !reflect.DeepEqual(entries, st.entries) {
		if err := s.writeIndex(entries); err != nil {
			return nil, err
		}
	}
	if st, err = s.state(); err != nil {
		return nil, err
	}
	img = st.images[img.ID]
	if img == nil {
		return nil, fmt.Errorf("image %s is damaged on disk", added[0].id)
	}
	return s.withTimes(img), nil
}

// checkImage refuses what cannot run here.
func checkImage(manifest *v1.Manifest, config *v1.ConfigFile) error {
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("it is no container image: %d layers, but its configuration describes %d", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	if len(manifest.Layers) == 0 {
		return errors.New("the image has no layers")
	}
	if len(manifest.Layers) > maxLayers {
		return fmt.Errorf("the image has %d layers; at most %d are possible", len(manifest.Layers), maxLayers)
	}
	for _, layer := range manifest.Layers {
		if strings.HasSuffix(string(layer.MediaType), "+encrypted") {
			return errors.New("the image's layers are encrypted, which is not supported")
		}
		if layer.Size < 0 {
			return fmt.Errorf("layer %s has the size %d", layer.Digest, layer.Size)
		}
	}
	want := platform()
	if config.OS != "" && config.OS != want.OS || config.Architecture != "" && config.Architecture != want.Architecture {
		return fmt.Errorf("the image is made for %s/%s, this machine is %s", config.OS, config.Architecture, want.String())
	}
	return nil
}

// meter counts a pull's progress; its parts run in several goroutines.
type meter struct {
	fetched, fetchTotal, unpacked, unpackTotal, found atomic.Int64
}

func (m *meter) arrived(n int64, found bool) {
	m.fetched.Add(n)
	if found {
		m.found.Add(n)
	}
}

func (m *meter) reset() {
	for _, n := range []*atomic.Int64{&m.fetched, &m.fetchTotal, &m.unpacked, &m.unpackTotal, &m.found} {
		n.Store(0)
	}
}

func (m *meter) read(image string) Progress {
	return Progress{
		Image: image, Fetched: m.fetched.Load(), FetchTotal: m.fetchTotal.Load(),
		Unpacked: m.unpacked.Load(), UnpackTotal: m.unpackTotal.Load(), ResumedOrFound: m.found.Load(),
	}
}
