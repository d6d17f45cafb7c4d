package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/index"
)

// build builds the index of the layer, in the cache if it can be and in memory otherwise, and opens it.
func (l *layer) build(ctx context.Context, p *progress) (*indexed, error) {
	err := l.buildInCache(ctx, p)
	if err == nil {
		x, err := l.cachedIndex()
		if err == nil && x == nil {
			err = fmt.Errorf("layer %s: the index just built can't be read", l.Digest)
		}
		if err != nil {
			return nil, err
		}
		x.built = true
		return x, nil
	}
	var broken cacheWriteError
	if !errors.As(err, &broken) {
		return nil, err
	}
	l.session.app.log.Warn("the cache takes no index, it is built in memory", "layer", l.Digest, "why", broken.err)
	var buf bytes.Buffer
	if err := l.stream(ctx, p, func(*keeper) io.Writer { return &buf }); err != nil {
		return nil, err
	}
	x, err := index.Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		return nil, err
	}
	return &indexed{index: x, built: true}, nil
}

// A cacheWriteError is a failure to keep something: no reason not to go on without.
type cacheWriteError struct{ err error }

func (e cacheWriteError) Error() string { return e.err.Error() }
func (e cacheWriteError) Unwrap() error { return e.err }

func (l *layer) buildInCache(ctx context.Context, p *progress) error {
	t, err := l.session.cache.Create(cache.Indexes, l.Digest)
	if err != nil {
		return cacheWriteError{err}
	}
	defer t.Abort()
	err = l.stream(ctx, p, func(k *keeper) io.Writer { return &indexWriter{t, k} })
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

// fetchSize is how much of a blob is fetched at a time when it is read through the cache.
const fetchSize = 4 << 20

// stream reads the layer once and writes its index to what to gives. A blob that has to be fetched goes to the cache as
// well, and is kept if it is what it should be.
func (l *layer) stream(ctx context.Context, p *progress, to func(*keeper) io.Writer) error {
	want := index.Want{Blob: l.Digest, Size: l.Size, DiffID: l.DiffID}
	bar := p.layer(l.Digest, l.Size)
	defer bar.done()
	build := func(r io.Reader, k *keeper) error {
		return index.Build(bar.reader(until(ctx, r)), want, index.Output{Index: to(k)})
	}
	if l.src.Local() {
		return build(io.NewSectionReader(l.src, 0, l.Size), nil)
	}
	if l.blob != nil {
		// A mount reads through it already: what it lacks goes there, and is fetched once.
		return build(bufio.NewReaderSize(io.NewSectionReader(l.blob, 0, l.Size), fetchSize), nil)
	}
	if b := l.intactBlob(ctx); b != nil {
		defer b.Close()
		return build(io.NewSectionReader(b, 0, l.Size), nil)
	}
	r, err := l.src.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	k := l.newKeeper()
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

// intactBlob is the whole blob out of the cache, if it is there and its digest is right; nil otherwise.
func (l *layer) intactBlob(ctx context.Context) *cache.Blob {
	cached, size, err := l.session.cache.HasBlob(l.Digest)
	if err != nil || cached < size || size != l.Size {
		return nil
	}
	b, err := l.session.cache.Blob(l.Digest, l.Size, l.src)
	if err != nil {
		return nil
	}
	v := l.Digest.Verifier()
	_, err = io.Copy(v, until(ctx, io.NewSectionReader(b, 0, l.Size)))
	if err != nil || !v.Verified() {
		l.session.app.log.Warn("a cached blob is not what it should be, it is fetched anew", "layer", l.Digest, "why", err)
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

func (l *layer) newKeeper() *keeper {
	k := &keeper{log: l.session.app.log, digest: l.Digest}
	var err error
	if k.temp, err = l.session.cache.Create(cache.Blobs, l.Digest); err != nil {
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
