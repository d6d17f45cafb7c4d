package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// The file's frame: docs/format.md describes it.
const (
	magic       = "imgfsidx"
	version     = 2
	headSize    = 16              // magic, version, zeros
	trailerSize = 8 + sha256.Size // the table's length and digest
)

// head is the first bytes of an index.
func head() []byte {
	b := append(make([]byte, 0, headSize), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	return append(b, 0, 0, 0, 0)
}

// checkHead tells whether an index starts as this package's do.
func checkHead(b []byte) error {
	if bytes.Equal(b, head()) {
		return nil
	}
	if string(b[:len(magic)]) == magic && binary.LittleEndian.Uint32(b[len(magic):]) != version {
		return fmt.Errorf("%w: %d, not %d", ErrStale, binary.LittleEndian.Uint32(b[len(magic):]), version)
	}
	return fmt.Errorf("%w: no index", ErrDamaged)
}

// trailer is the last bytes of an index.
func trailer(table []byte) []byte {
	sum := sha256.Sum256(table)
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(table))), sum[:]...)
}
