package fetcher

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what one Resolve looks at.
const (
	maxDepth     = 4  // indexes in indexes
	maxDocuments = 64 // manifests and indexes
)

// A resolver is one Resolve under way.
type resolver struct {
	ref      Reference
	src      source
	want     v1.Platform
	choices  []v1.Platform
	explicit bool  // the user asked for want
	fetches  int   // documents that may still be fetched
	walk     *walk // nil for Resolve, which ends at the first thing that is wrong
}

// A candidate is an image manifest that has been found in an index, or
// without one. What is not known yet is nil.
type candidate struct {
	v1.Descriptor               // as what names it has it
	nested        bool          // in an index
	root          digest.Digest // what of roots it was found under
	raw           []byte
	manifest      *manifest
	config        []byte
	parsed        *imageConfig

	// Documents are fetched once, also by a walk that could not read them.
	loaded, configLoaded bool
	artifact             bool // to a walk: it is no image
}

func (r *resolver) resolve(ctx context.Context) (*Image, error) {
	all, err := r.candidates(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.choose(ctx, all)
	if err != nil {
		return nil, err
	}
	if err := r.loadConfig(ctx, c); err != nil {
		return nil, err
	}
	return r.image(c)
}

// candidates returns the image manifests that the reference leads to.
func (r *resolver) candidates(ctx context.Context) ([]*candidate, error) {
	roots, err := r.src.roots(ctx)
	if err != nil && (r.walk == nil || len(roots) == 0) {
		return nil, err
	}
	if len(roots) == 1 {
		roots[0].Platform = nil // there is no choice to be made
	}
	var all []*candidate
	for _, root := range roots {
		found, err := r.collect(ctx, root, 0)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			c.root = root.Digest
		}
		all = append(all, found...)
	}
	return all, nil
}

// collect returns the image manifests at and below d.
func (r *resolver) collect(ctx context.Context, d v1.Descriptor, depth int) ([]*candidate, error) {
	c := &candidate{Descriptor: d, nested: depth > 0}
	if err := checkDescriptor("manifest of "+r.ref.Name(), d); err != nil {
		return nil, r.tell(ctx, c.document(), err)
	}
	if isAttestation(d) && !r.walk.everything() {
		return nil, nil
	}
	if c.nested && !isIndexType(d.MediaType) {
		return []*candidate{c}, nil
	}
	if err := r.load(ctx, c); err != nil || c.manifest == nil {
		return nil, err
	}
	if !c.manifest.isIndex() {
		return []*candidate{c}, nil
	}
	if depth == maxDepth {
		return nil, errorf(ErrMalformed, "%s has indexes nested deeper than %d", r.ref.Name(), maxDepth)
	}
	var all []*candidate
	for _, child := range c.manifest.Manifests {
		found, err := r.collect(ctx, child, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// isAttestation tells whether an entry of an index is no image, but says
// something of another one, as buildkit's provenance does.
func isAttestation(d v1.Descriptor) bool {
	if d.Annotations["vnd.docker.reference.type"] != "" {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// choose returns the candidate that serves the platform best. Where there is
// only one document, and nobody asked for a platform, it is taken as it is.
func (r *resolver) choose(ctx context.Context, all []*candidate) (*candidate, error) {
	if len(all) == 1 && all[0].manifest != nil && !r.explicit {
		return all[0], nil
	}
	if c := r.best(all); c != nil {
		return c, nil
	}
	all, err := r.complete(ctx, all)
	if err != nil {
		return nil, err
	}
	if c := r.best(all); c != nil {
		return c, nil
	}
	e := &PlatformError{Ref: r.ref.Name(), Want: platformString(r.want)}
	for _, c := range all {
		if have := printable(platformString(*c.Platform)); !slices.Contains(e.Have, have) {
			e.Have = append(e.Have, have)
		}
	}
	return nil, e
}

// complete returns the candidates with platforms, which it takes from configs
// where the index does not say them. Artifacts beside images, such as
// signatures, are left out.
func (r *resolver) complete(ctx context.Context, all []*candidate) ([]*candidate, error) {
	var images []*candidate
	for _, c := range all {
		if c.Platform == nil {
			err := r.loadConfig(ctx, c)
			if errors.Is(err, errors.ErrUnsupported) && len(all) > 1 {
				continue
			}
			if err != nil {
				return nil, err
			}
			if c.parsed == nil {
				continue
			}
			c.Platform = &c.parsed.Platform
		}
		images = append(images, c)
	}
	return images, nil
}

// best returns the candidate with the platform that comes first in choices,
// the first one of several; nil where there is none.
func (r *resolver) best(all []*candidate) *candidate {
	var best *candidate
	least := len(r.choices)
	for _, c := range all {
		if c.Platform == nil {
			continue
		}
		if n := rank(r.choices, *c.Platform); n >= 0 && n < least {
			best, least = c, n
		}
	}
	return best
}

// load fetches the manifest of c.
func (r *resolver) load(ctx context.Context, c *candidate) error {
	if c.loaded {
		return nil
	}
	if r.fetches == 0 {
		return errorf(ErrMalformed, "%s refers to more than %d manifests", r.ref.Name(), maxDocuments)
	}
	r.fetches--
	c.loaded = true
	err := r.read(ctx, c)
	return r.tell(ctx, c.document(), err)
}

// read reads the manifest of c, and checks it. In spite of an error c may have
// a manifest: one that is not what it should be.
func (r *resolver) read(ctx context.Context, c *candidate) error {
	raw, err := r.src.manifest(ctx, c.Digest)
	if raw == nil {
		return err
	}
	c.raw = raw
	m, malformed := parseManifest(r.ref.Name(), raw)
	if malformed == nil && c.nested && isIndexType(c.MediaType) != m.isIndex() {
		kinds := map[bool]string{true: "an index", false: "an image"}
		malformed = errorf(ErrMalformed, "%s: %s is said to be %s, and is %s", r.ref.Name(), c.Digest, kinds[!m.isIndex()], kinds[m.isIndex()])
	}
	if malformed == nil && !m.isIndex() && m.schema1 == nil {
		malformed = r.check(c, m)
	}
	if malformed == nil {
		c.manifest = m
	}
	switch {
	case err != nil:
		return err
	case malformed != nil:
		return malformed
	}
	return r.compare(c)
}

// compare compares a manifest with what names it. That may be a reference, which says no size.
func (r *resolver) compare(c *candidate) error {
	if (c.nested || c.Size > 0) && c.Size != int64(len(c.raw)) {
		return r.sizeMismatch(c.Digest, c.Size, len(c.raw))
	}
	return r.walk.compareType(r.ref, c)
}

// loadConfig fetches the config of c, which has to be an image manifest.
func (r *resolver) loadConfig(ctx context.Context, c *candidate) error {
	if c.configLoaded {
		return nil
	}
	if err := r.load(ctx, c); err != nil || c.manifest == nil {
		return err
	}
	c.configLoaded = true
	if c.manifest.Config == nil && c.artifact {
		return nil
	}
	get := r.readConfig
	if c.manifest.schema1 != nil {
		get = r.convert
	}
	err := get(ctx, c)
	return r.tell(ctx, c.configDocument(), err)
}

// readConfig is as read, for the config.
func (r *resolver) readConfig(ctx context.Context, c *candidate) error {
	d := c.manifest.Config
	raw, err := r.src.config(ctx, d.Digest)
	if raw == nil {
		return err
	}
	c.config = raw
	if err == nil && d.Size != int64(len(raw)) {
		err = r.sizeMismatch(d.Digest, d.Size, len(raw))
	}
	if c.artifact {
		return err
	}
	parsed, malformed := parseConfig(r.ref.Name(), raw)
	c.parsed = parsed
	if err != nil {
		return err
	}
	return malformed
}

func (r *resolver) sizeMismatch(d digest.Digest, want int64, got int) error {
	return &MismatchError{
		What:     fmt.Sprintf("size of %s of %s", d, r.ref.Name()),
		Expected: fmt.Sprint(want),
		Found:    fmt.Sprint(got),
	}
}

func (r *resolver) image(c *candidate) (*Image, error) {
	im := &Image{
		src: r.src, Ref: r.ref, Digest: c.root, ManifestDigest: c.Digest, MediaType: c.manifest.MediaType,
		Manifest: c.raw, Config: c.config, Made: r.makes("manifest"), Artifact: c.artifact,
	}
	if c.manifest.Config != nil {
		im.ConfigDigest = c.manifest.Config.Digest
	}
	if n, ok := r.src.(namer); ok {
		im.Names = n.names(c.root)
	}
	if c.parsed != nil {
		im.Platform = c.parsed.Platform
	}
	layers, diffIDs, err := c.layers(r.ref)
	if err != nil && r.walk == nil {
		return nil, err
	}
	for i, l := range layers {
		im.Layers = append(im.Layers, Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, DiffID: diffIDs[i], URLs: l.URLs})
	}
	return im, nil
}

// layers returns the layers, and the diff ID of each; "" for all of them where they are not known, or are not as many.
func (c *candidate) layers(ref Reference) ([]v1.Descriptor, []digest.Digest, error) {
	layers := c.manifest.Layers
	if c.parsed == nil || c.manifest.schema1 != nil {
		return layers, make([]digest.Digest, len(layers)), nil
	}
	diffIDs := c.parsed.RootFS.DiffIDs
	if layers = inOrder(layers, diffIDs); len(layers) != len(diffIDs) {
		return layers, make([]digest.Digest, len(layers)), layersMismatch(ref, diffIDs, len(layers))
	}
	return layers, diffIDs, nil
}

// inOrder returns layers in the order of their diff IDs, and each as often as it is there, where the digests tell that: none is
// compressed. In the layouts that Docker 25.0.0 wrote, the manifest has each layer once, in any order (github.com/moby/moby,
// issue 47150), and the config is right.
func inOrder(layers []v1.Descriptor, diffIDs []digest.Digest) []v1.Descriptor {
	known, used := map[digest.Digest]v1.Descriptor{}, map[digest.Digest]bool{}
	for _, l := range layers {
		known[l.Digest] = l
	}
	var ordered []v1.Descriptor
	for _, id := range diffIDs {
		if l, ok := known[id]; ok {
			ordered = append(ordered, l)
			used[id] = true
		}
	}
	if len(ordered) < len(diffIDs) || len(used) < len(layers) {
		return layers
	}
	return ordered
}

// A namer is a source that gives images names, by the root that they are found under.
type namer interface {
	names(root digest.Digest) []string
}

// makes tells whether documents of a kind are made here.
func (r *resolver) makes(kind string) bool {
	switch src := r.src.(type) {
	case *dockerArchive:
		return kind == "manifest" || src.old
	case *rootfs:
		return true
	}
	return false
}
