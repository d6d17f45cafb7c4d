package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A Stream keeps what it fetches in pieces of streamChunk. It fetches what is
// there already once more where that is no longer than streamGap: another
// request would take as much time.
const (
	streamChunk = 1 << 20
	streamGap   = 1 << 20
)

// A Stream is a blob from its first byte to its last. What is in the cache
// comes from there. What is missing is fetched, from one gap's beginning to its
// end in one go, and kept while it goes by: after a Stream that did not come to
// its end, however it was cut short, the next one in whatever process fetches
// the rest. A source without ranges is read from its beginning for that, and
// what is there is read over.
//
// The bytes are not checked but for their number; see [Blob.Distrust].
//
// A Stream has one reader, but for GiveUp. It is closed before its Blob.
type Stream struct {
	blob   *Blob
	ended  func() error // of the context
	source func(piece) (io.ReadCloser, error)
	partly bool // what the disk has taken stays there when it takes no more

	off    int64         // of the next byte
	src    io.ReadCloser // the bytes from off to end; nil: look into the file
	end    int64
	cached int64 // bytes that came out of the file
	err    error // from now on

	// mu protects the following.
	mu    sync.Mutex
	chunk []byte // what was fetched and is to be kept
	from  int64  // where chunk begins in the blob
	lost  error  // why nothing is kept any more
}

// Stream returns the blob as a stream. When ctx is done, that ends with its
// error. Errors of the source are passed on. When the disk takes no more of the
// blob, what it has of it is dropped as by GiveUp.
func (b *Blob) Stream(ctx context.Context) *Stream {
	s := &Stream{blob: b, ended: ctx.Err}
	s.source = func(p piece) (io.ReadCloser, error) { return b.src.Open(ctx, p.lo, p.hi-p.lo) }
	if b.file == nil || !b.file.writable {
		s.lost = errNotKept
	}
	return s
}

// catchUp learns what other processes have done to the blob.
func (b *Blob) catchUp() {
	if _, err := b.file.sync(b.closing); err != nil {
		b.notKept(err)
	}
}

// Cached tells how many of the bytes that were read so far the cache had.
func (s *Stream) Cached() int64 { return s.cached }

// Read implements [io.Reader].
func (s *Stream) Read(p []byte) (n int, err error) {
	for n == 0 && s.err == nil && len(p) > 0 {
		switch {
		case s.src != nil:
			n, s.err = s.readSource(p)
		case s.off == s.blob.size:
			s.err = io.EOF
		default:
			n, s.err = s.readFile(p)
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, s.err
}

// readFile reads what is there or, where nothing is, opens the source.
func (s *Stream) readFile(p []byte) (int, error) {
	if err := s.ended(); err != nil {
		return 0, err
	}
	n, err := s.blob.readSure(p, s.off)
	if err != nil {
		return 0, s.blob.mend(piece{s.off, s.blob.size}, err)
	}
	if n == 0 {
		return 0, s.open()
	}
	s.off += int64(n)
	s.cached += int64(n)
	s.blob.reused.Store(true)
	return n, nil
}

// readSure is readPresent for who can't tell one wrong byte from another: it
// sees to it that no other process has dropped the bytes while they were read.
func (b *Blob) readSure(p []byte, off int64) (n int, err error) {
	for b.file != nil {
		drops := b.file.dropped()
		if n, err = b.file.readPresent(p, off); n == 0 {
			break
		}
		if b.catchUp(); b.file.dropped() == drops {
			break
		}
	}
	return n, err
}

// open opens the source for the gap at off, unless that was filled meanwhile.
func (s *Stream) open() error {
	b := s.blob
	gap := b.gap(s.off)
	if gap.lo == gap.hi {
		return nil
	}
	all := piece{0, b.size}
	src, err := io.ReadCloser(nil), errors.ErrUnsupported
	if gap == all || !b.rangeless.Load() {
		src, err = s.source(gap)
	}
	if gap != all && errors.Is(err, errors.ErrUnsupported) {
		b.noRanges()
		gap = b.gap(s.off)
		src, err = s.skipTo(all)
	}
	if err != nil {
		return short(err)
	}
	s.src, s.end = src, gap.hi
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = s.off
	return nil
}

// gap returns what a Stream that has come to off is to fetch; an empty piece
// where the byte at off is there.
func (b *Blob) gap(off int64) piece {
	if b.file == nil {
		return piece{off, b.size}
	}
	b.catchUp()
	b.file.mu.RLock()
	defer b.file.mu.RUnlock()
	switch present := b.file.present; {
	case present.from(off) > 0:
		return piece{off, off}
	case b.rangeless.Load():
		return present.hull(off, b.size)
	default:
		return piece{off, present.coalesce(off, b.size, streamGap)}
	}
}

// skipTo opens all of the source, and reads over what is before off.
func (s *Stream) skipTo(all piece) (io.ReadCloser, error) {
	src, err := s.source(all)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, src, s.off); err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// readSource reads what is missing, and keeps it.
func (s *Stream) readSource(p []byte) (int, error) {
	n, err := s.src.Read(p[:min(int64(len(p)), s.end-s.off)])
	s.off += int64(n)
	s.keep(p[:n])
	switch {
	case s.off == s.end:
		err = s.closeSource()
	case err != nil:
		err = short(err)
		s.flush()
	}
	return n, err
}

// closeSource ends the reading of a gap.
func (s *Stream) closeSource() error {
	s.flush()
	src := s.src
	s.src = nil
	defer src.Close()
	if s.end < s.blob.size {
		return nil
	}
	switch n, err := io.ReadFull(src, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: stream is longer than %d bytes", errWrong, s.blob.size)
	case err != io.EOF:
		return err
	}
	return nil
}

// keep puts bytes that were fetched to those that are to be kept.
func (s *Stream) keep(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunk == nil && s.lost == nil {
		s.chunk = make([]byte, 0, min(streamChunk, s.blob.size))
	}
	for len(p) > 0 && s.lost == nil {
		n := min(len(p), cap(s.chunk)-len(s.chunk))
		s.chunk = append(s.chunk, p[:n]...)
		p = p[n:]
		if len(s.chunk) == cap(s.chunk) {
			s.store()
		}
	}
}

// flush keeps what was fetched so far.
func (s *Stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.chunk) > 0 {
		s.store()
	}
}

// store writes the chunk to the disk. Called with mu held.
func (s *Stream) store() {
	b := s.blob
	err := b.file.storeLocked(b.closing, s.chunk, s.from)
	s.from += int64(len(s.chunk))
	s.chunk = s.chunk[:0]
	if err == nil {
		return
	}
	b.notKept(err)
	s.lost, s.chunk = err, nil
	if !s.partly && b.lossy.Load() {
		b.giveUp()
	}
}

// GiveUp drops what the cache has of the blob, and keeps no more of it, for
// somebody who needs the room more. It tells whether there was any to give up.
// It may be called while the Stream is read.
func (s *Stream) GiveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return false
	}
	s.lost, s.chunk = errNotKept, nil
	return s.blob.giveUp()
}

// giveUp drops all that there is of the blob, and tells whether that made room.
func (b *Blob) giveUp() bool {
	if b.drop(piece{0, b.size}) != nil {
		return false
	}
	b.lossy.Store(false)
	return true
}

// KeepNothing has a Stream that has not been read yet keep nothing of what it
// fetches. What is there already comes from there, and stays.
func (s *Stream) KeepNothing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = errNotKept
}

// Close ends the Stream, and keeps what was fetched.
func (s *Stream) Close() error {
	s.flush()
	s.err = os.ErrClosed
	if s.src == nil {
		return nil
	}
	src := s.src
	s.src = nil
	return src.Close()
}
