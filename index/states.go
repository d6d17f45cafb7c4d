package index

import (
	"errors"
	"fmt"
	"slices"

	"imgfs/index/inflate"
)

const (
	// statesStored is how many states are compressed together. To decode a span, all of them are decompressed.
	statesStored = 8
	// maxHeader bounds the header of a block that a state has, in bytes. DEFLATE's are a few hundred at most.
	maxHeader = 1 << 10
	// maxStates bounds that many, decompressed: each byte of a window costs three at most.
	maxStates = statesStored * (maxHeader + 3*inflate.WindowSize + 16)
)

// maxGap is how many bytes between two used runs of a window are taken for used: two numbers cost as much.
const maxGap = 2

// appendState encodes what a decoder must know at a checkpoint within a member.
func appendState(b []byte, c *inflate.Checkpoint) ([]byte, error) {
	if len(c.Block) > maxHeader || len(c.Window) > inflate.WindowSize {
		return nil, errState
	}
	b = append(b, c.BlockBit)
	b = appendNumbers(b, int64(len(c.Block)))
	b = append(b, c.Block...)
	runs := joined(c.Used)
	b = appendNumbers(b, int64(len(c.Window)), int64(len(runs)))
	end := 0
	for _, r := range runs {
		b = appendNumbers(b, int64(r.Off-end), int64(r.Len))
		end = r.Off + r.Len
	}
	for _, r := range runs {
		b = append(b, c.Window[r.Off:r.Off+r.Len]...)
	}
	return b, nil
}

// joined makes one of runs that are near each other.
func joined(used []inflate.Run) []inflate.Run {
	var runs []inflate.Run
	for _, r := range used {
		if n := len(runs) - 1; n >= 0 && r.Off-(runs[n].Off+runs[n].Len) <= maxGap {
			runs[n].Len = r.Off + r.Len - runs[n].Off
			continue
		}
		runs = append(runs, r)
	}
	return runs
}

var errState = errors.New("malformed checkpoint")

// parseState decodes what appendState encoded. The checkpoint has its window in the memory given, and shares the
// decoder's.
func parseState(d *decoder, c *inflate.Checkpoint, window *[inflate.WindowSize]byte) {
	bit := d.take(1)
	block := d.take(int(d.number(maxHeader)))
	c.Window = window[:d.number(inflate.WindowSize)]
	runs := *d
	n := d.length(2)
	for range n { // where the bytes are is known after all numbers
		d.number(inflate.WindowSize)
		d.number(inflate.WindowSize)
	}
	runs.length(2)
	clear(c.Window)
	end := 0
	for range n {
		end += int(runs.number(inflate.WindowSize))
		length := int(runs.number(inflate.WindowSize))
		if d.err == nil && end+length > len(c.Window) {
			d.err = errState
		}
		if b := d.take(length); b != nil {
			end += copy(c.Window[end:], b)
		}
	}
	if d.err == nil && (bit[0] > 7 || len(block) == 0 && bit[0] != 0) {
		d.err = errState
	}
	if d.err != nil {
		return
	}
	c.BlockBit, c.Block = bit[0], nil
	if len(block) > 0 {
		c.Block = block
	}
}

// checkpoint is where a span starts. Its window is in buf's memory, which is returned, or in that of a larger one.
func (x *Index) checkpoint(span int, buf []byte) (c inflate.Checkpoint, _ []byte, err error) {
	s := &x.t.spans[span]
	c = inflate.Checkpoint{In: s.in, Out: s.out, Member: s.place != inMember}
	if c.Member {
		return c, buf, nil
	}
	raw, err := x.loadStates(int(s.state / statesStored))
	if err != nil {
		return c, buf, err
	}
	d := decoder{b: raw}
	buf = slices.Grow(buf[:0], inflate.WindowSize)[:inflate.WindowSize]
	for range s.state%statesStored + 1 {
		parseState(&d, &c, (*[inflate.WindowSize]byte)(buf))
	}
	if d.err != nil {
		return c, buf, fmt.Errorf("%w: state of span %d: %w", ErrDamaged, span, d.err)
	}
	return c, buf, nil
}

// A loadedStates is states that were decompressed last: those who read on need them again.
type loadedStates struct {
	which int // of the table's
	raw   []byte
}

// loadStates gives the bytes of encoded states, which must not be changed.
func (x *Index) loadStates(which int) ([]byte, error) {
	if last := x.states.Load(); last != nil && last.which == which {
		return last.raw, nil
	}
	raw, err := x.load(&x.t.states[which], nil)
	if err != nil {
		return nil, err
	}
	x.states.Store(&loadedStates{which, raw})
	return raw, nil
}
