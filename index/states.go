package index

import (
	"encoding/binary"
	"errors"
	"fmt"

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

// appendState encodes what a decoder must know at a checkpoint within a member.
func appendState(b []byte, c *inflate.Checkpoint) ([]byte, error) {
	if len(c.Block) > maxHeader || len(c.Window) > inflate.WindowSize {
		return nil, errState
	}
	b = append(b, c.BlockBit)
	b = binary.AppendUvarint(b, uint64(len(c.Block)))
	b = append(b, c.Block...)
	b = binary.AppendUvarint(b, uint64(len(c.Window)))
	return append(b, c.Window...), nil
}

var errState = errors.New("malformed checkpoint")

// parseState decodes what appendState encoded. The checkpoint shares the decoder's memory.
func parseState(d *decoder, c *inflate.Checkpoint) {
	bit := d.take(1)
	block := d.take(int(d.number(maxHeader)))
	window := d.take(int(d.number(inflate.WindowSize)))
	if d.err != nil {
		return
	}
	if bit[0] > 7 || len(block) == 0 && bit[0] != 0 {
		d.err = errState
		return
	}
	*c = inflate.Checkpoint{In: c.In, Out: c.Out, BlockBit: bit[0], Window: window}
	if len(block) > 0 {
		c.Block = block
	}
}

// checkpoint is where a span starts. It may be in buf's memory, which is returned, perhaps grown.
func (x *Index) checkpoint(span int, buf []byte) (c inflate.Checkpoint, _ []byte, err error) {
	s := &x.t.spans[span]
	c = inflate.Checkpoint{In: s.in, Out: s.out, Member: s.place != inMember}
	if c.Member {
		return c, buf, nil
	}
	if buf, err = x.load(&x.t.states[s.state/statesStored], buf); err != nil {
		return c, buf, err
	}
	d := decoder{b: buf}
	for range s.state%statesStored + 1 {
		parseState(&d, &c)
	}
	if d.err != nil {
		return c, buf, fmt.Errorf("%w: state of span %d: %w", ErrDamaged, span, d.err)
	}
	return c, buf, nil
}
