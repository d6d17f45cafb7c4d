package index

import (
	"runtime"
	"sync"
)

const (
	// maxAhead is how many bytes of the tar are fetched ahead of a pass, at most, and maxFetchAhead how many of the blob
	// at a time.
	maxAhead      = 32 << 20
	maxFetchAhead = 16 << 20

	// aheadShare is the part of a Memory's limit that one reader's spans decoded ahead may take: they are spans seen for
	// the first time, of which a Memory may keep few.
	aheadShare = 8
)

// What reads ahead shares these with all other readers of the process.
var (
	decodeSlots = make(chan struct{}, runtime.GOMAXPROCS(0))
	fetchSlots  = make(chan struct{}, 2)
)

// An ahead reads ahead for those who read the tar from front to back: it decodes the spans before them, on all
// processors, and fetches the blob before that, in ranges that grow as the pass goes on. It never fetches or decodes
// further ahead than a pass has come, so it at most doubles the work for somebody who stops.
//
// Its errors are nobody's: who comes to where one was tries for himself.
type ahead struct {
	r       *Reader
	running sync.WaitGroup

	// mu protects the following.
	mu     sync.Mutex
	closed bool
	clock  uint64 // reads so far
	passes [numPasses]pass
}

// close ends reading ahead, and waits for what is under way.
func (a *ahead) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.running.Wait()
}

// note is told of a read of n bytes, one at least, before it is done.
func (a *ahead) note(off int64, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.follow(off)
	before := s.sure() // one read alone, however large, is no pass
	s.advance(off, n)
	if a.closed || !before || !s.sure() {
		return
	}
	t := a.r.x.t
	last := t.find(off + int64(n) - 1) // up to here the reader decodes and fetches by himself what is not there
	s.fetched = max(s.fetched, last+1)
	s.first = max(s.first, last+1)
	s.end = t.spansTo(s.next + a.window(s))
	a.startFetch(s)
	a.startDecode()
}

// window is how many bytes of the tar may be decoded ahead of a pass, which is sure.
func (a *ahead) window(s *pass) int64 {
	sure := int64(0)
	for i := range a.passes {
		if a.passes[i].sure() {
			sure++
		}
	}
	n := min(2*int64(cap(decodeSlots))*spanSize, a.r.memory.Limit()/aheadShare/sure, s.lead())
	if n < spanSize {
		return 0
	}
	return n
}

// startDecode has another goroutine decode ahead, if there is something to decode and a processor for it. Called with
// mu held.
func (a *ahead) startDecode() {
	if a.job() == nil {
		return
	}
	select {
	case decodeSlots <- struct{}{}:
		a.running.Add(1)
		go a.decode()
	default: // who has them, or comes next, goes on
	}
}

// job gives the pass that needs a span most, s.first, or nil. Called with mu held.
func (a *ahead) job() (best *pass) {
	t := a.r.x.t
	for i := range a.passes {
		s := &a.passes[i]
		for s.first < s.end && (t.out(s.first).n == 0 || a.r.memory.Has(a.r.x.sum, s.first)) {
			s.first++
		}
		if s.first >= s.end || a.closed {
			continue
		}
		if s.first >= s.fetched && t.spans[s.first].place != inFrames {
			continue
		}
		if best == nil || t.spans[s.first].out-s.next < t.spans[best.first].out-best.next {
			best = s
		}
	}
	return best
}

// decode decodes ahead as long as there is something.
func (a *ahead) decode() {
	defer a.running.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { <-decodeSlots }()
	for s := a.job(); s != nil; s = a.job() {
		span := s.first
		s.first++
		a.startDecode() // more may be had, now that it is known that there are more
		a.mu.Unlock()
		ok := a.r.decodeAhead(span)
		runtime.Gosched() // those who are read ahead for come first
		a.mu.Lock()
		if !ok {
			a.failed(span)
		}
	}
}

// failed stops reading ahead for the passes that come to a span. Called with mu held.
func (a *ahead) failed(span int) {
	for i := range a.passes {
		if s := &a.passes[i]; span < s.end {
			s.restart()
		}
	}
}

// startFetch has the blob's bytes fetched ahead of a pass, when those that were do not suffice for what is to be decoded, or
// half of them have been come to. Called with mu held.
func (a *ahead) startFetch(s *pass) {
	t := a.r.x.t
	far := min(maxAhead, s.lead())
	if s.fetching || s.fetched >= max(t.spansTo(s.next+far/2), s.end) {
		return
	}
	in, end := t.inRow(s.fetched, max(t.spansTo(s.next+far), s.end))
	if in.n == 0 {
		s.fetched = end
		return
	}
	select {
	case fetchSlots <- struct{}{}:
		s.fetching = true
		a.running.Add(1)
		go a.fetch(s, s.id, in, end)
	default:
	}
}

// spansTo is the number of spans that the tar has up to an offset.
func (t *table) spansTo(off int64) int { return t.find(min(off, t.tarSize)-1) + 1 }

// inRow is where spans from first on are in the blob, as far as end, the next one that stands in the frames, or
// maxFetchAhead. That is none if the first one stands in the frames; next is the one after those.
func (t *table) inRow(first, end int) (in byteRange, next int) {
	for next = first; next < end && t.spans[next].place == inFrames; next++ {
	}
	if next > first || next == end {
		return byteRange{}, next
	}
	in = t.in(first)
	for next++; next < end && t.spans[next].place != inFrames; next++ {
		more := t.in(next)
		if more.off+more.n-in.off > maxFetchAhead {
			break
		}
		in.n = more.off + more.n - in.off
	}
	return in, next
}

// fetch fetches a range ahead of a pass, in which the spans before end are.
func (a *ahead) fetch(s *pass, id uint64, in byteRange, end int) {
	defer a.running.Done()
	err := a.r.blob.Fetch(in.off, in.n)
	<-fetchSlots
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.id != id {
		return
	}
	s.fetching = false
	if err != nil {
		s.restart()
		return
	}
	s.fetched = max(s.fetched, end)
	if s.sure() && !a.closed {
		a.startFetch(s)
	}
	a.startDecode()
}
