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

// Memory keeps decoded spans. It is safe for concurrent use.
//
// What it keeps is decided by 2Q, by bytes (Johnson and Shasha, "2Q: A Low
// Overhead High Performance Buffer Management Replacement Algorithm", VLDB
// 1994; the full version): a span that comes for the first time joins a
// queue, in which no use of it moves it. When room is needed, and the queue
// has more than a quarter of the limit, its oldest span leaves, of which then
// only the name is kept. A span that comes back while its name is known, that
// is, while no spans for half of the limit have left after it, goes to a list
// of spans in order of use, of which the one not used for longest leaves
// when the queue has no more than its quarter. So a pass over a whole image
// goes through the queue, and what is used time and again stays.
//
// It holds at most the limit, or what is held at the time if that alone is
// more: nobody ever waits for memory, so that a Hold may be called from a
// fill and before a release. A span over the limit is given to those who wait
// for it and not kept; it counts on top. Buffers are used again where that is
// possible; others are garbage, which the process has until its next
// collection.
type Memory struct {
	limit int64

	// mu protects the following.
	mu    sync.Mutex
	spans map[spanKey]*span
	fresh queue // spans that came for the first time, or are coming
	hot   queue // spans that came back
	gone  queue // names of spans that have left fresh
	over  int64 // bytes of the buffers of spans over the limit
	stats MemoryStats
}

// MemoryStats count what a Memory did since it was made, and say what is in it.
type MemoryStats struct {
	Hits   int64 // holds that found the span, or one who was making it
	Misses int64 // calls of Hold that made it
	Bytes  int64 // of the buffers of the spans there, which are up to two fifths larger than they
}

type spanKey struct {
	table digest.Digest
	span  int
}

// A span is decoded, or is just being so, or is known by name.
type span struct {
	key     spanKey
	release func() // ends a hold

	// Memory.mu protects the following.
	in         *queue // nil for a span that is not kept
	next, prev *span
	refs       int   // holds
	cost       int64 // bytes of its buffer, or of the one it had

	// Set by who makes the span, who holds it, before done is closed.
	size int
	buf  []byte // of at least bufferSize(size) bytes
	err  error
	done chan struct{}
}

// A queue is a list of spans: root.prev came, or was used, before all others.
type queue struct {
	root  span
	bytes int64 // the costs of all
}

func (q *queue) init() { q.root.next, q.root.prev = &q.root, &q.root }

func (q *queue) push(s *span) {
	s.in, s.next, s.prev = q, q.root.next, &q.root
	s.next.prev, s.prev.next = s, s
	q.bytes += s.cost
}

func (q *queue) remove(s *span) {
	s.next.prev, s.prev.next = s.prev, s.next
	s.in, s.next, s.prev = nil, nil, nil
	q.bytes -= s.cost
}

// first returns the span to leave first, of those that nobody holds, or nil.
// Few are held at a time.
func (q *queue) first() *span {
	for s := q.root.prev; s != &q.root; s = s.prev {
		if s.refs == 0 {
			return s
		}
	}
	return nil
}

// NewMemory returns a Memory that keeps up to limit bytes.
func NewMemory(limit int64) *Memory {
	m := &Memory{limit: max(limit, 0), spans: map[spanKey]*span{}}
	m.fresh.init()
	m.hot.init()
	m.gone.init()
	return m
}

// Limit returns how many bytes it keeps.
func (m *Memory) Limit() int64 { return m.limit }

// Has reports whether the span is there, or is being made. It does not count
// as use.
func (m *Memory) Has(table digest.Digest, span int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.spans[spanKey{table, span}]
	return s != nil && s.in != &m.gone
}

// Stats returns the counters.
func (m *Memory) Stats() MemoryStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Bytes = m.fresh.bytes + m.hot.bytes + m.over
	return s
}

// Hold returns the size decoded bytes of a span, which has a number in a table
// of that digest: that of a layer's index. Nobody may write to them. They
// stay as they are until release is called, once. If they are not there, fill
// makes them, in the goroutine of the first who asks, while all others wait.
// An error of fill is returned to all who waited and is not kept; a panic of
// fill is an error to them. A call that finds the span allocates nothing.
func (m *Memory) Hold(table digest.Digest, span, size int, fill func(dst []byte) error) (data []byte, release func(), err error) {
	if size < 0 || size > maxSpan {
		return nil, nil, fmt.Errorf("cache: span %d of table %s: a size of %d bytes is not possible", span, table, size)
	}
	s, first := m.get(spanKey{table, span}, size)
	if first {
		m.fill(s, fill)
	} else {
		<-s.done
	}
	err = s.err
	if err == nil && s.size != size {
		err = fmt.Errorf("cache: span %d of table %s has %d bytes, not %d", span, table, s.size, size)
	}
	if err != nil {
		m.put(s)
		return nil, nil, err
	}
	return s.buf[:size:size], s.release, nil
}

// HoldReady is Hold for a span that is there and made: if it is not, ok is
// false, and nothing is made.
func (m *Memory) HoldReady(table digest.Digest, span, size int) (data []byte, release func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.spans[spanKey{table, span}]
	if s == nil || s.in == &m.gone || s.size != size {
		return nil, nil, false
	}
	select {
	case <-s.done:
	default:
		return nil, nil, false
	}
	if s.err != nil {
		return nil, nil, false
	}
	m.found(s)
	return s.buf[:size:size], s.release, true
}

// found has one more hold a span that is there. Called with mu held.
func (m *Memory) found(s *span) {
	m.stats.Hits++
	s.refs++
	if s.in == &m.hot {
		m.hot.remove(s)
		m.hot.push(s)
	}
}

// get returns the span, held. If it is not there, the caller is the first who
// asks and has to fill it.
func (m *Memory) get(key spanKey, size int) (s *span, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = m.spans[key]
	if s != nil && s.in != &m.gone {
		m.found(s)
		return s, false
	}
	m.stats.Misses++
	to := &m.fresh
	if s != nil {
		m.gone.remove(s)
		to = &m.hot
	} else {
		s = m.add(key)
	}
	s.refs, s.size, s.done = 1, size, make(chan struct{})
	s.cost = int64(bufferSize(size))
	if s.cost > m.limit {
		m.over += s.cost
		return s, true
	}
	if s.buf = m.room(s.cost); s.buf != nil {
		s.cost = int64(len(s.buf))
	}
	to.push(s)
	return s, true
}

// add makes a span that is in no queue. Called with mu held.
func (m *Memory) add(key spanKey) *span {
	s := &span{key: key}
	s.release = func() { m.put(s) }
	m.spans[key] = s
	return s
}

// put ends a hold.
func (m *Memory) put(s *span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.refs--
	if s.refs > 0 || s.err != nil {
		return
	}
	if s.in == nil {
		m.forget(s)
	}
	m.room(0)
}

// fill makes the span and tells those who wait, whatever becomes of fill.
func (m *Memory) fill(s *span, fill func(dst []byte) error) {
	s.err = errFillFailed
	defer func() {
		if s.err != nil {
			m.mu.Lock()
			m.forget(s)
			m.mu.Unlock()
		}
		close(s.done)
	}()
	if s.buf == nil {
		s.buf = make([]byte, s.cost)
	}
	s.err = fill(s.buf[:s.size:s.size])
}

// room lets go what has to for a buffer of n bytes. It returns a buffer to use
// for that, or nil. Called with mu held.
func (m *Memory) room(n int64) (buf []byte) {
	for m.fresh.bytes+m.hot.bytes+n > m.limit {
		s := m.victim()
		if s == nil {
			break
		}
		b := m.evict(s)
		if size := int64(len(b)); buf == nil && size >= n && size <= n+n/4 {
			buf, n = b, size
		}
	}
	return buf
}

// victim returns the span that is to leave, or nil if all are held. Called
// with mu held.
func (m *Memory) victim() *span {
	if m.fresh.bytes > m.limit/4 {
		if s := m.fresh.first(); s != nil {
			return s
		}
	}
	if s := m.hot.first(); s != nil {
		return s
	}
	return m.fresh.first()
}

// evict lets a span go, and returns its buffer. Called with mu held.
func (m *Memory) evict(s *span) (buf []byte) {
	buf, s.buf = s.buf, nil
	if s.in == &m.hot {
		m.forget(s)
		return buf
	}
	m.fresh.remove(s)
	m.gone.push(s)
	for m.gone.bytes > m.limit/2 {
		m.forget(m.gone.root.prev)
	}
	return buf
}

// forget takes the span, and what was accounted for it, from the memory.
// Called with mu held.
func (m *Memory) forget(s *span) {
	delete(m.spans, s.key)
	if s.in != nil {
		s.in.remove(s)
	} else {
		m.over -= s.cost
	}
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
