package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

var errShort = errors.New("data is cut short")

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

func (d *decoder) uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (d *decoder) int64() int64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(b))
}

func (d *decoder) sum() (sum [sha256.Size]byte) {
	copy(sum[:], d.take(len(sum)))
	return sum
}

func (d *decoder) stored() stored {
	return stored{off: d.int64(), len: d.uint32(), raw: d.uint32(), sum: d.sum()}
}

// string takes a length and as many bytes, max at most.
func (d *decoder) string(max uint32) string {
	n := d.uint32()
	if n > max {
		d.err = errShort
		return ""
	}
	return string(d.take(int(n)))
}
