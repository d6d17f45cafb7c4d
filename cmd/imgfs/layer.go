package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
)

// A layer is a layer that can be read at random.
type layer struct {
	session *session
	index   *index.Index
	reader  *index.Reader
	blob    *cache.Blob // nil for a layer that is read in place
	files   []io.Closer // to be closed in this order: the source first, which ends reads that wait for the network
	damaged sync.Once
}

func (l *layer) close() {
	for _, f := range l.files {
		f.Close()
	}
}

// ReadAt reads the layer's tar.
func (l *layer) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.reader.ReadAt(p, off)
	l.notice(err)
	return n, err
}

// entries gives the entries of the layer's tar.
func (l *layer) entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		for e, err := range l.index.Entries() {
			l.notice(err)
			if !yield(e, err) {
				return
			}
		}
	}
}

// notice drops an index that turns out to be damaged, so that the next mount builds it anew.
func (l *layer) notice(err error) {
	if !errors.Is(err, index.ErrDamaged) {
		return
	}
	l.damaged.Do(func() {
		c, d, log := l.session.cache, l.index.Blob(), l.session.app.log
		log.Warn("an index is damaged, the next mount builds it anew", "layer", d, "why", err)
		// Who holds the lock is building it anew already; readers do not wait for that.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		unlock, err := c.Lock(ctx, d, nil)
		if err == nil {
			err = c.RemoveIndex(d)
			unlock()
		}
		if err != nil {
			log.Warn("a damaged index is not removed", "layer", d, "why", err)
		}
	})
}

// inPlace is a blob that is a file of the image's own: nothing is cached, so nothing can be dropped.
type inPlace struct{ io.ReaderAt }

func (inPlace) Discard(int64, int64) error { return nil }

// openLayer opens a layer by its index from the cache, or by the one it builds.
func (s *session) openLayer(ctx context.Context, im *fetcher.Image, l fetcher.Layer, p *progress) (_ *layer, err error) {
	opened := &layer{session: s}
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	src, err := s.fetch.Blob(ctx, im, l)
	if err != nil {
		return nil, err
	}
	opened.files = append(opened.files, src)
	if err := s.openIndex(ctx, opened, src, l, p); err != nil {
		return nil, err
	}
	var blob index.Blob = inPlace{src}
	if !src.Local() {
		opened.blob, err = s.cache.Blob(l.Digest, l.Size, src)
		if err != nil {
			return nil, err
		}
		opened.files = append(opened.files, opened.blob)
		blob = opened.blob
	}
	opened.reader = index.NewReader(opened.index, blob, s.memory)
	return opened, nil
}

func (s *session) openIndex(ctx context.Context, to *layer, src *fetcher.Blob, l fetcher.Layer, p *progress) error {
	found, err := s.cachedIndex(to, l)
	if found || err != nil {
		return err
	}
	switch unlock, err := s.cache.Lock(ctx, l.Digest, nil); {
	case err == nil:
		defer unlock()
	case ctx.Err() != nil:
		return err
	default: // a cache that can't be written to: nobody else can build it there either
		s.app.log.Info("layer is not locked", "layer", l.Digest, "why", err)
	}
	// Whoever held the lock may have built it.
	if found, err = s.cachedIndex(to, l); found || err != nil {
		return err
	}
	return s.buildIndex(ctx, to, src, l, p)
}

// cachedIndex opens the index of a layer from the cache; one that is of no use is as good as none.
func (s *session) cachedIndex(to *layer, l fetcher.Layer) (found bool, err error) {
	f, err := s.cache.OpenIndex(l.Digest)
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, err := f.Stat()
	if err == nil {
		to.index, err = index.Open(f, st.Size())
	}
	if err == nil && to.index.Blob() != l.Digest {
		err = fmt.Errorf("it is that of layer %s", to.index.Blob())
	}
	if err != nil {
		f.Close()
		s.app.log.Info("index is built anew", "layer", l.Digest, "why", err)
		return false, nil
	}
	to.files = append(to.files, f)
	// The index holds what the blob is; another image may claim that it is something else.
	if l.DiffID != "" && l.DiffID != to.index.DiffID() {
		return false, &index.MismatchError{Blob: l.Digest, What: "diff ID", Expected: l.DiffID.String(), Found: to.index.DiffID().String()}
	}
	if l.Size != to.index.Size() {
		return false, &index.MismatchError{Blob: l.Digest, What: "size", Expected: fmt.Sprint(l.Size), Found: fmt.Sprint(to.index.Size())}
	}
	return true, nil
}

// buildIndex builds the index of a layer, in the cache if it can be and in memory otherwise, and opens it.
func (s *session) buildIndex(ctx context.Context, to *layer, src *fetcher.Blob, l fetcher.Layer, p *progress) error {
	err := s.buildInCache(ctx, src, l, p)
	if err == nil {
		found, err := s.cachedIndex(to, l)
		if err == nil && !found {
			err = fmt.Errorf("layer %s: the index just built can't be read", l.Digest)
		}
		return err
	}
	var broken cacheWriteError
	if !errors.As(err, &broken) {
		return err
	}
	s.app.log.Warn("the cache takes no index, it is built in memory", "layer", l.Digest, "why", broken.err)
	var buf bytes.Buffer
	if err := s.stream(ctx, src, l, p, func(*keeper) io.Writer { return &buf }); err != nil {
		return err
	}
	to.index, err = index.Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	return err
}

// A cacheWriteError is a failure to keep something: no reason not to go on without.
type cacheWriteError struct{ err error }

func (e cacheWriteError) Error() string { return e.err.Error() }
func (e cacheWriteError) Unwrap() error { return e.err }

func (s *session) buildInCache(ctx context.Context, src *fetcher.Blob, l fetcher.Layer, p *progress) error {
	t, err := s.cache.Create(cache.Indexes, l.Digest)
	if err != nil {
		return cacheWriteError{err}
	}
	defer t.Abort()
	err = s.stream(ctx, src, l, p, func(k *keeper) io.Writer { return &indexWriter{t, k} })
	if err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return cacheWriteError{err}
	}
	return nil
}

// An indexWriter writes an index to the cache. When there is no room, that of the layer's blob is given up: the index is
// worth more.
type indexWriter struct {
	temp *cache.Temp
	blob *keeper
}

func (w *indexWriter) Write(b []byte) (int, error) {
	n, err := w.temp.Write(b)
	if err != nil && w.blob.giveUp(err) {
		var more int
		more, err = w.temp.Write(b[n:])
		n += more
	}
	if err != nil {
		err = cacheWriteError{err}
	}
	return n, err
}

// stream reads the layer once and writes its index to what to gives. A blob that has to be fetched goes to the cache as
// well, and is kept if it is what it should be.
func (s *session) stream(ctx context.Context, src *fetcher.Blob, l fetcher.Layer, p *progress, to func(*keeper) io.Writer) error {
	want := index.Want{Blob: l.Digest, Size: l.Size, DiffID: l.DiffID}
	bar := p.layer(l.Digest, l.Size)
	defer bar.done()
	build := func(r io.Reader, k *keeper) error { return index.Build(bar.reader(until(ctx, r)), want, to(k)) }
	if src.Local() {
		return build(io.NewSectionReader(src, 0, l.Size), nil)
	}
	if b := s.intactBlob(ctx, src, l); b != nil {
		defer b.Close()
		return build(io.NewSectionReader(b, 0, l.Size), nil)
	}
	r, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	k := s.newKeeper(l.Digest)
	defer k.abort()
	if err := build(io.TeeReader(r, k), k); err != nil {
		return err
	}
	k.commit()
	return nil
}

// until reads from r until ctx ends.
func until(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// intactBlob is the whole blob of a layer out of the cache, if it is there and its digest is right; nil otherwise.
func (s *session) intactBlob(ctx context.Context, src *fetcher.Blob, l fetcher.Layer) *cache.Blob {
	cached, size, err := s.cache.HasBlob(l.Digest)
	if err != nil || cached < size || size != l.Size {
		return nil
	}
	b, err := s.cache.Blob(l.Digest, l.Size, src)
	if err != nil {
		return nil
	}
	v := l.Digest.Verifier()
	if _, err = io.Copy(v, until(ctx, io.NewSectionReader(b, 0, l.Size))); err != nil || !v.Verified() {
		s.app.log.Warn("a cached blob is not what it should be, it is fetched anew", "layer", l.Digest, "why", err)
		b.Close()
		return nil
	}
	return b
}

// A keeper puts a blob into the cache while it streams by. Where the cache fails, the stream goes on without it.
type keeper struct {
	log    *slog.Logger
	digest digest.Digest
	temp   *cache.Temp // nil once it failed
}

func (s *session) newKeeper(d digest.Digest) *keeper {
	k := &keeper{log: s.app.log, digest: d}
	var err error
	if k.temp, err = s.cache.Create(cache.Blobs, d); err != nil {
		k.fail(err)
	}
	return k
}

// giveUp drops the blob, and tells whether there was one.
func (k *keeper) giveUp(err error) bool {
	if k == nil || k.temp == nil {
		return false
	}
	k.fail(err)
	return true
}

func (k *keeper) fail(err error) {
	k.log.Warn("a blob is not kept in the cache", "layer", k.digest, "why", err)
	k.abort()
}

func (k *keeper) Write(b []byte) (int, error) {
	if k.temp != nil {
		if _, err := k.temp.Write(b); err != nil {
			k.fail(err)
		}
	}
	return len(b), nil
}

func (k *keeper) commit() {
	if k.temp == nil {
		return
	}
	if err := k.temp.Commit(); err != nil {
		k.fail(err)
	}
}

// abort drops what is not committed.
func (k *keeper) abort() {
	if k.temp != nil {
		k.temp.Abort()
		k.temp = nil
	}
}
