package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/index"
)

// An indexed is an index, and a reader of the layer's tar by it.
type indexed struct {
	index  *index.Index
	size   int64         // of the index in bytes
	reader *index.Reader // nil until it is used
	file   *os.File      // nil if the index is in memory
	frames *os.File      // nil if the layer needs none
}

func (x *indexed) close() {
	if x.reader != nil {
		x.reader.Close()
	}
	for _, f := range []*os.File{x.file, x.frames} {
		if f != nil {
			f.Close()
		}
	}
}

// newReader makes the reader of the layer's tar.
func (x *indexed) newReader(blob index.Blob, m index.Memory) {
	var frames io.ReaderAt
	if x.frames != nil {
		frames = x.frames
	}
	x.reader = index.NewReader(x.index, blob, frames, m)
}

// cachedIndex opens what the cache has as the index of a layer, and its frames. What is of no use is as good as nothing: nil.
// blob is the digest of the layer as the index has to have it; "" if that is not known.
func (s *session) cachedIndex(layer, blob digest.Digest) (*indexed, error) {
	f, err := s.cache.OpenIndex(layer)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x := &indexed{file: f}
	err = x.open(s.cache.OpenFrames, layer)
	if err == nil && blob != "" && x.index.Blob() != blob {
		err = fmt.Errorf("it is that of layer %s", x.index.Blob())
	}
	if err != nil {
		x.close()
		s.app.log.Info("a cached index is of no use", "layer", layer, "why", err)
		return nil, nil
	}
	return x, nil
}

// check reads all that there is a file of.
func (x *indexed) check(ctx context.Context, c *cache.Cache, layer digest.Digest) error {
	look := func(layer digest.Digest) (*os.File, error) { return c.Look(cache.Frames, layer) }
	if err := x.open(look, layer); err != nil {
		return err
	}
	return x.index.Check(readerAtFunc(func(p []byte, off int64) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return x.frames.ReadAt(p, off)
	}))
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// open opens what there is a file of.
func (x *indexed) open(frames func(layer digest.Digest) (*os.File, error), layer digest.Digest) error {
	st, err := x.file.Stat()
	if err != nil {
		return err
	}
	x.size = st.Size()
	if x.index, err = index.Open(x.file, x.size); err != nil {
		return err
	}
	want := x.index.FramesSize()
	if want == 0 {
		return nil
	}
	if x.frames, err = frames(layer); err != nil {
		if errors.Is(err, iofs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", index.ErrDamaged, err)
		}
		return err
	}
	if st, err = x.frames.Stat(); err != nil {
		return err
	}
	if st.Size() != want {
		return fmt.Errorf("%w: its frames are %d bytes, and not %d", index.ErrDamaged, st.Size(), want)
	}
	return nil
}
