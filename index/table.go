package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// The file's frame: docs/format.md describes it.
const (
	magic       = "imgfsidx"
	version     = 1
	headSize    = 16                 // magic, version, zeros
	trailerSize = 8 + sha256.Size    // the table's length and digest
	pieceSize   = 8 + 4 + 4 + 4 + 32 // a piece of the entries, in the table
	spanRecord  = 8 + 8 + 8 + 4 + 4 + 32 + 32
	maxString   = 1 << 10 // a digest, a format
)

// A table is the part of an index that is kept in memory: what the layer is, and where everything is.
type table struct {
	format  Format
	blob    digest.Digest
	size    int64
	diffID  digest.Digest
	tarSize int64
	end     int64 // of the last span in the blob
	entries int
	pieces  []piece
	spans   []span
}

// A stored is compressed data in the body of an index.
type stored struct {
	off int64 // in the file
	len uint32
	raw uint32 // decompressed
	sum [sha256.Size]byte
}

// A piece is some of the entries.
type piece struct {
	stored
	count uint32
}

// A span is a piece of the tar that can be decoded by itself.
type span struct {
	out   int64             // tar offset of its first byte
	in    int64             // bit offset in the blob of its first bit
	state stored            // what the decoder must know; len is 0 if that is nothing, which is so at the start of a member
	sum   [sha256.Size]byte // digest of the bytes of the blob that it is in
}

// appendTo encodes the table.
func (t *table) appendTo(b []byte) []byte {
	for _, s := range []string{string(t.format), t.blob.String(), t.diffID.String()} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, n := range []int64{t.size, t.tarSize, t.end, int64(t.entries)} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.pieces)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.spans)))
	for i := range t.pieces {
		b = t.pieces[i].stored.appendTo(b)
		b = binary.LittleEndian.AppendUint32(b, t.pieces[i].count)
	}
	for i := range t.spans {
		s := &t.spans[i]
		b = binary.LittleEndian.AppendUint64(b, uint64(s.out))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.in))
		b = s.state.appendTo(b)
		b = append(b, s.sum[:]...)
	}
	return b
}

func (s *stored) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(s.off))
	b = binary.LittleEndian.AppendUint32(b, s.len)
	b = binary.LittleEndian.AppendUint32(b, s.raw)
	return append(b, s.sum[:]...)
}

var errTable = errors.New("malformed table")

// parseTable decodes a table. body is where the body of the file ends. The table's content is checked: nothing in it
// leads to a read outside of the body, the blob or the tar, or to an allocation over the bounds.
func parseTable(b []byte, body int64) (*table, error) {
	d := decoder{b: b}
	t := &table{
		format: Format(d.string(maxString)),
		blob:   digest.Digest(d.string(maxString)),
		diffID: digest.Digest(d.string(maxString)),
	}
	t.size, t.tarSize, t.end = d.int64(), d.int64(), d.int64()
	entries := d.int64()
	pieces, spans := int64(d.uint32()), int64(d.uint32())
	if d.err != nil || int64(len(d.b)) != pieces*pieceSize+spans*spanRecord {
		return nil, errTable
	}
	t.pieces = make([]piece, pieces)
	for i := range t.pieces {
		t.pieces[i] = piece{d.stored(), d.uint32()}
	}
	t.spans = make([]span, spans)
	for i := range t.spans {
		t.spans[i] = span{out: d.int64(), in: d.int64(), state: d.stored(), sum: d.sum()}
	}
	t.entries = int(entries)
	return t, errors.Join(d.err, t.check(body, entries))
}

// check tells what can't be.
func (t *table) check(body, entries int64) error {
	if t.blob.Validate() != nil || t.diffID.Validate() != nil || codecs[t.format] == nil {
		return fmt.Errorf("%w: identity", errTable)
	}
	if t.size < 0 || t.tarSize < 0 || t.end < 0 || t.end > t.size || t.size >= 1<<60 { // so that its bits can be counted
		return fmt.Errorf("%w: sizes", errTable)
	}
	end := int64(0) // of the piece before
	for i := range t.pieces {
		p := &t.pieces[i]
		if p.off < end || !p.within(body, maxPiece) || p.count == 0 || p.count > min(maxPieceEntries, p.raw/minEntry) {
			return fmt.Errorf("%w: entries", errTable)
		}
		end = p.off + int64(p.len)
		entries -= int64(p.count)
	}
	if entries != 0 {
		return fmt.Errorf("%w: number of entries", errTable)
	}
	if len(t.spans) == 0 && t.tarSize > 0 {
		return fmt.Errorf("%w: no spans", errTable)
	}
	for i := range t.spans {
		if !t.checkSpan(i, body) {
			return fmt.Errorf("%w: span %d", errTable, i)
		}
	}
	return nil
}

// checkSpan tells whether a span follows the one before, is in the blob and in the tar, and is within the bounds.
func (t *table) checkSpan(i int, body int64) bool {
	s := &t.spans[i]
	if i == 0 && (s.in != 0 || s.out != 0) {
		return false
	}
	if s.in < 0 || s.in > 8*t.end || s.out < 0 || s.out > t.tarSize {
		return false
	}
	if s.state.len > 0 && !s.state.within(body, maxState) || s.state.len == 0 && (s.state != stored{} || s.in%8 != 0) {
		return false
	}
	out, in := t.out(i), t.in(i)
	return out.n >= 0 && out.n <= maxSpan && in.n >= 0 && in.n <= maxSpan
}

// within tells whether stored data is in the body, and not larger than max.
func (s *stored) within(body int64, max uint32) bool {
	return s.off >= headSize && s.off <= body && int64(s.len) <= body-s.off && s.len > 0 && s.raw <= max && s.len <= 2*max
}

// A byteRange is n bytes from byte off on.
type byteRange struct{ off, n int64 }

// out is where span i is in the tar.
func (t *table) out(i int) byteRange {
	end := t.tarSize
	if i+1 < len(t.spans) {
		end = t.spans[i+1].out
	}
	return byteRange{t.spans[i].out, end - t.spans[i].out}
}

// in is where span i is in the blob. Neighbours share a byte where one ends within it.
func (t *table) in(i int) byteRange {
	end := t.end
	if i+1 < len(t.spans) {
		end = (t.spans[i+1].in + 7) / 8
	}
	off := t.spans[i].in / 8
	return byteRange{off, end - off}
}

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
