package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A blob's file has three parts:
//
//	0             header, alone in its page
//	dataStart     the blob's bytes at their offsets; holes where there are none
//	logStart      the map: an append-only log of what was written and dropped
//
// header, 32 bytes, numbers little-endian:
//
//	 0  magic "imgfsblb"
//	 8  size of the blob
//	16  offset in the file of the first record
//	24  zero
//	28  CRC-32C of the above
//
// record, 24 bytes:
//
//	 0  operation: 1 the bytes are there, 2 they are not
//	 1  zero
//	 4  CRC-32C of the CRC before it (4 bytes; of the header for the first
//	    record), the operation with its zeros, and the rest
//	 8  first byte, an offset in the blob
//	16  end
//
// The log ends before the first record that is not valid: one that was torn,
// or never written. The next is written in its place. Chaining the CRCs keeps
// records that may stand behind it from coming back to life.
//
// A log that has grown out of proportion is written anew behind itself, the
// header then points there, and the old one is punched out.
const (
	dataStart  = 4096
	logAlign   = 4096
	headerSize = 32
	recordSize = 24
	blobMagic  = "imgfsblb"

	// maxBlob keeps offsets in a blob's file far from the lock bytes and from
	// overflow: 256 TiB.
	maxBlob = int64(1) << 48
)

// Operations of records.
const (
	opPresent = 1
	opDropped = 2
)

type record struct {
	op byte
	piece
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errHeader = errors.New("not a blob's file, or its header is damaged")

// logStart returns where the log of a new file starts.
func logStart(size int64) int64 { return (dataStart + size + logAlign - 1) &^ (logAlign - 1) }

// appendHeader appends the header to b and returns its CRC.
func appendHeader(b []byte, size, first int64) ([]byte, uint32) {
	start := len(b)
	b = append(b, blobMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = binary.LittleEndian.AppendUint64(b, uint64(first))
	b = binary.LittleEndian.AppendUint32(b, 0)
	crc := crc32.Checksum(b[start:], castagnoli)
	return binary.LittleEndian.AppendUint32(b, crc), crc
}

// decodeHeader is the inverse of appendHeader. It accepts what a header may
// say of a file that is sound.
func decodeHeader(b []byte) (size, first int64, crc uint32, err error) {
	if len(b) < headerSize || string(b[:8]) != blobMagic {
		return 0, 0, 0, errHeader
	}
	crc = crc32.Checksum(b[:28], castagnoli)
	size = int64(binary.LittleEndian.Uint64(b[8:]))
	first = int64(binary.LittleEndian.Uint64(b[16:]))
	switch {
	case crc != binary.LittleEndian.Uint32(b[28:]), binary.LittleEndian.Uint32(b[24:]) != 0:
		return 0, 0, 0, errHeader
	case size < 0 || size > maxBlob:
		return 0, 0, 0, errHeader
	case first < logStart(size) || first > 2*maxBlob:
		return 0, 0, 0, errHeader
	}
	return size, first, crc, nil
}

// chain returns the CRC of a record, in which it holds the one of its
// predecessor.
func chain(before uint32, rec []byte) uint32 {
	var b [recordSize]byte
	binary.LittleEndian.PutUint32(b[0:], before)
	copy(b[4:8], rec[0:4])
	copy(b[8:], rec[8:recordSize])
	return crc32.Checksum(b[:], castagnoli)
}

// appendRecord appends a record to b and returns its CRC.
func appendRecord(b []byte, before uint32, r record) ([]byte, uint32) {
	start := len(b)
	b = append(b, r.op, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.lo))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.hi))
	crc := chain(before, b[start:])
	binary.LittleEndian.PutUint32(b[start+4:], crc)
	return b, crc
}

// decodeRecord is the inverse of appendRecord. It reports false for what ends
// the log of a blob of that size.
func decodeRecord(b []byte, before uint32, size int64) (r record, crc uint32, ok bool) {
	if len(b) < recordSize {
		return record{}, 0, false
	}
	crc = binary.LittleEndian.Uint32(b[4:])
	r = record{b[0], piece{int64(binary.LittleEndian.Uint64(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))}}
	switch {
	case b[1] != 0 || b[2] != 0 || b[3] != 0, crc != chain(before, b):
		return record{}, 0, false
	case r.op != opPresent && r.op != opDropped, r.lo < 0 || r.lo > r.hi || r.hi > size:
		return record{}, 0, false
	}
	return r, crc, true
}

// mapLog is a place in the log of a blob: its end, as far as it was read.
type mapLog struct {
	size    int64  // of the blob
	first   int64  // offset of the first record
	next    int64  // offset of the record to come
	crc     uint32 // of the record before
	records int
}

// readHeader goes to the beginning of the log that f's header names. It
// reports whether that is another one than before.
func (l *mapLog) readHeader(f io.ReaderAt) (moved bool, err error) {
	var b [headerSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		if err == io.EOF {
			err = errHeader
		}
		return false, err
	}
	size, first, crc, err := decodeHeader(b[:])
	if err != nil {
		return false, err
	}
	if l.first == first && l.size == size {
		return false, nil
	}
	*l = mapLog{size: size, first: first, next: first, crc: crc}
	return true, nil
}

// replay calls apply with every record that was appended since. Its memory
// does not depend on the log's length.
func (l *mapLog) replay(f io.ReaderAt, apply func(record)) error {
	var buf [128 * recordSize]byte
	for {
		n, err := f.ReadAt(buf[:], l.next)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read map: %w", err)
		}
		for b := buf[:n]; ; b = b[recordSize:] {
			r, crc, ok := decodeRecord(b, l.crc, l.size)
			if !ok && len(b) >= recordSize {
				return nil
			}
			if !ok {
				break
			}
			l.advance(crc)
			apply(r)
		}
		if n < len(buf) {
			return nil
		}
	}
}

func (l *mapLog) advance(crc uint32) {
	l.next += recordSize
	l.crc = crc
	l.records++
}

// append writes a record to the end of the log, to which l has been replayed.
func (l *mapLog) append(f io.WriterAt, r record) error {
	b, crc := appendRecord(make([]byte, 0, recordSize), l.crc, r)
	if _, err := f.WriteAt(b, l.next); err != nil {
		return fmt.Errorf("write map: %w", err)
	}
	l.advance(crc)
	return nil
}

// A log is compacted when it has more than minRecords records, and more than
// bloat for each piece that it describes.
const (
	minRecords = 4096
	bloat      = 8
)

func (l *mapLog) bloated(present ranges) bool {
	return l.records > minRecords && l.records > bloat*len(present)
}

// compact writes a log of the pieces that are present behind the one there is,
// points the header there, and returns where the old one was.
func (l *mapLog) compact(f io.WriterAt, present ranges) (old piece, err error) {
	first := (l.next + logAlign - 1) &^ (logAlign - 1)
	header, crc := appendHeader(nil, l.size, first)
	moved := mapLog{size: l.size, first: first, next: first, crc: crc}
	log := make([]byte, 0, len(present)*recordSize)
	for _, p := range present {
		log, crc = appendRecord(log, moved.crc, record{opPresent, p})
		moved.advance(crc)
	}
	if _, err := f.WriteAt(log, first); err != nil {
		return piece{}, fmt.Errorf("compact map: %w", err)
	}
	if _, err := f.WriteAt(header, 0); err != nil {
		return piece{}, fmt.Errorf("compact map: %w", err)
	}
	old = piece{l.first, first}
	*l = moved
	return old, nil
}
