package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A fetch brings at most maxFetch bytes, which bounds its memory and what is
// lost when it fails. Missing pieces that are at most fetchGap apart are
// fetched together: a request costs more than that many bytes.
const (
	maxFetch = 32 << 20
	fetchGap = 64 << 10
)

// Fetch fetches what is missing of n bytes from off on, and returns when it
// is in the file. It fetches nothing for a Blob that keeps nothing, or whose
// source has no ranges. Once something could not be kept it fails, for there
// is no sense in fetching more ahead of those who read it.
func (b *Blob) Fetch(off, n int64) error {
	if off < 0 || n < 0 || off > b.size {
		return fmt.Errorf("cache: blob %s: fetch %d bytes at %d: %w", b.digest, n, off, fs.ErrInvalid)
	}
	if b.file == nil || !b.file.writable || b.rangeless.Load() {
		return nil
	}
	want := piece{off, off + min(n, b.size-off)}
	for last := int64(-1); ; last = want.lo {
		want = b.file.hull(want)
		if want.lo == want.hi {
			return nil
		}
		if want.lo == last || b.lossy.Load() {
			return fmt.Errorf("cache: blob %s: fetch %d bytes at %d: %w", b.digest, n, off, errNotKept)
		}
		f, err := b.join(want.lo, want.hi)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		<-f.gone
		if f.err != nil {
			return f.err
		}
	}
}

// A flight is a range that one goroutine fetches, or drops, for all who want
// it. While it is in Blob.flights, nobody else changes its range.
type flight struct {
	piece
	ready chan struct{} // closed when the following are set
	got   piece         // what data holds; empty: look into the file
	data  []byte
	err   error
	gone  chan struct{} // closed when it has left Blob.flights
}

// copy copies what the flight has of p, which is wanted at off.
func (f *flight) copy(p []byte, off int64) int {
	if off < f.got.lo || off >= f.got.hi {
		return 0
	}
	return copy(p, f.data[off-f.got.lo:])
}

// join returns the flight that brings the byte at lo, and starts one, towards
// hi, when there is none. It returns none when the byte has come meanwhile.
func (b *Blob) join(lo, hi int64) (*flight, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, os.ErrClosed
	}
	for _, f := range b.flights {
		if f.lo <= lo && lo < f.hi {
			return f, nil
		}
		if f.lo > lo {
			hi = min(hi, f.lo)
		}
	}
	hi = min(hi, lo+maxFetch)
	if b.file != nil {
		b.file.mu.RLock()
		have := b.file.present.from(lo)
		hi = b.file.present.coalesce(lo, hi, fetchGap)
		b.file.mu.RUnlock()
		if have > 0 {
			return nil, nil
		}
	}
	f := b.take(piece{lo, hi})
	go b.fly(f)
	return f, nil
}

// reserve waits until no flight is in p, and takes it off from flights to
// come.
func (b *Blob) reserve(p piece) (*flight, error) {
	for {
		f, mine := b.tryReserve(p)
		if f == nil {
			return nil, os.ErrClosed
		}
		if mine {
			return f, nil
		}
		<-f.gone
	}
}

// tryReserve returns the new flight, or one that is in the way.
func (b *Blob) tryReserve(p piece) (f *flight, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false
	}
	for _, f := range b.flights {
		if f.lo < p.hi && p.lo < f.hi {
			return f, false
		}
	}
	return b.take(p), true
}

// take starts a flight. Called with mu held.
func (b *Blob) take(p piece) *flight {
	f := &flight{piece: p, ready: make(chan struct{}), gone: make(chan struct{})}
	b.flights = append(b.flights, f)
	b.running.Add(1)
	return f
}

// land ends a flight. Those who wait for it and were given no bytes look into
// the file.
func (b *Blob) land(f *flight) {
	b.mu.Lock()
	for i, g := range b.flights {
		if g == f {
			b.flights[i] = b.flights[len(b.flights)-1]
			b.flights = b.flights[:len(b.flights)-1]
			break
		}
	}
	b.mu.Unlock()
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
	close(f.gone)
	b.running.Done()
}

// serve gives readers the bytes at once, before they are written.
func (f *flight) serve(data []byte, off int64) {
	f.data, f.got = data, piece{off, off + int64(len(data))}
	close(f.ready)
}

// fly brings a flight's range: fetches what neither the file nor another
// process has brought, and keeps it.
func (b *Blob) fly(f *flight) {
	defer b.land(f)
	if b.rangeless.Load() {
		b.flyWhole(f)
		return
	}
	want, keep := f.piece, b.lockRange(f.piece)
	if keep {
		want = b.file.hull(f.piece)
	}
	var data []byte
	if want.lo < want.hi {
		data, f.err = b.fetch(want)
	}
	if len(data) > 0 {
		b.deliver(f, data, want.lo, keep)
	}
	if keep {
		unlock(b.file.f, f.lo, f.hi-f.lo)
	}
	if errors.Is(f.err, errors.ErrUnsupported) {
		b.noRanges()
		b.flyWhole(f)
	}
}

// noRanges remembers that the source has no ranges.
func (b *Blob) noRanges() {
	if !b.rangeless.Swap(true) {
		b.log.Info("the source has no ranges; the whole blob is streamed", "blob", b.digest)
	}
}

// lockRange keeps other processes off a range and learns what they have
// brought. It reports false when what is fetched can't be kept.
func (b *Blob) lockRange(p piece) bool {
	if b.file == nil || !b.file.writable {
		return false
	}
	if err := waitLock(b.closing, b.patience, b.file.f, unix.F_WRLCK, p.lo, p.hi-p.lo); err != nil {
		b.notKept(err)
		return false
	}
	if _, err := b.file.sync(b.closing); err != nil {
		unlock(b.file.f, p.lo, p.hi-p.lo)
		b.notKept(err)
		return false
	}
	return true
}

// notKept tells why something is not kept, unless that is no fault of the
// disk.
func (b *Blob) notKept(err error) {
	if errors.Is(err, errBusy) || errors.Is(err, errStopped) {
		b.log.Debug("not kept in the cache", "blob", b.digest, "err", err)
		return
	}
	b.lossy.Store(true)
	b.uncached(err)
}

// fetch asks the source for a range, and takes nothing but all of it.
func (b *Blob) fetch(p piece) ([]byte, error) {
	data := make([]byte, p.hi-p.lo)
	n, err := b.src.ReadAt(data, p.lo)
	if n == len(data) {
		return data, nil
	}
	if err == nil || err == io.EOF {
		err = fmt.Errorf("the source gave %d of %d bytes at %d: %w", n, len(data), p.lo, io.ErrUnexpectedEOF)
	}
	return nil, err
}

// deliver gives a flight's bytes to those who wait and, to keep them, to the
// disk. Readers do not wait for the disk, unless it lags behind by so much
// that they have to.
func (b *Blob) deliver(f *flight, data []byte, off int64, keep bool) {
	n := int64(len(data))
	behind := b.behind.TryAcquire(n)
	if behind {
		defer b.behind.Release(n)
		f.serve(data, off)
	} else {
		defer f.serve(data, off)
	}
	if !keep {
		return
	}
	if err := b.file.store(b.closing, data, off); err != nil {
		b.notKept(err)
	}
}
