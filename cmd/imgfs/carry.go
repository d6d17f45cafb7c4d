package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
)

// A carrier opens the layers of a bundle: in the cache where it has them whole, and where they come from otherwise.
type carrier struct {
	session *session
	bars    *progress
	source  fetcher.Bundle

	mu    sync.Mutex             // protects the following
	right map[digest.Digest]bool // of those that were read in the cache
}

// carry has the layers of a bundle come from the cache where it has them, with a bar for each.
func (s *session) carry(b *fetcher.Bundle, p *progress) {
	c := &carrier{session: s, bars: p, source: *b, right: map[digest.Digest]bool{}}
	b.Open, b.Doubt = c.open, c.doubt
}

func (c *carrier) open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r, err := c.openCached(ctx, d)
	cached := r != nil
	if !cached && err == nil {
		r, err = c.source.Open(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	bar, had := c.bars.start(c.label(d), d.Size), int64(0)
	if cached {
		had = d.Size
	}
	return &carried{bar.reader(r, func() int64 { return had }), func() error {
		bar.done()
		return r.Close()
	}}, nil
}

func (c *carrier) label(d v1.Descriptor) string {
	i := slices.IndexFunc(c.source.Layers, func(l v1.Descriptor) bool { return l.Digest == d.Digest })
	return fmt.Sprintf("layer %d of %d", i+1, len(c.source.Layers))
}

// openCached opens a layer in the cache; nil where that does not have it whole.
func (c *carrier) openCached(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if right, known := c.right[d.Digest]; known && !right {
		return nil, nil
	}
	cached, size, err := c.session.cache.HasBlob(d.Digest)
	if err != nil || cached < size || size != d.Size {
		return nil, nil
	}
	b, err := c.session.cache.Blob(d.Digest, d.Size, nowhere{d.Digest})
	if err != nil {
		return nil, err
	}
	c.right[d.Digest] = true
	return &carried{until(ctx, io.NewSectionReader(b, 0, d.Size)), b.Close}, nil
}

// doubt drops a layer that is not right in the cache. Elsewhere there may be somebody else to ask.
func (c *carrier) doubt(d v1.Descriptor) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.right[d.Digest] {
		return c.source.Doubt != nil && c.source.Doubt(d)
	}
	c.right[d.Digest] = false
	b, err := c.session.cache.Blob(d.Digest, d.Size, nowhere{d.Digest})
	if err == nil {
		err = errors.Join(b.Discard(0, d.Size), b.Close())
	}
	c.session.app.log.Warn("a cached blob was not what it should be, and is dropped", "layer", d.Digest, "error", err)
	return true
}

// nowhere is the source of a blob that should be in the cache as a whole.
type nowhere struct{ digest digest.Digest }

func (n nowhere) ReadAt([]byte, int64) (int, error) {
	return 0, &fetcher.MismatchError{What: "cached blob " + n.digest.String(), Expected: "all of it", Found: "less"}
}

func (n nowhere) Open(context.Context, int64, int64) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s is in the cache alone", n.digest)
}

// A carried is a stream and how it is closed.
type carried struct {
	io.Reader
	close func() error
}

func (c *carried) Close() error { return c.close() }
