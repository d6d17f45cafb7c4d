package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// A Source is where a blob comes from. It is read from several goroutines at
// once, bounds its own time, and retries what is worth it: the cache passes
// its errors on to those who wait, and asks again at the next read.
type Source interface {
	// ReadAt fetches a range. An error that wraps [errors.ErrUnsupported] says
	// that ranges are not to be had; it is not asked again.
	io.ReaderAt
	// Open fetches n bytes from off on, and ends with [io.EOF] behind them. An
	// error that wraps [errors.ErrUnsupported] says, as that of ReadAt does, that
	// ranges are not to be had; the whole blob always is.
	Open(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

// A Doubter is a Source that can go on elsewhere.
type Doubter interface {
	// Doubt says that bytes were found to be wrong, and tells whether those to
	// come are from somebody else.
	Doubt() bool
}

// A Blob reads a layer's compressed bytes: from the cache what is there, from
// its source the rest, which is then kept. It is safe for concurrent use. The
// bytes are not checked but for their number; see [Blob.Discard].
//
// A range is fetched once, by whoever misses it first, for all readers of the
// Blob and for all processes. It is fetched apart from the readers: none that
// goes away fails the others.
type Blob struct {
	digest   digest.Digest
	size     int64
	src      Source
	file     *blobFile // nil where there can be none: nothing is kept
	log      *slog.Logger
	uncached func(error)
	behind   *semaphore.Weighted
	patience time.Duration

	closing   chan struct{} // closed by Close
	running   sync.WaitGroup
	rangeless atomic.Bool // the source has no ranges
	lossy     atomic.Bool // something that was fetched could not be kept
	reused    atomic.Bool // a Stream has given bytes that were there before
	blamed    atomic.Bool // they were found to be wrong
	stats     blobCounters

	// mu protects the following.
	mu      sync.Mutex
	closed  bool
	flights []*flight // under way; no two of them overlap
	spool   *spool    // nil while the blob is not streamed
}

type blobCounters struct{ hits, misses atomic.Int64 }

// BlobStats count what a Blob did since it was opened, and say how it stands.
type BlobStats struct {
	Hits      int64 // reads that the cache served alone
	Misses    int64 // reads that waited for a fetch, their own or another's
	Cached    int64 // bytes of it that are in the cache, as far as this process has learnt
	Rangeless bool  // its source has shown that it serves no ranges
}

// Blob opens the blob of that digest and size for reading through the cache.
// What the cache has of it under another size is dropped. Until the Blob is
// closed it is in use: Remove skips it. A cache that can't be written to is
// no error; the Blob then keeps nothing.
func (c *Cache) Blob(d digest.Digest, size int64, src Source) (*Blob, error) {
	name, err := Blobs.path(d)
	if err != nil {
		return nil, err
	}
	if size < 0 || size > maxBlob {
		return nil, fmt.Errorf("cache: blob %s: a size of %d bytes is not possible", d, size)
	}
	file, err := c.openBlobFile(name, size)
	if err != nil {
		c.uncached(err)
	}
	return &Blob{
		digest: d, size: size, src: src, file: file, log: c.log, uncached: c.uncached,
		behind: c.behind, patience: c.patience, closing: make(chan struct{}),
	}, nil
}

// Close waits for the fetches under way, then lets the blob go. Reads fail
// with [os.ErrClosed] from then on. A fetch lasts as long as the source lets
// it: who will not wait ends the source's calls first, by closing it. Their
// errors go to those who still read, and are not logged. The file of a Blob of
// which there is nothing goes.
func (b *Blob) Close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	close(b.closing)
	b.running.Wait()
	if b.file == nil {
		return nil
	}
	b.file.tidy()
	return b.file.close()
}

// Stats returns the counters.
func (b *Blob) Stats() BlobStats {
	s := BlobStats{Hits: b.stats.hits.Load(), Misses: b.stats.misses.Load(), Rangeless: b.rangeless.Load()}
	if b.file != nil {
		b.file.mu.RLock()
		s.Cached = b.file.present.bytes()
		b.file.mu.RUnlock()
	}
	return s
}

// ReadAt implements [io.ReaderAt]. The errors of the source are passed on.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("cache: blob %s: read at %d: %w", b.digest, off, fs.ErrInvalid)
	}
	if off >= b.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), b.size-off)]
	n, missed := 0, false
	for n < len(want) {
		k, fetched, err := b.readSome(want[n:], off+int64(n))
		n += k
		missed = missed || fetched
		if err != nil {
			b.stats.misses.Add(1)
			return n, fmt.Errorf("cache: blob %s: read %d bytes at %d: %w", b.digest, len(p), off, err)
		}
	}
	if missed {
		b.stats.misses.Add(1)
	} else {
		b.stats.hits.Add(1)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readSome reads the beginning of p: what is in the file from off on or, when
// nothing is, what a fetch brings. It may read nothing without an error; then
// the state has changed, and it is to be called again.
func (b *Blob) readSome(p []byte, off int64) (n int, fetched bool, err error) {
	if n, err = b.file.readPresent(p, off); n > 0 {
		return n, false, nil
	}
	if err != nil {
		if err := b.mend(piece{off, off + int64(len(p))}, err); err != nil {
			return 0, false, err
		}
	}
	f, err := b.join(off, off+int64(len(p)))
	if f == nil {
		return 0, false, err
	}
	<-f.ready
	if f.err != nil {
		return 0, true, f.err
	}
	return f.copy(p, off), true, nil
}

// mend drops a piece that can't be read: the file is shorter than its map says,
// or the disk is failing.
func (b *Blob) mend(p piece, why error) error {
	if errors.Is(why, os.ErrClosed) {
		return why
	}
	b.log.Warn("damaged blob in the cache; it is fetched anew", "blob", b.digest, "offset", p.lo, "err", why)
	return b.drop(p)
}

func (b *Blob) doubt() bool {
	d, ok := b.src.(Doubter)
	return ok && d.Doubt()
}

// Discard drops n bytes from off on, which were found to be wrong, so that
// the next read fetches them again. Bytes that another process has dropped
// since they were read are left alone: what is there now is newer.
func (b *Blob) Discard(off, n int64) error {
	if off < 0 || n < 0 || off > b.size {
		return fmt.Errorf("cache: blob %s: discard %d bytes at %d: %w", b.digest, n, off, fs.ErrInvalid)
	}
	b.doubt()
	return b.drop(piece{off, off + min(n, b.size-off)})
}

// Distrust drops all that there is of the blob, which as a whole was found not
// to be what it should be, and tells whether another [Blob.Stream] may be
// better: because the cache had some of it, which is believed once, or because
// there is somebody else to ask.
func (b *Blob) Distrust() (again bool) {
	return b.drop(piece{0, b.size}) == nil && b.elsewhere()
}

// elsewhere tells whether bytes that were wrong may come from elsewhere. Those
// that were there before are to blame before the source is.
func (b *Blob) elsewhere() bool {
	return b.reused.Load() && !b.blamed.Swap(true) || b.doubt()
}

// drop makes a piece missing.
func (b *Blob) drop(p piece) error {
	if b.file == nil || p.lo == p.hi {
		return nil
	}
	f, err := b.reserve(p)
	if err != nil {
		return err
	}
	defer b.land(f)
	if !b.file.writable {
		b.file.forget(p)
		return nil
	}
	// Without the lock what is on disk stays; this process does not use it.
	if err := waitLock(b.closing, b.patience, b.file.f, unix.F_WRLCK, p.lo, p.hi-p.lo); err != nil {
		b.file.forget(p)
		return nil
	}
	defer unlock(b.file.f, p.lo, p.hi-p.lo)
	if err := b.file.discard(b.closing, p); err != nil {
		b.uncached(err)
	}
	return nil
}
