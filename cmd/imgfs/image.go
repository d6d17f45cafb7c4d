package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
	"imgfs/layers"
)

// A session is the wiring of one command that works on images: where they come from, where they are kept.
type session struct {
	app     *app
	cache   *cache.Cache
	fetch   *fetcher.Fetcher
	memory  *cache.Memory
	tars    tarFiles
	offline bool

	indexOnly bool // the bytes of layers that are indexed are not kept
}

func (a *app) newSession(f *imageFlags) (*session, error) {
	c, err := a.openCache(&f.cacheFlags)
	if err != nil {
		return nil, err
	}
	s := &session{app: a, cache: c, memory: cache.NewMemory(int64(f.memory)), offline: f.offline}
	options := f.options(a, store{c})
	options.OpenTar, options.Digest = s.openTar, s.fileDigest
	if s.fetch, err = fetcher.New(options); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() {
	s.tars.close()
	s.cache.Close()
}

// A store is the cache as the fetcher knows it.
type store struct{ *cache.Cache }

// Document is the cache's, which drops what is damaged.
func (s store) Document(d digest.Digest) ([]byte, error) {
	b, err := s.Cache.Document(d)
	if errors.Is(err, cache.ErrDamaged) {
		err = fmt.Errorf("%w: in the cache it was damaged, and has been dropped", fetcher.ErrMismatch)
	}
	return b, err
}

func (s store) TagDigest(ref string) (digest.Digest, error) {
	r, err := s.Ref(ref)
	return r.Digest, err
}

func (s store) PutTag(ref string, d digest.Digest, mediaType string) error {
	return s.PutRef(cache.Ref{Name: ref, Digest: d, MediaType: mediaType, Time: time.Now()})
}

// BlobSize is what an index or a blob that is there tells.
func (s store) BlobSize(d digest.Digest) (int64, error) {
	f, err := s.OpenIndex(d)
	if err != nil {
		cached, size, err := s.HasBlob(d)
		if err == nil && cached < size {
			err = fmt.Errorf("%w: of layer %s only a part is cached, and nobody has checked it", iofs.ErrNotExist, d)
		}
		return size, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	x, err := index.Open(f, st.Size())
	if err != nil {
		return 0, fmt.Errorf("%w: %w", iofs.ErrNotExist, err) // it is of no use
	}
	return x.Size(), nil
}

// resolve turns a reference into the image it names.
func (s *session) resolve(ctx context.Context, reference string) (*fetcher.Image, error) {
	ref, err := fetcher.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	return s.fetch.Resolve(ctx, ref)
}

// withImage resolves a reference and runs do on what it names.
func (a *app) withImage(ctx context.Context, f *imageFlags, reference string, do func(*session, *fetcher.Image) error) error {
	s, err := a.newSession(f)
	if err != nil {
		return err
	}
	defer s.close()
	im, err := s.resolve(ctx, reference)
	if err != nil {
		return err
	}
	return do(s, im)
}

// An image is an image that can be read: its layers indexed and merged.
type image struct {
	*fetcher.Image
	tree   *layers.Tree
	layers []*layer
	closed sync.Once
}

// open resolves a reference, indexes those of its layers that are not, side by side, and merges them.
func (s *session) open(ctx context.Context, reference string) (*image, error) {
	im, err := s.resolve(ctx, reference)
	if err != nil {
		return nil, err
	}
	return s.openResolved(ctx, im)
}

// openResolved is open for an image that is resolved.
func (s *session) openResolved(ctx context.Context, im *fetcher.Image) (*image, error) {
	opened, err := s.openLayers(ctx, im)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.Ref.Name(), err)
	}
	return opened, nil
}

func (s *session) openLayers(ctx context.Context, im *fetcher.Image) (_ *image, err error) {
	opened := &image{Image: im, layers: make([]*layer, len(im.Layers))}
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	progress := s.app.newProgress("indexing")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i := range im.Layers {
		g.Go(func() (err error) {
			opened.layers[i], err = s.openLayer(ctx, im, i, progress)
			return err
		})
	}
	err = g.Wait()
	progress.wait() // lines of the log that come before would be drawn over
	if err != nil {
		return nil, err
	}
	err = opened.merge(s.app)
	for range opened.layers {
		if !errors.Is(err, index.ErrDamaged) {
			break
		}
		err = opened.merge(s.app) // the damaged index has been built anew
	}
	return opened, err
}

func (im *image) merge(a *app) error {
	ls := make([]layers.Layer, len(im.layers))
	for i, l := range im.layers {
		ls[i] = layers.Layer{Digest: l.Digest, Entries: l.entries(), NumEntries: l.current.Load().index.NumEntries(), Tar: l}
	}
	tree, warnings, err := layers.Merge(ls)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.log.Warn(w.String())
	}
	im.tree = tree
	return nil
}

// close lets go of the layers, once however often it is called. Reads under way fail.
func (im *image) close() {
	im.closed.Do(func() {
		for _, l := range im.layers {
			if l != nil {
				l.close()
			}
		}
	})
}
