package index

const (
	// sureAfter is how many bytes a pass must have crossed before anything is read ahead for it.
	sureAfter = 4 << 20

	// maxSkip is how many bytes of the tar a pass may leave out at a time, of half of it at most: who reads one small
	// file after the other does not read their headers, nor links and directories in between. And the kernel asks for
	// several pieces at once, of which any may come first.
	maxSkip = 1 << 20

	// maxBack is how far a read may lie behind the ones before it.
	maxBack = 4 << 20

	// numPasses is how many passes a reader follows.
	numPasses = 8
)

// A pass is somebody who reads the tar from front to back: a large file, or small ones that stand next to each other.
// There are no handles to know readers by, so it is known by where it is.
type pass struct {
	id    uint64 // of this pass; another one may have its place later
	used  uint64 // when it went on last, in reads of the reader
	start int64  // where it began
	next  int64  // where it is
	bytes int64  // how many it has read; it may have left out some in between, or read some twice

	// The following is what is read ahead for it.
	first, end int  // spans to decode, of which those before first are decoded, or are being so
	fetched    int  // spans before this one are fetched, or are the reader's own to fetch
	fetching   bool // more of them
}

// crossed is how far the pass has come, if it is one.
func (s *pass) crossed() int64 {
	if n := s.next - s.start; s.bytes >= n/2 {
		return n
	}
	return 0
}

// sure tells whether the pass is worth reading ahead.
func (s *pass) sure() bool { return s.crossed() >= sureAfter }

// lead is how many bytes of the tar may be read ahead for the pass, which is sure: a span at first, soon as many as it has
// crossed.
func (s *pass) lead() int64 { return min(2*(s.crossed()-sureAfter)+spanSize, s.crossed()) }

// restart has the pass earn anew what is read ahead for it.
func (s *pass) restart() { s.start, s.bytes, s.end = s.next, 0, 0 }

// continues tells whether a read at off is the pass's.
func (s *pass) continues(off int64) bool {
	return s.used > 0 && off >= s.next-maxBack && off >= s.start && off <= s.next+maxSkip
}

// advance notes a read.
func (s *pass) advance(off int64, n int) {
	s.bytes += int64(n)
	s.next = max(s.next, off+int64(n))
}

// follow gives the pass that a read at off belongs to, which may be a new one.
func (a *ahead) follow(off int64) *pass {
	a.clock++
	var s *pass
	for i := range a.passes {
		c := &a.passes[i]
		if c.continues(off) && (s == nil || c.used > s.used) {
			s = c
		}
	}
	if s == nil {
		s = &a.passes[0]
		for i := range a.passes {
			if a.passes[i].used < s.used {
				s = &a.passes[i]
			}
		}
		*s = pass{id: a.clock, start: off, next: off}
	}
	s.used = a.clock
	return s
}
