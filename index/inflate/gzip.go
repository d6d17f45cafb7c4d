package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Flags of a member's header (RFC 1952, section 2.3.1).
const (
	flagText = 1 << iota
	flagHeaderCRC
	flagExtra
	flagName
	flagComment
	flagReserved // this one and those above
)

const (
	magic1, magic2 = 0x1f, 0x8b
	methodDeflate  = 8
	trailerSize    = 8

	// maxMemberHeader is the most bytes we take for a member's header. The format sets no limit to names and comments.
	maxMemberHeader = 128 << 10
)

// member starts the next member, or finds that there is none: then the file ends here, or after zeros.
func (d *decoder) member() error {
	if err := d.ensure(2); err != nil {
		return err
	}
	next := d.buf[d.bit>>3&inMask]
	switch {
	case d.ended && d.available() == 0:
		return io.EOF
	case d.ended && next == 0:
		return d.zeros()
	case d.ended && next != magic1:
		return d.corrupt("more bytes after the last member")
	}
	if err := d.marks.atMember(d); err != nil {
		return err
	}
	if err := d.memberHeader(); err != nil {
		return err
	}
	d.startMember()
	return nil
}

// zeros takes the zeros that pad a file, to its end.
func (d *decoder) zeros() error {
	for {
		if err := d.ensure(1); err != nil {
			return err
		}
		n := d.available()
		if n == 0 {
			return io.EOF
		}
		for _, b := range d.buf[d.bit>>3:][:n] {
			if b != 0 {
				return d.corrupt("more bytes after the last member")
			}
			d.bit += 8
		}
	}
}

// A byteReader reads a member's header.
type byteReader struct {
	d   *decoder
	crc uint32 // of the bytes so far, inverted
	n   int    // how many
	err error  // why there are no more
}

// next returns the next byte, or 0 after an error.
func (r *byteReader) next() byte {
	if r.err != nil {
		return 0
	}
	if r.err = r.d.ensure(1); r.err != nil {
		return 0
	}
	if r.d.available() == 0 {
		r.err = r.d.corrupt(truncated)
		return 0
	}
	if r.n == maxMemberHeader {
		r.err = r.d.corrupt("member's header is longer than 128 KiB")
		return 0
	}
	b := byte(r.d.take(8))
	r.n++
	r.crc = crc32.IEEETable[byte(r.crc)^b] ^ r.crc>>8
	return b
}

// next16 returns the next two bytes as a number.
func (r *byteReader) next16() uint16 { return uint16(r.next()) | uint16(r.next())<<8 }

// skip reads n bytes.
func (r *byteReader) skip(n int) {
	for ; n > 0 && r.err == nil; n-- {
		r.next()
	}
}

// skipString reads up to a zero byte.
func (r *byteReader) skipString() {
	for r.next() != 0 {
	}
}

// reject makes reason the error, if there is none yet.
func (r *byteReader) reject(wrong bool, reason string) {
	if wrong && r.err == nil {
		r.err = r.d.corrupt(reason)
	}
}

// memberHeader reads a member's header (RFC 1952, section 2.3).
func (d *decoder) memberHeader() error {
	r := byteReader{d: d, crc: ^uint32(0)}
	id1, id2 := r.next(), r.next()
	r.reject(id1 != magic1 || id2 != magic2, "not a gzip member")
	r.reject(r.next() != methodDeflate, "unknown method of compression")
	flags := r.next()
	r.reject(flags >= flagReserved, "unknown flags")
	r.skip(6) // time, extra flags, system
	if flags&flagExtra != 0 {
		r.skip(int(r.next16()))
	}
	if flags&flagName != 0 {
		r.skipString()
	}
	if flags&flagComment != 0 {
		r.skipString()
	}
	if flags&flagHeaderCRC != 0 {
		sum := uint16(^r.crc)
		r.reject(r.next16() != sum, "wrong CRC of a member's header")
	}
	return r.err
}

// startMember is called after a member's header: what follows cannot refer to what was before.
func (d *decoder) startMember() {
	d.state = atBlock
	d.first, d.near = d.wr, d.wr
	d.summed = d.wr
	d.crc = 0
	d.memberOut = d.produced()
}

// trailer reads a member's trailer (RFC 1952, section 2.3.1). A Reader checks it.
func (d *decoder) trailer() error {
	d.align()
	if err := d.ensure(trailerSize); err != nil {
		return err
	}
	if d.available() < trailerSize {
		return d.corrupt(truncated)
	}
	trailer := d.buf[d.bit>>3:][:trailerSize]
	if d.check {
		d.sum()
		if binary.LittleEndian.Uint32(trailer) != d.crc {
			return d.corrupt("wrong CRC of a member")
		}
		if binary.LittleEndian.Uint32(trailer[4:]) != uint32(d.produced()-d.memberOut) {
			return d.corrupt("wrong size of a member")
		}
	}
	d.bit += 8 * trailerSize
	d.ended = true
	d.endOffset = d.offset()
	d.state = atMember
	return d.marks.settle(d)
}
