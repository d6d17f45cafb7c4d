package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Text is a document, byte for byte, and what names it.
type Text struct {
	v1.Descriptor
	Content []byte
}

// A Bundle is an image, or an index and all that is below it, on its way to
// another place: Push and package save write it there. Image.Bundle and
// ResolveAll make one of what is somewhere else, NewBundle of what is new.
type Bundle struct {
	// Manifests are image manifests and indexes, each after those that it
	// refers to. The last one is what the place is going to name.
	Manifests []Text
	Configs   []Text          // of the manifests, each once
	Layers    []v1.Descriptor // the other blobs of the manifests, each once
	// From is where it comes from; the zero value where it is new. If that is
	// in the registry that it is pushed to, what is there need not be sent.
	From Reference
	// Foreign has layers written as well whose bytes are outside of registries.
	// Otherwise a manifest with their URLs is enough, where there is one.
	Foreign bool
	// Open opens a layer as a stream. What it gives need not be right: whoever
	// writes it calls ReadLayer, which compares.
	Open func(ctx context.Context, layer v1.Descriptor) (io.ReadCloser, error)
	// Doubt is told that Open has given wrong bytes, and tells whether it will
	// give others now. nil means that it never will.
	Doubt func(layer v1.Descriptor) bool
}

// NewBundle returns the bundle of an image, or of an index, whose layers open
// opens. What the documents refer to among themselves has to be there. Errors
// wrap ErrMalformed, ErrMismatch or errors.ErrUnsupported.
func NewBundle(manifests, configs []Text, open func(context.Context, v1.Descriptor) (io.ReadCloser, error)) (*Bundle, error) {
	if len(manifests) == 0 {
		return nil, errorf(ErrMalformed, "there is no manifest")
	}
	b := &Bundle{Manifests: manifests, Configs: configs, Open: open}
	sizes := map[digest.Digest]int64{}
	for _, c := range configs {
		sizes[c.Digest] = c.Size
	}
	for _, doc := range manifests {
		what := doc.Digest.String()
		m, err := parseManifest(what, doc.Content)
		switch {
		case err != nil:
			return nil, err
		case m.schema1 != nil:
			return nil, unsupported("manifest %s is of schema 1, which is not written anywhere", what)
		}
		refers := m.Manifests
		if m.Config != nil {
			refers = append(refers, *m.Config)
		}
		for _, d := range refers {
			if size, ok := sizes[d.Digest]; !ok || size != d.Size {
				return nil, errorf(ErrMalformed, "manifest %s refers to %s of %d bytes, which is not there", what, printable(d.Digest.String()), d.Size)
			}
		}
		for _, l := range m.Layers {
			if err := b.addLayer(what, l, sizes); err != nil {
				return nil, err
			}
		}
		sizes[doc.Digest] = doc.Size
	}
	return b, nil
}

// addLayer adds a layer of a manifest, unless it is there. Sizes are those of all that is there.
func (b *Bundle) addLayer(manifest string, l v1.Descriptor, sizes map[digest.Digest]int64) error {
	if err := checkDescriptor("layer of "+manifest, l); err != nil {
		return err
	}
	size, ok := sizes[l.Digest]
	if ok && size != l.Size {
		return &MismatchError{What: "size of layer " + l.Digest.String(), Expected: fmt.Sprint(size), Found: fmt.Sprintf("%d in %s", l.Size, manifest)}
	}
	if !ok {
		sizes[l.Digest] = l.Size
		b.Layers = append(b.Layers, l)
	}
	return nil
}

// Root returns what the place is going to name.
func (b *Bundle) Root() Text { return b.Manifests[len(b.Manifests)-1] }

// Wanted returns the layers that are written where manifests are: all but foreign ones, or really all.
func (b *Bundle) Wanted() []v1.Descriptor {
	var wanted []v1.Descriptor
	for _, l := range b.Layers {
		if b.Foreign || !isForeign(l) {
			wanted = append(wanted, l)
		}
	}
	return wanted
}

// isForeign tells whether a layer is one that others leave where its URLs are: by its type, Docker's or OCI's, it may not be distributed.
func isForeign(l v1.Descriptor) bool {
	return len(l.URLs) > 0 && (strings.Contains(l.MediaType, ".foreign.") || strings.Contains(l.MediaType, ".nondistributable."))
}

// ReadLayer calls read with the bytes of a layer. The last of them come only
// once all are what the digest says, or else a MismatchError. Read has to read
// to the end; after wrong bytes it is called once more, from the start, if
// there are others to be had.
func (b *Bundle) ReadLayer(ctx context.Context, layer v1.Descriptor, read func(io.Reader) error) error {
	if err := checkDescriptor("layer", layer); err != nil {
		return err
	}
	for {
		v := &verifier{want: layer, digest: layer.Digest.Verifier(), left: layer.Size}
		err := b.readOnce(ctx, v, read)
		if !errors.Is(v.err, ErrMismatch) || b.Doubt == nil || !b.Doubt(layer) {
			return err
		}
	}
}

func (b *Bundle) readOnce(ctx context.Context, v *verifier, read func(io.Reader) error) error {
	r, err := b.Open(ctx, v.want)
	if err != nil {
		return err
	}
	defer r.Close()
	v.r = r
	if err := read(v); err != nil {
		return err
	}
	if v.err != io.EOF {
		return fmt.Errorf("layer %s has not been read to its end", v.want.Digest)
	}
	return nil
}

// A verifier reads a blob, and gives its last bytes only if all are right.
type verifier struct {
	r      io.Reader
	want   v1.Descriptor
	digest digest.Verifier
	left   int64
	err    error // from now on; io.EOF once all is right
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.left == 0 && v.err == nil {
		v.err = v.end()
	}
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p[:min(int64(len(p)), v.left)])
	v.digest.Write(p[:n])
	if v.left -= int64(n); v.left == 0 {
		v.err = v.end()
	} else if err == io.EOF {
		v.err = v.mismatch("size of ", fmt.Sprint(v.want.Size), fmt.Sprint(v.want.Size-v.left))
	} else {
		v.err = err
	}
	if v.err != nil && v.err != io.EOF {
		return 0, v.err
	}
	return n, nil
}

// end returns io.EOF where the blob ends, if its digest is right.
func (v *verifier) end() error {
	n, err := io.ReadFull(v.r, make([]byte, 1))
	switch {
	case n > 0:
		return v.mismatch("size of ", fmt.Sprint(v.want.Size), "more")
	case err != io.EOF:
		return err
	case !v.digest.Verified():
		return v.mismatch("", v.want.Digest.String(), "another digest")
	}
	return io.EOF
}

func (v *verifier) mismatch(what, expected, found string) error {
	return &MismatchError{What: what + "layer " + v.want.Digest.String(), Expected: expected, Found: found}
}

// A carrier opens layers where they are.
type carrier struct {
	src source

	mu     sync.Mutex              // protects the following
	remote map[digest.Digest]*Blob // those in registries, which know whom to doubt
}

// bundleOf returns the bundle of documents of a source.
func bundleOf(from Reference, src source, manifests, configs []Text) (*Bundle, error) {
	c := &carrier{src: src, remote: map[digest.Digest]*Blob{}}
	b, err := NewBundle(manifests, configs, c.open)
	if err != nil {
		return nil, err
	}
	b.From, b.Doubt = from, c.doubt
	return b, nil
}

func (c *carrier) open(ctx context.Context, layer v1.Descriptor) (io.ReadCloser, error) {
	blob, err := c.blob(layer)
	if err != nil {
		return nil, err
	}
	r, err := blob.Open(ctx, 0, blob.Size())
	if err != nil || !blob.Local() {
		return r, err
	}
	return &localStream{r, blob}, nil
}

// blob opens a layer, or returns the one that has been opened in a registry before.
func (c *carrier) blob(d v1.Descriptor) (*Blob, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.remote[d.Digest]; b != nil {
		return b, nil
	}
	b, err := c.src.blob(Layer{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, URLs: d.URLs})
	if err == nil && !b.Local() {
		c.remote[d.Digest] = b
	}
	return b, err
}

func (c *carrier) doubt(d v1.Descriptor) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.remote[d.Digest]
	return b != nil && b.Doubt()
}

// A localStream is a whole blob in a file, which is closed with it.
type localStream struct {
	io.Reader
	blob *Blob
}

func (s *localStream) Close() error { return s.blob.Close() }
