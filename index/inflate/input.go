package inflate

import (
	"encoding/binary"
	"io"
)

const (
	inSize = 64 << 10
	inMask = inSize - 1
	inPad  = 8 // so that a word can be loaded from any byte
)

// An input is a window that slides over the compressed bytes. A place in it is one number, counted in bits.
type input struct {
	buf  [inSize + inPad]byte
	bit  uint  // the next bit, from buf[0] on; past 8*end once the decoder took bits that are not there
	end  uint  // bytes in buf
	base int64 // offset of buf[0] in the file
	src  io.Reader
	err  error // why src has no more bytes
}

// reset starts a new input at the given bit of the file; src gives bytes from the one that holds it.
func (in *input) reset(src io.Reader, bit int64) {
	in.src, in.err = src, nil
	in.base, in.bit, in.end = bit>>3, uint(bit&7), 0
}

// position returns the offset of the next bit in the file, in bits.
func (in *input) position() int64 { return in.base<<3 + int64(in.bit) }

// offset returns the offset of the next byte in the file; a byte that was begun does not count.
func (in *input) offset() int64 { return in.base + int64((in.bit+7)>>3) }

// available returns how many bytes there are from the next byte on, without asking for more.
func (in *input) available() uint {
	if at := (in.bit + 7) >> 3; at < in.end {
		return in.end - at
	}
	return 0
}

// overrun reports whether bits were taken that are not there.
func (in *input) overrun() bool { return in.bit > in.end<<3 }

// ensure has n more bytes in buf, or all that are left. An error other than the end of the source is returned.
func (in *input) ensure(n uint) error {
	if in.available() >= n || in.err == io.EOF {
		return nil
	}
	if in.err == nil {
		in.fill()
	}
	if in.available() < n && in.err != io.EOF {
		return in.err
	}
	return nil
}

// maxIdle is how many reads in a row may give nothing.
const maxIdle = 100

// fill slides the window to the next bit, and reads until it is full or the source has no more: what a decoder sees
// in its buffer, and so where it stops, does not depend on how the source hands out its bytes.
func (in *input) fill() {
	at := min(in.bit>>3, in.end)
	copy(in.buf[:], in.buf[at:in.end])
	in.base += int64(at)
	in.bit -= at << 3
	in.end -= at
	for idle := 0; in.end < inSize && in.err == nil; {
		n, err := in.src.Read(in.buf[in.end:inSize])
		in.end += uint(n)
		in.err = err
		if idle++; n > 0 {
			idle = 0
		} else if idle == maxIdle && err == nil {
			in.err = io.ErrNoProgress
		}
	}
	clear(in.buf[in.end : in.end+inPad])
}

// peek returns the next 57 bits, the first one lowest (RFC 1951, section 3.1.1), and nothing of use above them.
// Bits past the end are without meaning: whoever takes them has to ask overrun.
func (in *input) peek() uint64 {
	return load64(&in.buf, in.bit>>3) >> (in.bit & 7)
}

// take returns the next n bits, 32 at most.
func (in *input) take(n uint) uint {
	v := uint(in.peek()) & (1<<(n&63) - 1)
	in.bit += n
	return v
}

// align moves to the next byte.
func (in *input) align() { in.bit = (in.bit + 7) &^ 7 }

// load64 returns the 8 bytes at i.
func load64(buf *[inSize + inPad]byte, i uint) uint64 {
	i &= inMask
	return binary.LittleEndian.Uint64(buf[i : i+8])
}
