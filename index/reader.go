package index

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Blob is a layer's blob. It is safe for concurrent use.
type Blob interface {
	io.ReaderAt
	// Discard is told of a range whose bytes failed their digest, so that they are fetched anew.
	Discard(off, n int64) error
}

// Memory keeps decoded spans. It is safe for concurrent use.
type Memory interface {
	// Has tells whether a span is there, or about to be.
	Has(blob digest.Digest, span int) bool
	// Use runs use with the decoded bytes of a span, size of them. When they are not there, fill makes them first:
	// once, however many callers wait. Its error goes to all who waited and is not kept. The slice is not valid after
	// use returns. fill and use run before Use returns, and not after.
	Use(blob digest.Digest, span, size int, fill func(dst []byte) error, use func(data []byte)) error
}

// maxFetch bounds the compressed bytes that are fetched at once. A span is not larger.
const maxFetch = maxSpan

// maxKept bounds the memory for compressed bytes that an idle request keeps.
const maxKept = 2 * spanSize

// A Reader reads a layer's tar at random. It is safe for concurrent use.
//
// A read that has to decode takes memory besides that of its Memory: up to 4 MiB for what it fetches, and up to half a
// MiB to decode it. Of that some 2 MiB at most are kept for reads to come, until the garbage collector wants them.
type Reader struct {
	x       *Index
	blob    Blob
	frames  io.ReaderAt
	memory  Memory
	decoded atomic.Int64
	pool    sync.Pool // of *request
}

// NewReader returns a reader of the tar of x, whose blob is b, and whose frames stand in a file of x.FramesSize()
// bytes: nil if that is 0. Decoded spans are kept in m, which other readers may share. If there is something wrong with the
// frames, reads fail with ErrDamaged: to build the index anew brings both.
func NewReader(x *Index, b Blob, frames io.ReaderAt, m Memory) *Reader {
	r := &Reader{x: x, blob: b, frames: frames, memory: m}
	r.pool.New = func() any { return newRequest(r) }
	return r
}

// Decoded is the number of spans decoded so far.
func (r *Reader) Decoded() int64 { return r.decoded.Load() }

// ReadAt is io.ReaderAt's, over the tar. Errors wrap ErrCorrupt, ErrDamaged, or what the blob or the memory failed
// with.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	size := r.x.t.tarSize
	if off >= size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	q := r.pool.Get().(*request)
	n, err := q.read(p, off)
	q.release()
	if err != nil {
		return n, err
	}
	return n, end
}

// A request is one call of ReadAt. Requests are used again, so that a read of what is in memory allocates nothing.
type request struct {
	r    *Reader
	p    []byte // what is still to be read
	off  int64  // and where, in the tar
	span int    // the one that is asked for
	last int    // the last one that will be
	fill func([]byte) error
	use  func([]byte)
	// The following is what has been fetched.
	buf   []byte
	start int64 // blob offset of buf[0]
	state []byte
}

func newRequest(r *Reader) *request {
	q := &request{r: r}
	q.fill, q.use = q.decode, q.copy
	return q
}

// release puts a request back, without the caller's bytes and without more memory of its own than may be kept.
func (q *request) release() {
	q.p = nil
	if cap(q.buf) > maxKept {
		q.buf = nil
	}
	q.r.pool.Put(q)
}

func (q *request) read(p []byte, off int64) (int, error) {
	t := q.r.x.t
	q.p, q.off, q.buf = p, off, q.buf[:0]
	q.last = t.find(off + int64(len(p)) - 1)
	for q.span = t.find(off); len(q.p) > 0; q.span++ {
		out := t.out(q.span)
		if out.n == 0 {
			continue
		}
		if err := q.r.memory.Use(t.blob, q.span, int(out.n), q.fill, q.use); err != nil {
			return len(p) - len(q.p), err
		}
	}
	return len(p), nil
}

// find gives the span that has a byte of the tar.
func (t *table) find(off int64) int {
	return sort.Search(len(t.spans), func(i int) bool { return t.spans[i].out > off }) - 1
}

// copy takes what is asked for out of a decoded span.
func (q *request) copy(data []byte) {
	n := copy(q.p, data[q.off-q.r.x.t.spans[q.span].out:])
	q.p = q.p[n:]
	q.off += int64(n)
}

// decode makes a span.
func (q *request) decode(dst []byte) error {
	src, err := q.compressed()
	if err != nil {
		return err
	}
	x := q.r.x
	c, state, err := x.checkpoint(q.span, q.state)
	if q.state = state; err != nil {
		return err
	}
	if err := codecs[x.t.format].decode(dst, src, &c); err != nil {
		return fmt.Errorf("%w: span %d of layer %s: %w", ErrDamaged, q.span, x.t.blob, err)
	}
	q.r.decoded.Add(1)
	return nil
}

// compressed gives the bytes of the blob that the span is in, fetched and checked.
func (q *request) compressed() ([]byte, error) {
	t := q.r.x.t
	in := t.in(q.span)
	if t.spans[q.span].place == inFrames {
		return q.frame(in)
	}
	if in.off < q.start || in.off+in.n > q.start+int64(len(q.buf)) {
		if err := q.fetch(); err != nil {
			return nil, err
		}
	}
	src := q.buf[in.off-q.start:][:in.n]
	if sha256.Sum256(src) == t.spans[q.span].sum {
		return src, nil
	}
	if err := q.r.blob.Discard(in.off, in.n); err != nil {
		return nil, fmt.Errorf("%w: layer %s, bytes from %d on: %w", ErrCorrupt, t.blob, in.off, err)
	}
	if err := q.r.readBlob(src, in.off); err != nil {
		return nil, err
	}
	if sha256.Sum256(src) != t.spans[q.span].sum {
		return nil, fmt.Errorf("%w: layer %s, %d bytes from %d on", ErrCorrupt, t.blob, in.n, in.off)
	}
	return src, nil
}

// frame gives the bytes of a span that stands in the frames, checked.
func (q *request) frame(in byteRange) ([]byte, error) {
	x := q.r.x
	if q.r.frames == nil {
		return nil, fmt.Errorf("%w: there are no frames", ErrDamaged)
	}
	q.buf = q.buf[:0] // what was fetched of the blob
	if int64(cap(q.buf)) < in.n {
		q.buf = make([]byte, 0, in.n)
	}
	src := q.buf[:in.n]
	if err := readFull(q.r.frames, src, in.off); err != nil {
		return nil, err
	}
	if sha256.Sum256(src) != x.t.spans[q.span].sum {
		return nil, fmt.Errorf("%w: digest of the frame from byte %d on", ErrDamaged, in.off)
	}
	return src, nil
}

// fetch reads the bytes of the span that is asked for, and with them those of the ones after it that will be asked
// for and aren't in memory.
func (q *request) fetch() error {
	t := q.r.x.t
	in := t.in(q.span)
	end := in.off + in.n
	for i := q.span + 1; i <= q.last && t.spans[i].place != inFrames && !q.r.memory.Has(t.blob, i); i++ {
		next := t.in(i)
		if next.off+next.n-in.off > maxFetch {
			break
		}
		end = next.off + next.n
	}
	n := int(end - in.off)
	if cap(q.buf) < n {
		q.buf = make([]byte, n)
	}
	q.buf, q.start = q.buf[:n], in.off
	if err := q.r.readBlob(q.buf, in.off); err != nil {
		q.buf = q.buf[:0]
		return err
	}
	return nil
}

// readBlob reads the whole of b.
func (r *Reader) readBlob(b []byte, off int64) error {
	n, err := r.blob.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("layer %s, %d bytes from %d on: %w", r.x.t.blob, len(b), off, err)
}
