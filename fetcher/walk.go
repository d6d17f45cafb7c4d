package fetcher

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Document is an index, a manifest or a config that Walk has come to.
type Document struct {
	Kind      string        // "index", "manifest" or "config"
	Digest    digest.Digest // by what names it
	MediaType string        // likewise, if that says it
	Platform  *v1.Platform  // likewise; nil for a config
	Size      int64         // bytes it has; -1 if they could not be had
	// Made says that there is no such document where the image is: it is made of what is there, and its digest says nothing.
	Made bool
	// Err is nil if it is what it should be. Otherwise it is an error as of Resolve, the first that there is.
	Err error
}

// A Walker is told what Walk comes to. An error that it returns ends the walk.
type Walker interface {
	// Document is told of each document once, and of one that names others before those.
	Document(Document) error
	// Image is told of each image after its documents, with all that could be
	// read of it, whatever is wrong with them. Its layers have diff IDs if the
	// config has as many.
	Image(context.Context, *Image) error
}

// Walk goes through the documents that ref leads to, as Resolve does, but what
// is wrong with one does not end it: it goes on with what can be read. With
// all, it goes to the images of all platforms and to the artifacts beside
// them, otherwise to the image that Resolve would return. The bytes of layers
// are for w to look at. Errors are those of Resolve which are about no
// document, and w's.
func (f *Fetcher) Walk(ctx context.Context, ref Reference, all bool, w Walker) error {
	r, err := f.resolver(ctx, ref)
	if err != nil {
		return err
	}
	r.walk = &walk{Walker: w, all: all}
	found, err := r.candidates(ctx)
	if err != nil {
		return err
	}
	if !all {
		if found, err = r.chosen(ctx, found); err != nil {
			return err
		}
	}
	for _, c := range found {
		if err := r.visit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// A walk is a Walk under way. A nil one stands for none.
type walk struct {
	Walker
	all   bool
	wrong bool // something is
}

func (w *walk) everything() bool { return w != nil && w.all }

// chosen returns the candidate that Resolve would choose; none where what was wrong before has left none.
func (r *resolver) chosen(ctx context.Context, all []*candidate) ([]*candidate, error) {
	if len(all) == 0 && r.walk.wrong {
		return nil, nil
	}
	c, err := r.choose(ctx, all)
	if err != nil {
		return nil, err
	}
	return []*candidate{c}, nil
}

// visit goes to the documents of an image, and tells of it.
func (r *resolver) visit(ctx context.Context, c *candidate) error {
	if err := r.loadConfig(ctx, c); err != nil {
		return err
	}
	if c.manifest == nil || c.manifest.schema1 != nil && c.parsed == nil { // not even the sizes of layers are known
		return nil
	}
	im, err := r.image(c)
	if err != nil {
		return err
	}
	return r.walk.Image(ctx, im)
}

// tell tells a walk of a document, and what is wrong with it. For Resolve, that is the end.
func (r *resolver) tell(ctx context.Context, d Document, err error) error {
	if r.walk == nil || ctx.Err() != nil {
		return err
	}
	d.Made = d.Made || r.makes(d.Kind)
	d.Err = err
	r.walk.wrong = r.walk.wrong || err != nil
	return r.walk.Document(d)
}

// check checks the manifest of an image. A walk also goes through what is none.
func (r *resolver) check(c *candidate, m *manifest) error {
	err := m.check(r.ref.Name())
	if c.artifact = r.walk != nil && errors.Is(err, errors.ErrUnsupported); c.artifact {
		return m.checkDescriptors(r.ref.Name())
	}
	return err
}

// compareType compares what a manifest says that it is with what names it. Resolve goes by the manifest alone.
func (w *walk) compareType(ref Reference, c *candidate) error {
	said, is := c.MediaType, c.manifest.MediaType
	if w == nil || said == "" || said == is || is == dockerSchema1 && said == dockerSchema1Signed {
		return nil
	}
	return &MismatchError{What: "media type of " + c.Digest.String() + " of " + ref.Name(), Expected: printable(said), Found: is}
}

// document describes the manifest of c.
func (c *candidate) document() Document {
	d := Document{Kind: "manifest", Digest: c.Digest, MediaType: c.MediaType, Platform: c.Platform, Size: -1}
	if c.raw != nil {
		d.Size = int64(len(c.raw))
	}
	if c.manifest != nil {
		d.MediaType = c.manifest.MediaType
	}
	if isIndexType(d.MediaType) {
		d.Kind = "index"
	}
	return d
}

// configDocument describes the config of c.
func (c *candidate) configDocument() Document {
	d := Document{Kind: "config", Size: -1, Made: c.manifest.schema1 != nil}
	if c.manifest.Config != nil {
		d.Digest, d.MediaType = c.manifest.Config.Digest, c.manifest.Config.MediaType
	}
	if c.config != nil {
		d.Size = int64(len(c.config))
	}
	return d
}
