package inflate

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// Decode decodes the bytes that follow a checkpoint, as many as dst has room for. Src is the file from byte cp.In/8
// on: to the last byte of which the span has a bit, which is (next.In+7)/8 with the next checkpoint, or after the
// last one, to the end of the last member ([Reader.End]) or beyond. It reads nothing else of the file.
//
// End is the bit of the file at which the span ends, next.In, or negative if that is not known: what stands between the
// last of the bytes and end, such as a member's trailer, has to be right and to give none.
//
// An error is a CorruptError: dst could not be filled, or the span does not end there. What is in dst then is of no meaning.
// CRCs of members are not checked, since a span need not have a whole one: whoever has spans knows them by digests.
//
// It may be called concurrently.
func Decode(dst, src []byte, cp *Checkpoint, end int64) error {
	s := spanDecoders.Get().(*spanDecoder)
	defer s.release()
	if err := s.start(src, cp); err != nil {
		return err
	}
	d := &s.d
	d.stop = d.produced() + int64(len(dst))
	for len(dst) > 0 {
		err := d.more()
		n := copy(dst, d.out[d.rd:d.wr])
		d.rd += uint(n)
		dst = dst[n:]
		if len(dst) > 0 && err == io.EOF {
			return d.corrupt(truncated)
		}
		if len(dst) > 0 && err != nil {
			return err
		}
	}
	if end < 0 {
		return nil
	}
	return d.finish(end)
}

// finish goes on to the bit of the file at which the output that is wanted, all of which is there, has to end.
func (d *decoder) finish(end int64) error {
	for d.position() < end && d.produced() == d.stop {
		if err := d.advance(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if d.position() != end || d.produced() != d.stop {
		return d.corrupt(otherEnd)
	}
	return nil
}

// otherEnd is the reason for the refusal of a span that is not where it should be.
const otherEnd = "span that does not end where it should"

// A spanDecoder is a decoder that reads from memory.
type spanDecoder struct {
	d   decoder
	src bytes.Reader
}

// spanDecoders keeps decoders for the next span; each has about 200 KiB of buffers.
var spanDecoders = sync.Pool{New: func() any { return new(spanDecoder) }}

// release puts s back, without the caller's bytes.
func (s *spanDecoder) release() {
	s.src.Reset(nil)
	spanDecoders.Put(s)
}

// start sets s to decode from a checkpoint on.
func (s *spanDecoder) start(src []byte, cp *Checkpoint) error {
	d := &s.d
	d.outBase, d.first, d.near, d.summed = 0, 0, 0, 0
	d.wr = uint(copy(d.out[:WindowSize], cp.Window))
	d.rd = d.wr
	d.ended = false
	if reason := s.enter(cp); reason != "" {
		return &CorruptError{Offset: cp.In >> 3, Reason: reason}
	}
	s.src.Reset(src)
	d.input.reset(&s.src, cp.In)
	return nil
}

// enter sets the decoder's state to that of a checkpoint. It returns what is wrong with the checkpoint, or "".
func (s *spanDecoder) enter(cp *Checkpoint) (reason string) {
	d := &s.d
	switch {
	case cp.In < 0 || cp.BlockBit > 7 || len(cp.Window) > WindowSize:
		return fmt.Sprintf("checkpoint with bit %d, block's bit %d, window of %d bytes", cp.In, cp.BlockBit, len(cp.Window))
	case cp.Member:
		if cp.In&7 != 0 || cp.Block != nil || len(cp.Window) > 0 {
			return "checkpoint at a member that is not at a byte, or has a block or a window"
		}
		d.state = atMember
	case cp.Block != nil:
		return s.enterBlock(cp)
	default:
		d.state = atBlock
	}
	return ""
}

// enterBlock reads the header that a checkpoint inside a block has with it.
func (s *spanDecoder) enterBlock(cp *Checkpoint) (reason string) {
	d := &s.d
	s.src.Reset(cp.Block[:min(len(cp.Block), maxBlockHeader)])
	d.input.reset(&s.src, int64(cp.BlockBit))
	d.fill()
	if reason := d.readHeader(); reason != "" {
		return reason
	}
	if d.state != inCoded {
		return "checkpoint inside a stored block"
	}
	return ""
}
