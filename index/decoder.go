package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

var errShort = errors.New("data is cut short, or a number is not in its shortest form or too large")

// A decoder takes values off the front of b. After the first that can't be it gives zeros, and err says so.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && n > len(d.b) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// number takes a varint up to max, in its shortest form.
func (d *decoder) number(max int64) int64 {
	x, n := binary.Uvarint(d.b)
	if d.err == nil && (n <= 0 || n > 1 && d.b[n-1] == 0 || x > uint64(max)) {
		d.err = errShort
	}
	if d.err != nil {
		return 0
	}
	d.b = d.b[n:]
	return int64(x)
}

// length takes the number of things that follow, of at least size bytes each.
func (d *decoder) length(size int) int { return int(d.number(int64(len(d.b) / size))) }

func (d *decoder) sum() (sum [sha256.Size]byte) {
	copy(sum[:], d.take(len(sum)))
	return sum
}

// string takes a length and as many bytes, max at most.
func (d *decoder) string(max int64) string { return string(d.take(int(d.number(max)))) }
