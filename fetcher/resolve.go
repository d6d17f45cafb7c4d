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
	explicit bool // the user asked for want
	fetches  int  // documents that may still be fetched
}

// A candidate is an image manifest that has been found in an index, or
// without one. Platform and manifest are nil as long as they are not known.
type candidate struct {
	root     digest.Digest // what of roots it was found under
	digest   digest.Digest
	platform *v1.Platform
	raw      []byte
	manifest *manifest
	config   []byte
	parsed   *imageConfig
}

func (r *resolver) resolve(ctx context.Context) (*Image, error) {
	roots, err := r.src.roots(ctx)
	if err != nil {
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
	c, err := r.choose(ctx, all)
	if err != nil {
		return nil, err
	}
	if err := r.loadConfig(ctx, c); err != nil {
		return nil, err
	}
	return r.image(c)
}

// collect returns the image manifests at and below d.
func (r *resolver) collect(ctx context.Context, d v1.Descriptor, depth int) ([]*candidate, error) {
	if err := checkDescriptor("manifest of "+r.ref.Name(), d); err != nil {
		return nil, err
	}
	if isAttestation(d) {
		return nil, nil
	}
	c := &candidate{digest: d.Digest, platform: d.Platform}
	if depth > 0 && !isIndexType(d.MediaType) {
		return []*candidate{c}, nil
	}
	if err := r.load(ctx, c); err != nil {
		return nil, err
	}
	if depth > 0 && d.Size != int64(len(c.raw)) {
		return nil, r.sizeMismatch(c.digest, d.Size, len(c.raw))
	}
	if !c.manifest.isIndex() && depth > 0 {
		return nil, errorf(ErrMalformed, "%s: %s is said to be an index, and is an image", r.ref.Name(), c.digest)
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
		if have := printable(platformString(*c.platform)); !slices.Contains(e.Have, have) {
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
		if c.platform == nil {
			err := r.loadConfig(ctx, c)
			if errors.Is(err, errors.ErrUnsupported) && len(all) > 1 {
				continue
			}
			if err != nil {
				return nil, err
			}
			c.platform = &c.parsed.Platform
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
		if c.platform == nil {
			continue
		}
		if n := rank(r.choices, *c.platform); n >= 0 && n < least {
			best, least = c, n
		}
	}
	return best
}

// load fetches the manifest of c.
func (r *resolver) load(ctx context.Context, c *candidate) error {
	if c.manifest != nil {
		return nil
	}
	if r.fetches == 0 {
		return errorf(ErrMalformed, "%s refers to more than %d manifests", r.ref.Name(), maxDocuments)
	}
	r.fetches--
	raw, err := r.src.manifest(ctx, c.digest)
	if err != nil {
		return err
	}
	m, err := parseManifest(r.ref.Name(), raw)
	if err != nil {
		return err
	}
	c.raw, c.manifest = raw, m
	return nil
}

// loadConfig fetches the config of c, which has to be an image manifest.
func (r *resolver) loadConfig(ctx context.Context, c *candidate) error {
	if c.parsed != nil {
		return nil
	}
	if err := r.load(ctx, c); err != nil {
		return err
	}
	if c.manifest.isIndex() {
		return errorf(ErrMalformed, "%s: %s is said to be an image, and is an index", r.ref.Name(), c.digest)
	}
	if c.manifest.schema1 != nil {
		return r.convert(ctx, c)
	}
	if err := c.manifest.check(r.ref.Name()); err != nil {
		return err
	}
	d := c.manifest.Config
	raw, err := r.src.config(ctx, d.Digest)
	if err != nil {
		return err
	}
	if d.Size != int64(len(raw)) {
		return r.sizeMismatch(d.Digest, d.Size, len(raw))
	}
	if c.parsed, err = parseConfig(r.ref.Name(), raw); err != nil {
		return err
	}
	c.config = raw
	return nil
}

func (r *resolver) sizeMismatch(d digest.Digest, want int64, got int) error {
	return &MismatchError{
		What:     fmt.Sprintf("size of %s of %s", d, r.ref.Name()),
		Expected: fmt.Sprint(want),
		Found:    fmt.Sprint(got),
	}
}

func (r *resolver) image(c *candidate) (*Image, error) {
	diffIDs := c.parsed.RootFS.DiffIDs
	if c.manifest.schema1 != nil {
		diffIDs = make([]digest.Digest, len(c.manifest.Layers)) // not known
	}
	layers := inOrder(c.manifest.Layers, diffIDs)
	if len(diffIDs) != len(layers) {
		return nil, layersMismatch(r.ref, diffIDs, len(layers))
	}
	im := &Image{
		src: r.src, Ref: r.ref, Digest: c.root, ManifestDigest: c.digest, MediaType: c.manifest.MediaType,
		Manifest: c.raw, Config: c.config, ConfigDigest: c.manifest.Config.Digest, Platform: c.parsed.Platform,
	}
	for i, l := range layers {
		im.Layers = append(im.Layers, Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, DiffID: diffIDs[i], URLs: l.URLs})
	}
	return im, nil
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
