package index

import (
	"errors"
	"io"

	"imgfs/index/inflate"
)

// A spanner is told by a scan of the spans of a layer. A nil one takes no interest in them.
type spanner struct {
	in     *intake
	open   func() (io.Writer, error) // the file of frames; nil: there is none
	frames *recoder                  // nil until it is needed
	spans  []span
	begun  bool     // the last span has no end yet
	states [][]byte // encoded ones of the last spans, not yet taken
}

// begin starts a span of the blob.
func (s *spanner) begin(c *inflate.Checkpoint) error {
	if s == nil {
		return nil
	}
	n := span{out: c.Out, in: c.In}
	if !c.Member {
		state, err := appendState(nil, c)
		if err != nil {
			return err
		}
		n.place = inMember
		s.states = append(s.states, state)
	}
	s.spans = append(s.spans, n)
	s.begun = true
	return nil
}

// end ends the span, if there is one, at a bit of the blob.
func (s *spanner) end(bit int64) {
	if s == nil || !s.begun {
		return
	}
	s.begun = false
	last := &s.spans[len(s.spans)-1]
	last.bits = uint32(min(bit-last.in, 8*maxSpan+1)) // a longer one doesn't pass the table's check
	s.in.cut(last.in/8, (bit+7)/8, bit/8)
}

// recode makes a span of what has no way in.
func (s *spanner) recode(out int64, data []byte) (err error) {
	if s == nil {
		return nil
	}
	if s.frames == nil {
		if s.frames, err = newRecoder(s.open); err != nil {
			return err
		}
	}
	s.spans = append(s.spans, span{out: out, place: inFrames})
	return s.frames.add(data)
}

// drop says that the bytes of the blob before off will belong to no span that hasn't ended yet.
func (s *spanner) drop(off int64) {
	if s != nil {
		s.in.drop(off)
	}
}

// take gives the states of the spans that have begun since the last call.
func (s *spanner) take() (states [][]byte) {
	if s != nil {
		states, s.states = s.states, nil
	}
	return states
}

// close ends what runs beside, and gives the error it had.
func (s *spanner) close() error {
	if s.frames == nil {
		return nil
	}
	return s.frames.close()
}

// fill tells t of the spans, once all is closed.
func (s *spanner) fill(t *table, size int64) error {
	t.spans, t.tarSize = s.spans, size
	states, sums := uint32(0), s.in.hash.sums
	for i := range t.spans {
		n := &t.spans[i]
		if n.place == inFrames {
			f := s.frames.done[0]
			s.frames.done = s.frames.done[1:]
			n.in, n.bits, n.sum = 8*t.frames, 8*f.len, f.sum
			t.frames += int64(f.len)
			continue
		}
		if n.place == inMember {
			n.state = states
			states++
		}
		if len(sums) == 0 {
			return errSpan
		}
		n.sum, sums = sums[0], sums[1:]
	}
	return nil
}

var errSpan = errors.New("span without an end")
