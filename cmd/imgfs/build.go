package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/index"
)

// build builds the index of the layer and opens it. A blob that is not what it should be is streamed once more if it may be better
// then: what the cache had of it may be torn after a power failure, and a mirror may be wrong.
func (l *layer) build(ctx context.Context, p *progress) (*indexed, error) {
	if err := l.openBlob(); err != nil {
		return nil, err
	}
	for {
		x, err := l.buildOnce(ctx, p)
		if exitCode(err) != exitVerification || l.blob == nil || !l.blob.Distrust() {
			return x, err
		}
		l.session.app.log.Warn("a layer is not what it should be, and is fetched anew", "layer", l.Digest, "why", err)
	}
}

// buildOnce builds the index in the cache if it can be, and in memory otherwise.
func (l *layer) buildOnce(ctx context.Context, p *progress) (*indexed, error) {
	err := l.buildInCache(ctx, p)
	if err == nil {
		x, err := l.cachedIndex()
		if err == nil && x == nil {
			err = fmt.Errorf("layer %s: the index just built can't be read", l.Digest)
		}
		return x, err
	}
	var broken cacheWriteError
	if !errors.As(err, &broken) {
		return nil, err
	}
	l.session.app.log.Warn("the cache takes no index, it is built in memory", "layer", l.Digest, "why", broken.err)
	return l.buildInMemory(ctx, p)
}

// buildInMemory keeps the index in memory. The frames, which are as large as the layer, go to a temporary file.
func (l *layer) buildInMemory(ctx context.Context, p *progress) (_ *indexed, err error) {
	x := &indexed{}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	var buf bytes.Buffer
	frames := func() (io.Writer, error) {
		f, err := namelessFile()
		if err != nil {
			return nil, fmt.Errorf("a part of the layer can't be entered, and there is no place for it: %w", err)
		}
		x.frames = f
		return f, nil
	}
	if err := l.stream(ctx, p, func(*cache.Stream) index.Output { return index.Output{Index: &buf, Frames: frames} }); err != nil {
		return nil, err
	}
	x.size = int64(buf.Len())
	x.index, err = index.Open(bytes.NewReader(buf.Bytes()), x.size)
	return x, err
}

// namelessFile makes a file that is gone when it is closed, however this process ends.
func namelessFile() (*os.File, error) {
	f, err := os.CreateTemp("", "imgfs-frames-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A cacheWriteError is a failure to keep something: no reason not to go on without.
type cacheWriteError struct{ err error }

func (e cacheWriteError) Error() string { return e.err.Error() }
func (e cacheWriteError) Unwrap() error { return e.err }

func (l *layer) buildInCache(ctx context.Context, p *progress) error {
	m := made{cache: l.session.cache, layer: l.Digest}
	defer m.abort()
	x, err := m.create(cache.Indexes)
	if err != nil {
		return err
	}
	err = l.stream(ctx, p, func(blob *cache.Stream) index.Output {
		return index.Output{Index: &madeWriter{x, blob}, Frames: func() (io.Writer, error) {
			f, err := m.create(cache.Frames)
			return &madeWriter{f, blob}, err
		}}
	})
	if err != nil {
		return err
	}
	return m.commit()
}

// A made is what is made of a layer in the cache: the index, and then the frames, if it needs them.
type made struct {
	cache *cache.Cache
	layer digest.Digest
	temps []*cache.Temp
}

func (m *made) create(kind cache.Kind) (*cache.Temp, error) {
	t, err := m.cache.Create(kind, m.layer)
	if err != nil {
		return nil, cacheWriteError{err}
	}
	m.temps = append(m.temps, t)
	return t, nil
}

// commit gives the index its name last, so that there is never one whose frames are still to come.
func (m *made) commit() error {
	for _, t := range slices.Backward(m.temps) {
		if err := t.Commit(); err != nil {
			return cacheWriteError{err}
		}
	}
	return nil
}

// abort drops what is not committed.
func (m *made) abort() {
	for _, t := range m.temps {
		t.Abort()
	}
}

// A madeWriter writes to the cache what is made of a layer. When there is no room, that of the layer's blob is given up:
// what is made of it is worth more.
type madeWriter struct {
	temp *cache.Temp
	blob *cache.Stream // nil for a layer that is read in place
}

func (w *madeWriter) Write(b []byte) (int, error) {
	n, err := w.temp.Write(b)
	if err != nil && w.blob != nil && w.blob.GiveUp() {
		var more int
		more, err = w.temp.Write(b[n:])
		n += more
	}
	if err != nil {
		err = cacheWriteError{err}
	}
	return n, err
}

// stream reads the layer once and writes its index, and its frames, to what to gives. A blob that is not here comes through the
// cache, which keeps it, and has what a stream before this one has fetched.
func (l *layer) stream(ctx context.Context, p *progress, to func(*cache.Stream) index.Output) error {
	bar := p.start(l.label, l.Size)
	defer bar.done()
	var blob *cache.Stream
	r, cached := until(ctx, io.NewSectionReader(l.src, 0, l.Size)), nothingCached
	if l.blob != nil {
		blob = l.blob.Stream(ctx)
		defer blob.Close()
		if l.session.indexOnly {
			blob.KeepNothing()
		}
		r, cached = blob, blob.Cached
	}
	began := time.Now()
	if err := index.Build(bar.reader(r, cached), l.want(), to(blob)); err != nil {
		return err
	}
	l.session.app.log.Info("indexed", "what", l.label, "layer", l.want().Blob, "bytes", l.Size, "cached", cached(), "took", time.Since(began))
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
