package cache

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxSpan is the size in bytes above which a span is refused: far more than
// any index describes.
const maxSpan = 1 << 30

var errFillFailed = errors.New("the making of the span did not return")

// Memory keeps decoded spans, those that were used last. It is safe for
// concurrent use.
//
// It holds at most the limit, or what the calls of Use that run at the time
// need if that alone is more: nobody ever waits for memory, so that a Use may
// be called from a fill or a use. A span over the limit is given to those who
// wait for it and not kept; it counts on top. Buffers that are let go are
// garbage from then on: the process holds them until its next collection.
type Memory struct {
	limit int64

	// mu protects the following.
	mu    sync.Mutex
	spans map[spanKey]*span
	idle  span  // list of the spans not in use: idle.next was used last
	bytes int64 // of all buffers but those of spans over the limit
	over  int64 // of those
	stats MemoryStats
}

// MemoryStats count what a Memory did since it was made, and say what is in it.
type MemoryStats struct {
	Hits   int64 // calls of Use that found the span, or one who was making it
	Misses int64 // calls of Use that made it
	Bytes  int64 // of the buffers of the spans there, which are up to an eighth larger than they
}

type spanKey struct {
	blob digest.Digest
	span int
}

// A span is decoded, or is just being so.
type span struct {
	key        spanKey
	next, prev *span // in the idle list while refs is 0
	refs       int   // calls of Use that hold it; Memory.mu protects these three
	filled     bool  // done is closed
	size       int
	done       chan struct{} // closed when the following are set
	buf        []byte        // of bufferSize(size) bytes
	err        error
}

// NewMemory returns a Memory that keeps up to limit bytes.
func NewMemory(limit int64) *Memory {
	m := &Memory{limit: max(limit, 0), spans: map[spanKey]*span{}}
	m.idle.next, m.idle.prev = &m.idle, &m.idle
	return m
}

// Has reports whether the span is there, decoded. It does not count as use.
func (m *Memory) Has(blob digest.Digest, span int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.spans[spanKey{blob, span}]
	return s != nil && s.filled
}

// Stats returns the counters.
func (m *Memory) Stats() MemoryStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Bytes = m.bytes + m.over
	return s
}

// Use calls use with the span's size decoded bytes, which neither may write
// to nor keep. If they are not there, fill makes them, in the goroutine of
// the first who asks, while all others wait. An error of fill is returned to
// all who waited and is not kept; a panic of fill is an error to them. The
// result is otherwise nil.
func (m *Memory) Use(blob digest.Digest, span, size int, fill func(dst []byte) error, use func(data []byte)) error {
	if size < 0 || size > maxSpan {
		return fmt.Errorf("cache: span %d of %s: a size of %d bytes is not possible", span, blob, size)
	}
	s, first := m.get(spanKey{blob, span}, size)
	defer m.put(s)
	if first {
		m.fill(s, fill)
	} else {
		<-s.done
	}
	if s.err != nil {
		return s.err
	}
	if s.size != size {
		return fmt.Errorf("cache: span %d of %s has %d bytes, not %d", span, blob, s.size, size)
	}
	use(s.buf[:size:size])
	return nil
}

// get returns the span, held. If it is not there, the caller is the first who
// asks and has to fill it.
func (m *Memory) get(key spanKey, size int) (s *span, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = m.spans[key]
	if s == nil {
		m.stats.Misses++
		s = &span{key: key, refs: 1, size: size, done: make(chan struct{}), buf: m.room(bufferSize(size))}
		m.spans[key] = s
		return s, true
	}
	m.stats.Hits++
	if s.refs == 0 {
		s.unlink()
	}
	s.refs++
	return s, false
}

// put ends a hold. Called when use has returned, or fill has failed.
func (m *Memory) put(s *span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.refs--
	if s.refs > 0 || s.err != nil {
		return
	}
	if m.oversize(s) {
		m.forget(s)
		return
	}
	s.next, s.prev = m.idle.next, &m.idle
	s.next.prev, s.prev.next = s, s
	for m.bytes > m.limit && m.idle.prev != &m.idle {
		m.evict()
	}
}

// fill makes the span and tells those who wait, whatever becomes of fill.
func (m *Memory) fill(s *span, fill func(dst []byte) error) {
	s.err = errFillFailed
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		s.filled = true
		if s.err != nil {
			m.forget(s)
		}
		close(s.done)
	}()
	if s.buf == nil {
		s.buf = make([]byte, bufferSize(s.size))
	}
	s.err = fill(s.buf[:s.size:s.size])
}

// room accounts for a buffer of n bytes, and evicts what has to go for it. It
// returns the buffer if one that goes is of that size, else nil. Called with
// mu held.
func (m *Memory) room(n int) (buf []byte) {
	if int64(n) > m.limit {
		m.over += int64(n)
		return nil
	}
	for buf == nil && m.bytes+int64(n) > m.limit && m.idle.prev != &m.idle {
		if b := m.evict(); len(b) == n {
			buf = b
		}
	}
	m.bytes += int64(n)
	return buf
}

// evict lets the span go that was not used for longest, and returns its
// buffer. Called with mu held.
func (m *Memory) evict() []byte {
	s := m.idle.prev
	s.unlink()
	m.forget(s)
	return s.buf
}

// forget takes the span, and what was accounted for it, from the memory.
// Called with mu held.
func (m *Memory) forget(s *span) {
	delete(m.spans, s.key)
	if n := int64(bufferSize(s.size)); m.oversize(s) {
		m.over -= n
	} else {
		m.bytes -= n
	}
}

func (m *Memory) oversize(s *span) bool { return int64(bufferSize(s.size)) > m.limit }

func (s *span) unlink() {
	s.next.prev, s.prev.next = s.prev, s.next
	s.next, s.prev = nil, nil
}

// minBuffer is the size of the smallest buffers.
const minBuffer = 4096

// bufferSize returns the size of the buffer for n bytes: up to an eighth more,
// so that the buffer of one span serves another of about its size.
func bufferSize(n int) int {
	if n <= minBuffer {
		return minBuffer
	}
	step := 1 << (bits.Len(uint(n-1)) - 4)
	return (n + step - 1) &^ (step - 1)
}
