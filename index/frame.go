package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The parts of a zstd file (RFC 8878, section 3.1).
const (
	frameMagic     = "\x28\xb5\x2f\xfd"
	skippableMagic = "\x2a\x4d\x18" // after a byte from 0x50 to 0x5f
	skippableHead  = 8
	maxFrameHead   = 18
	blockHead      = 3
	checksumSize   = 4
	maxBlock       = 128 << 10
)

// maxWindow bounds the memory that decoding a zstd frame takes, in bytes: as zstd's own program does, unless asked.
const maxWindow = 128 << 20

// isSkippable tells whether a zstd skippable frame starts here (RFC 8878, section 3.1.2).
func isSkippable(head []byte) bool {
	return len(head) >= magicSize && head[0]&0xf0 == 0x50 && string(head[1:magicSize]) == skippableMagic
}

// A frameHeader is what is before a frame's blocks.
type frameHeader struct {
	size     int    // of the header
	window   uint64 // bytes
	dict     uint32 // ID of the dictionary that is needed; 0: none
	checksum bool   // the frame ends with one
}

// parse decodes a header (RFC 8878, section 3.1.1.1) at the start of b. It fails with io.ErrUnexpectedEOF if b is too short.
func (h *frameHeader) parse(b []byte) error {
	short := io.ErrUnexpectedEOF
	if len(b) < 5 {
		return short
	}
	descriptor := b[4]
	if descriptor&0x08 != 0 {
		return errReserved
	}
	single := descriptor&0x20 != 0
	dictSize := [...]int{0, 1, 2, 4}[descriptor&3]
	contentSize := [...]int{0, 2, 4, 8}[descriptor>>6]
	if single && contentSize == 0 {
		contentSize = 1
	}
	*h = frameHeader{size: 5 + dictSize + contentSize, checksum: descriptor&4 != 0}
	if !single {
		h.size++
	}
	if len(b) < h.size {
		return short
	}
	b = b[5:h.size]
	if !single {
		base := uint64(1) << (10 + b[0]>>3)
		h.window = base + base/8*uint64(b[0]&7)
		b = b[1:]
	}
	var number [8]byte
	copy(number[:], b[:dictSize])
	h.dict = binary.LittleEndian.Uint32(number[:])
	if single {
		clear(number[:])
		copy(number[:], b[dictSize:])
		h.window = binary.LittleEndian.Uint64(number[:])
	}
	return nil
}

var errReserved = errors.New("reserved bit of its header is set")

// A frameReader gives the bytes of one frame after the other, and looks at the headers on the way: a frame doesn't
// say how long it is.
type frameReader struct {
	in     *bufio.Reader
	off    int64 // of the next byte in the blob
	start  int64 // of the frame
	header frameHeader
	left   int   // bytes of the frame that come before the next block's header
	last   bool  // there is none
	err    error // of in, or of a block's header
}

// next goes to the next frame. It gives the length of a skippable one, which is then to be skipped, and
// otherwise 0. The error is io.EOF if the file ends here.
func (f *frameReader) next() (skippable int64, err error) {
	b, err := f.in.Peek(maxFrameHead)
	if len(b) == 0 {
		return 0, err
	}
	f.start, f.last, f.err = f.off, false, nil
	e := error(io.ErrUnexpectedEOF)
	switch n := min(len(b), magicSize); {
	case isSkippable(b) && len(b) >= skippableHead:
		return skippableHead + int64(binary.LittleEndian.Uint32(b[magicSize:])), nil
	case isSkippable(b):
	case string(b[:n]) != frameMagic[:n]:
		e = errors.New("not a zstd frame")
	default:
		e = f.header.parse(b)
		f.left = f.header.size
	}
	if e == io.ErrUnexpectedEOF {
		return 0, f.truncated(err)
	}
	if e != nil {
		return 0, f.malformed(e.Error())
	}
	return 0, nil
}

// skip passes over n bytes.
func (f *frameReader) skip(n int) error {
	m, err := f.in.Discard(n)
	f.off += int64(m)
	if err != nil {
		return f.truncated(err)
	}
	return nil
}

// Read gives the frame's bytes, and io.EOF after the last one.
func (f *frameReader) Read(p []byte) (int, error) {
	if f.err == nil && f.left == 0 {
		f.err = f.block()
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	f.off += int64(n)
	if err != nil {
		f.err = f.truncated(err)
	}
	return n, f.err
}

// block looks at a block's header (RFC 8878, section 3.1.1.2).
func (f *frameReader) block() error {
	if f.last {
		return io.EOF
	}
	b, err := f.in.Peek(blockHead)
	if len(b) < blockHead {
		return f.truncated(err)
	}
	head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	size := int(head >> 3)
	switch kind := head >> 1 & 3; {
	case kind == 3:
		return f.malformed("unknown type of block")
	case size > maxBlock:
		return f.malformed(fmt.Sprintf("block of %d bytes", size))
	case kind == 1: // a byte that is repeated
		size = 1
	}
	f.left = blockHead + size
	f.last = head&1 != 0
	if f.last && f.header.checksum {
		f.left += checksumSize
	}
	return nil
}

// truncated is the error where the blob has no more bytes, which is so because of err.
func (f *frameReader) truncated(err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: zstd frame at byte %d: %w", ErrMalformed, f.start, io.ErrUnexpectedEOF)
	}
	return err
}

func (f *frameReader) malformed(why string) error {
	return fmt.Errorf("%w: zstd frame at byte %d: %s", ErrMalformed, f.start, why)
}
