package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
)

// A layer is a layer that can be read at random.
type layer struct {
	session *session
	fetcher.Layer
	label   string // for people: "layer 2 of 5"
	src     *fetcher.Blob
	blob    *cache.Blob // nil for a layer that is read in place, and until it is needed
	unnamed bool        // its Digest stands in for the one that only streaming it tells
	current atomic.Pointer[indexed]
	failed  atomic.Pointer[error] // to build a damaged index anew, the last time

	mu  sync.Mutex // guards old, and current while it is replaced
	old []*indexed // damaged ones, at which other reads may still be
}

// inPlace is a blob that is a file of the image's own: nothing is cached, so nothing can be dropped.
type inPlace struct{ io.ReaderAt }

func (inPlace) Discard(int64, int64) error { return nil }
func (inPlace) Fetch(int64, int64) error   { return nil }

// openLayer opens layer i of an image by its index from the cache, or by the one it builds.
func (s *session) openLayer(ctx context.Context, im *fetcher.Image, i int, p *progress) (_ *layer, err error) {
	l := &layer{session: s, Layer: im.Layers[i], label: layerLabel(im, i)}
	if l.src, err = s.fetch.Blob(ctx, im, l.Layer); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	x, err := l.openIndex(ctx, p)
	if err != nil {
		return nil, err
	}
	// Not before: what the cache has is of more worth than a size that the image may have wrong.
	if err := l.openBlob(); err != nil {
		x.close()
		return nil, err
	}
	l.use(x)
	return l, nil
}

// layerLabel is what people are told of layer i.
func layerLabel(im *fetcher.Image, i int) string {
	return fmt.Sprintf("layer %d of %d", i+1, len(im.Layers))
}

// openBlob opens the blob in the cache, unless it is open or is read in place.
func (l *layer) openBlob() (err error) {
	if l.blob == nil && !l.src.Local() {
		l.blob, err = l.session.cache.Blob(l.Digest, l.Size, l.src)
	}
	return err
}

// use makes an index the current one.
func (l *layer) use(x *indexed) {
	var blob index.Blob = inPlace{l.src}
	if l.blob != nil {
		blob = l.blob
	}
	x.newReader(blob, l.session.memory)
	l.current.Store(x)
}

// close lets go of the layer. The source comes first, which ends what waits for the network; then who reads ahead, so that
// nobody uses blob and indexes any more.
func (l *layer) close() {
	l.src.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range append(l.old, l.current.Load()) {
		if x != nil {
			x.close()
			l.session.cache.Used(l.Digest)
		}
	}
	if l.blob != nil {
		l.blob.Close()
	}
}

// decoded is the number of spans that were decoded.
func (l *layer) decoded() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.current.Load().reader.Decoded()
	for _, x := range l.old {
		n += x.reader.Decoded()
	}
	return n
}

// ReadAt reads the layer's tar. An index that turns out to be damaged is built anew.
func (l *layer) ReadAt(p []byte, off int64) (n int, err error) {
	err = l.read(func(r *index.Reader) error {
		n, err = r.ReadAt(p, off)
		return err
	})
	return n, err
}

// Hold gives bytes of the layer's tar without a copy, as index.Reader's.
func (l *layer) Hold(parts []index.Part, off int64, n int) (held []index.Part, err error) {
	err = l.read(func(r *index.Reader) error {
		held, err = r.Hold(parts, off, n)
		return err
	})
	return held, err
}

// HoldReady gives bytes of the layer's tar that are decoded, as index.Reader's.
func (l *layer) HoldReady(parts []index.Part, off int64, n int) []index.Part {
	return l.current.Load().reader.HoldReady(parts, off, n)
}

// read reads once, and once more if the index is damaged and can be built anew.
func (l *layer) read(read func(*index.Reader) error) error {
	x := l.current.Load()
	err := read(x.reader)
	if !errors.Is(err, index.ErrDamaged) {
		return err
	}
	if x, err = l.rebuilt(x, err); err != nil {
		return err
	}
	return read(x.reader)
}

// entries gives the entries of the layer's tar. An index that turns out to be damaged is built anew: ask again.
func (l *layer) entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		x := l.current.Load()
		for e, err := range x.index.Entries() {
			if errors.Is(err, index.ErrDamaged) {
				if _, failed := l.rebuilt(x, err); failed != nil {
					err = failed
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// maxRebuilds bounds how often a layer's index is built anew under a mount: a disk that goes on damaging it, or a flaw of
// ours that does, would have the blob streamed for every read.
const maxRebuilds = 3

// rebuilt is the index in the place of a damaged one: built now, unless another reader or process was faster.
func (l *layer) rebuilt(damaged *indexed, why error) (*indexed, error) {
	return l.rebuiltSince(l.failed.Load(), damaged, why)
}

// rebuiltSince is rebuilt for a reader who came when the last failure was that one. If there is another by the time it is its
// turn, that is its answer as well: a hundred readers do not wait for a registry one after the other.
func (l *layer) rebuiltSince(last *error, damaged *indexed, why error) (*indexed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.current.Load(); x != damaged {
		return x, nil
	}
	if failed := l.failed.Load(); failed != last {
		return nil, *failed
	}
	if len(l.old) == maxRebuilds {
		return nil, why
	}
	x, err := l.replace(damaged)
	if err != nil {
		err = fmt.Errorf("building a damaged index anew: %w", err)
		l.failed.Store(&err)
		return nil, err
	}
	l.session.app.log.Warn("an index was damaged, and has been built anew", "layer", l.Digest, "why", why)
	l.old = append(l.old, damaged)
	l.use(x)
	damaged.reader.Close() // who reads by it goes on
	return x, nil
}

func (l *layer) replace(damaged *indexed) (*indexed, error) {
	// Who holds the lock for longer may be building it as well, but readers do not wait for that.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if unlock, err := l.session.cache.Lock(ctx, l.Digest, nil); err == nil {
		defer unlock()
	}
	if x, err := l.cachedIndex(); err != nil {
		return nil, err
	} else if x != nil {
		if !sameFile(x.file, damaged.file) {
			return x, nil
		}
		x.close()
	}
	return l.build(context.Background(), &progress{})
}

func sameFile(a, b *os.File) bool {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// openIndex opens the index from the cache, or builds it.
func (l *layer) openIndex(ctx context.Context, p *progress) (*indexed, error) {
	if x, err := l.cachedIndex(); x != nil || err != nil {
		return x, err
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Whoever held the lock may have built it.
	if x, err := l.cachedIndex(); x != nil || err != nil {
		return x, err
	}
	return l.build(ctx, p)
}

// lock keeps others from building the index as well.
func (l *layer) lock(ctx context.Context) (unlock func(), err error) {
	log := l.session.app.log
	waiting := func() { log.Warn("waiting for another imgfs, which indexes the same layer", "layer", l.Digest) }
	unlock, err = l.session.cache.Lock(ctx, l.Digest, waiting)
	if err != nil && ctx.Err() == nil { // a cache that can't be written to: nobody else can build it there either
		log.Info("layer is not locked", "layer", l.Digest, "why", err)
		return func() {}, nil
	}
	return unlock, err
}

// cachedIndex opens the index from the cache, if there is one that is of use; nil otherwise.
func (l *layer) cachedIndex() (*indexed, error) {
	x, err := l.session.cachedIndex(l.Digest, l.want().Blob)
	if x == nil || err != nil {
		return nil, err
	}
	// The index holds what the blob is; another image may claim that it is something else.
	if err := l.check(x.index); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// want is what the blob has to be.
func (l *layer) want() index.Want {
	want := index.Want{Blob: l.Digest, Size: l.Size, DiffID: l.DiffID}
	if l.unnamed {
		want.Blob = ""
	}
	return want
}

// check compares what the image says of the layer with what it is.
func (l *layer) check(x *index.Index) error {
	if l.DiffID != "" && l.DiffID != x.DiffID() {
		return &index.MismatchError{Blob: l.Digest, What: "diff ID", Expected: l.DiffID.String(), Found: x.DiffID().String()}
	}
	if l.Size != x.Size() {
		return &index.MismatchError{Blob: l.Digest, What: "size", Expected: fmt.Sprint(l.Size), Found: fmt.Sprint(x.Size())}
	}
	return nil
}
