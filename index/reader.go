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
	// Fetch brings a range near that is about to be read, and returns when it is there. It need not do anything; an error
	// says that there is no sense in fetching ahead, for now.
	Fetch(off, n int64) error
}

// Memory keeps decoded spans. It is safe for concurrent use.
type Memory interface {
	// Has tells whether a span is there, or about to be.
	Has(table digest.Digest, span int) bool
	// Hold gives the decoded bytes of a span, size of them, by its number and the digest of the table that says
	// where it is: another index of the same layer may say otherwise. They stay as they are until release is called, once. When
	// they are not there, fill makes them first: once, however many callers wait. Its error goes to all who waited and
	// is not kept. fill runs before Hold returns, and not after.
	Hold(table digest.Digest, span, size int, fill func(dst []byte) error) (data []byte, release func(), err error)
	// HoldReady is Hold for a span that is there; otherwise ok is false.
	HoldReady(table digest.Digest, span, size int) (data []byte, release func(), ok bool)
	// Limit is how many bytes it keeps.
	Limit() int64
}

// A Part is decoded bytes of a tar. They are not to be written to, nor used once Release has been called, which is to be
// called once.
type Part struct {
	Data    []byte
	Release func()
}

// maxFetch bounds the compressed bytes that are fetched at once. A span is not larger.
const maxFetch = maxSpan

// maxKept bounds the memory for compressed bytes that an idle request keeps.
const maxKept = 2 * spanSize

// A Reader reads a layer's tar at random. It is safe for concurrent use.
//
// A read that has to decode takes memory besides that of its Memory: up to 4 MiB for what it fetches, and up to half a
// MiB to decode it. Of that 1.5 MiB at most are kept for reads to come, until the garbage collector wants them.
//
// For those who read the tar from front to back, up to eight at a time, it reads ahead once they have come a little way:
// spans are decoded by other goroutines, as many of all Readers as there are processors, each of which takes what a
// read takes, and are kept in the Memory, in an eighth of its limit at most; and the blob is told to fetch what up to 32 MiB
// of tar are made of, up to 16 MiB at a time, for two of all Readers.
type Reader struct {
	x       *Index
	blob    Blob
	frames  io.ReaderAt
	memory  Memory
	decoded atomic.Int64
	pool    sync.Pool // of *request
	ahead   ahead
}

// NewReader returns a reader of the tar of x, whose blob is b, and whose frames stand in a file of x.FramesSize()
// bytes: nil if that is 0. Decoded spans are kept in m, which other readers may share. If there is something wrong with the
// frames, reads fail with ErrDamaged: to build the index anew brings both.
func NewReader(x *Index, b Blob, frames io.ReaderAt, m Memory) *Reader {
	r := &Reader{x: x, blob: b, frames: frames, memory: m}
	r.pool.New = func() any { return newRequest(r) }
	r.ahead.r = r
	return r
}

// Close ends reading ahead, and waits for what is under way: from then on the Reader uses its blob and its index only
// while a call of a method lasts. It goes on to read.
func (r *Reader) Close() { r.ahead.close() }

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
	if len(p) == 0 {
		return 0, end
	}
	r.ahead.note(off, len(p))
	q := r.pool.Get().(*request)
	n, err := q.read(p, off)
	q.release()
	if err != nil {
		return n, err
	}
	return n, end
}

// Hold gives bytes of the tar without a copy: it appends to parts what the n bytes from off on are made of, one part or
// more, all of it within the tar and n > 0. If that takes more parts than fit into parts, it appends none: ReadAt has no
// bounds. With an error, which is as ReadAt's, nothing is appended either. If the bytes are in memory, it allocates nothing.
func (r *Reader) Hold(parts []Part, off int64, n int) ([]Part, error) {
	t := r.x.t
	if off < 0 || n <= 0 || int64(n) > t.tarSize-off {
		return parts, fmt.Errorf("layer %s: no %d bytes from %d on", t.blob, n, off)
	}
	if t.find(off+int64(n)-1)-t.find(off) >= cap(parts)-len(parts) {
		return parts, nil
	}
	r.ahead.note(off, n)
	q := r.pool.Get().(*request)
	defer q.release()
	return q.collect(parts, off, n)
}

// HoldReady is Hold for bytes that are in memory, all of them and in room: otherwise it appends nothing. It decodes
// nothing and waits for nothing. Who takes bytes this way goes on reading as far as reading ahead is concerned.
func (r *Reader) HoldReady(parts []Part, off int64, n int) []Part {
	t := r.x.t
	if off < 0 || n <= 0 || int64(n) > t.tarSize-off {
		return parts
	}
	old := len(parts)
	for at, end := off, off+int64(n); at < end; {
		i := t.find(at)
		out := t.out(i)
		data, release, ok := r.memory.HoldReady(r.x.sum, i, int(out.n))
		if ok && len(parts) == cap(parts) {
			release()
			ok = false
		}
		if !ok {
			for _, p := range parts[old:] {
				p.Release()
			}
			return parts[:old]
		}
		data = data[at-out.off : min(end-out.off, out.n)]
		parts = append(parts, Part{data, release})
		at += int64(len(data))
	}
	r.ahead.note(off, n)
	return parts
}

// A request is one read. Requests are used again, so that a read of what is in memory allocates nothing.
type request struct {
	r      *Reader
	span   int // the one that is asked for
	last   int // the last one that will be
	decode func([]byte) error
	// The following is what has been fetched.
	buf   []byte
	start int64 // blob offset of buf[0]
	state []byte
}

func newRequest(r *Reader) *request {
	q := &request{r: r}
	q.decode = q.fill
	return q
}

// release puts a request back, without more memory of its own than may be kept.
func (q *request) release() {
	if cap(q.buf) > maxKept {
		q.buf = nil
	}
	q.r.pool.Put(q)
}

// begin sets the request to the spans of the n bytes from off on.
func (q *request) begin(off int64, n int) {
	t := q.r.x.t
	q.span, q.last, q.buf = t.find(off), t.find(off+int64(n)-1), q.buf[:0]
}

// read copies the tar from off on to all of p.
func (q *request) read(p []byte, off int64) (n int, err error) {
	for q.begin(off, len(p)); n < len(p); q.span++ {
		part, err := q.hold(off + int64(n))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], part.Data)
		part.Release()
	}
	return n, nil
}

// collect holds the n bytes from off on.
func (q *request) collect(parts []Part, off int64, n int) ([]Part, error) {
	old := len(parts)
	for q.begin(off, n); n > 0; q.span++ {
		part, err := q.hold(off)
		if err != nil {
			for _, p := range parts[old:] {
				p.Release()
			}
			return parts[:old], err
		}
		part.Data = part.Data[:min(n, len(part.Data))]
		if len(part.Data) == 0 {
			part.Release()
			continue
		}
		parts = append(parts, part)
		off += int64(len(part.Data))
		n -= len(part.Data)
	}
	return parts, nil
}

// nothing is what an empty span holds.
var nothing = Part{Release: func() {}}

// hold gives the bytes of the span from off on.
func (q *request) hold(off int64) (Part, error) {
	t := q.r.x.t
	out := t.out(q.span)
	if out.n == 0 {
		return nothing, nil
	}
	for {
		data, release, err := q.r.memory.Hold(q.r.x.sum, q.span, int(out.n), q.decode)
		if err == nil {
			return Part{data[off-out.off:], release}, nil
		}
		// One who read ahead was at it, and failed, perhaps for a reason of his own.
		if !errors.As(err, new(aheadError)) {
			return Part{}, err
		}
	}
}

// An aheadError is an error of one who reads ahead, which is nobody else's.
type aheadError struct{ error }

// decodeAhead brings a span to memory that nobody asked for, and tells whether that went well. A panic is left to those
// who come to ask for it.
func (r *Reader) decodeAhead(span int) (ok bool) {
	defer func() { ok = recover() == nil && ok }()
	q := r.pool.Get().(*request)
	defer q.release()
	q.span, q.last, q.buf = span, span, q.buf[:0]
	_, release, err := r.memory.Hold(r.x.sum, span, int(r.x.t.out(span).n), func(dst []byte) error {
		if err := q.fill(dst); err != nil {
			return aheadError{err}
		}
		return nil
	})
	if err != nil {
		return false
	}
	release()
	return true
}

// find gives the span that has a byte of the tar.
func (t *table) find(off int64) int {
	return sort.Search(len(t.spans), func(i int) bool { return t.spans[i].out > off }) - 1
}

// fill makes the span.
func (q *request) fill(dst []byte) error {
	src, err := q.compressed()
	if err != nil {
		return err
	}
	x := q.r.x
	c, state, err := x.checkpoint(q.span, q.state)
	if q.state = state; err != nil {
		return err
	}
	if err := codecs[x.t.format].decode(dst, src, &c, c.In+int64(x.t.spans[q.span].bits)); err != nil {
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
		return q.frame()
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

// frame gives the bytes of a span that stands in the frames, checked. They take the place of what was fetched of the blob.
func (q *request) frame() ([]byte, error) {
	src, err := q.r.x.readFrame(q.r.frames, q.span, q.buf)
	q.buf = src[:0]
	if err != nil {
		return nil, err
	}
	return src, nil
}

// fetch reads the bytes of the span that is asked for, and with them those of the ones after it that will be asked
// for and aren't in memory.
func (q *request) fetch() error {
	t := q.r.x.t
	in := t.in(q.span)
	end := in.off + in.n
	for i := q.span + 1; i <= q.last && t.spans[i].place != inFrames && !q.r.memory.Has(q.r.x.sum, i); i++ {
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
