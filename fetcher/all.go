package fetcher

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what one ResolveAll takes.
const (
	maxAllDocuments = 1024 // configs among them
	maxAllBytes     = 128 << 20
)

// ResolveAll finds what ref names, with all that is below it: indexes, images
// for all platforms, and what is said of them. Errors wrap what Resolve's do.
func (f *Fetcher) ResolveAll(ctx context.Context, ref Reference) (*Bundle, error) {
	ref, src, err := f.source(ctx, ref)
	if err != nil {
		return nil, err
	}
	roots, err := src.roots(ctx)
	if err != nil {
		return nil, err
	}
	if len(roots) != 1 {
		return nil, errorf(ErrReference, "%s is several images, which no index is over: say which platform", ref.Name())
	}
	if err := checkDescriptor("manifest of "+ref.Name(), v1.Descriptor{Digest: roots[0].Digest}); err != nil {
		return nil, err
	}
	g := gatherer{ref: ref, src: src, left: maxAllBytes, taken: map[digest.Digest]bool{}}
	if err := g.manifest(ctx, v1.Descriptor{Digest: roots[0].Digest, Size: -1}, 0); err != nil {
		return nil, err
	}
	return bundleOf(ref, src, g.manifests, g.configs)
}

// A gatherer is one ResolveAll under way.
type gatherer struct {
	ref                Reference
	src                source
	left               int64 // bytes of documents that may still come
	taken              map[digest.Digest]bool
	manifests, configs []Text
}

// manifest takes the manifest d, after all that is below it. Its size is -1 where nothing has told it before.
func (g *gatherer) manifest(ctx context.Context, d v1.Descriptor, depth int) error {
	if depth > maxDepth {
		return errorf(ErrMalformed, "%s has indexes nested deeper than %d", g.ref.Name(), maxDepth)
	}
	raw, err := g.get(ctx, "manifest", d, g.src.manifest)
	if err != nil || raw == nil {
		return err
	}
	m, err := parseManifest(g.ref.Name(), raw)
	if err != nil {
		return err
	}
	for _, child := range m.Manifests {
		if err := checkDescriptor("manifest of "+g.ref.Name(), child); err != nil {
			return err
		}
		if err := g.manifest(ctx, child, depth+1); err != nil {
			return err
		}
	}
	if m.Config != nil {
		if err := g.config(ctx, *m.Config); err != nil {
			return err
		}
	}
	g.manifests = append(g.manifests, Text{v1.Descriptor{MediaType: m.MediaType, Digest: d.Digest, Size: int64(len(raw))}, raw})
	return nil
}

func (g *gatherer) config(ctx context.Context, d v1.Descriptor) error {
	if err := checkDescriptor("config of "+g.ref.Name(), d); err != nil {
		return err
	}
	raw, err := g.get(ctx, "config", d, g.src.config)
	if err == nil && raw != nil {
		g.configs = append(g.configs, Text{d, raw})
	}
	return err
}

// get fetches a document; nil where it is taken already.
func (g *gatherer) get(ctx context.Context, kind string, d v1.Descriptor, from func(context.Context, digest.Digest) ([]byte, error)) ([]byte, error) {
	if g.taken[d.Digest] {
		return nil, nil
	}
	if len(g.taken) == maxAllDocuments {
		return nil, errorf(ErrMalformed, "%s refers to more than %d documents", g.ref.Name(), maxAllDocuments)
	}
	g.taken[d.Digest] = true
	raw, err := from(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	size := int64(len(raw))
	if d.Size >= 0 && d.Size != size {
		return nil, &MismatchError{What: fmt.Sprintf("size of %s %s of %s", kind, d.Digest, g.ref.Name()), Expected: fmt.Sprint(d.Size), Found: fmt.Sprint(size)}
	}
	if g.left -= size; g.left < 0 {
		return nil, errorf(ErrMalformed, "%s has documents of more than %d MiB", g.ref.Name(), maxAllBytes>>20)
	}
	return raw, nil
}

// Bundle returns the image alone, without the index that it may have been
// found in. Of schema 1 there is none, but of what WithDiffIDs makes of it.
func (im *Image) Bundle() (*Bundle, error) {
	m, err := parseManifest(im.Ref.Name(), im.Manifest)
	if err != nil {
		return nil, err
	}
	if m.schema1 != nil {
		return nil, unsupported("%s has a manifest of schema 1, which is not written anywhere", im.Ref.Name())
	}
	manifest := Text{v1.Descriptor{MediaType: im.MediaType, Digest: im.ManifestDigest, Size: int64(len(im.Manifest))}, im.Manifest}
	return bundleOf(im.Ref, im.src, []Text{manifest}, []Text{{*m.Config, im.Config}})
}

// WithDiffIDs returns the image that an image of schema 1 is once the diff IDs
// of its layers are known: with the config that Docker makes when it pulls one,
// and a manifest of OCI's, which all who read images know by now.
func (im *Image) WithDiffIDs(diffIDs []digest.Digest) (*Image, error) {
	if len(diffIDs) != len(im.Layers) {
		return nil, fmt.Errorf("%s has %d layers, and not %d", im.Ref.Name(), len(im.Layers), len(diffIDs))
	}
	config, err := withRootFS(im.Config, v1.RootFS{Type: "layers", DiffIDs: diffIDs})
	if err != nil {
		return nil, err
	}
	made := *im
	made.Config, made.ConfigDigest, made.Layers = config, digest.FromBytes(config), slices.Clone(im.Layers)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: made.ConfigDigest, Size: int64(len(config))},
	}
	for i := range made.Layers {
		l := &made.Layers[i]
		l.DiffID, l.MediaType = diffIDs[i], v1.MediaTypeImageLayerGzip
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	if made.Manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	made.MediaType, made.ManifestDigest = m.MediaType, digest.FromBytes(made.Manifest)
	made.Digest = made.ManifestDigest
	return &made, nil
}

// withRootFS returns a config with another list of layers.
func withRootFS(config []byte, layers v1.RootFS) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	b, err := json.Marshal(layers)
	if err != nil {
		return nil, err
	}
	fields["rootfs"] = b
	return json.Marshal(fields)
}
