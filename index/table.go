package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// A table is the part of an index that is kept in memory: what the layer is, and where everything is.
type table struct {
	format  Format
	blob    digest.Digest
	size    int64
	diffID  digest.Digest
	tarSize int64 // of all spans
	frames  int64 // size of the file of frames
	entries int
	pieces  []piece
	states  []stored // statesStored of them in each, and the rest in the last
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
	out   int64  // tar offset of its first byte
	in    int64  // bit offset of its first bit, in the blob or in the frames
	bits  uint32 // how many it is in
	place place
	state uint32            // with inMember: which of the states it has
	sum   [sha256.Size]byte // digest of the bytes that it is in
}

// A place says what a span starts with.
type place uint8

const (
	atStart  place = iota // nothing is needed to decode it: a gzip member, a zstd frame, bytes of a plain tar
	inMember              // within a gzip member: there is a state
	inFrames              // it stands in the file of frames, and not in the blob
	places
)

const (
	maxString  = 1 << 10         // a digest, a format
	maxSize    = 1<<60 - 1       // of a blob and a tar, so that their bits can be counted
	minPiece   = 4 + sha256.Size // a piece in the table
	minState   = 3 + sha256.Size
	minSpan    = 3 + sha256.Size
	maxEntries = 1<<31 - 1
)

// appendTo encodes the table: docs/format.md describes it.
func (t *table) appendTo(b []byte) []byte {
	for _, s := range []string{string(t.format), t.blob.String(), t.diffID.String()} {
		b = appendString(b, s)
	}
	b = appendNumbers(b, t.size, int64(len(t.pieces)))
	end := int64(headSize)
	for i := range t.pieces {
		p := &t.pieces[i]
		b = appendNumbers(b, p.off-end, int64(p.len), int64(p.raw), int64(p.count))
		b = append(b, p.sum[:]...)
		end = p.off + int64(p.len)
	}
	b = appendNumbers(b, int64(len(t.states)))
	end = headSize
	for i := range t.states {
		s := &t.states[i]
		b = appendNumbers(b, s.off-end, int64(s.len), int64(s.raw))
		b = append(b, s.sum[:]...)
		end = s.off + int64(s.len)
	}
	b = appendNumbers(b, int64(len(t.spans)))
	end = 0
	for i := range t.spans {
		s := &t.spans[i]
		b = append(b, byte(s.place))
		b = appendNumbers(b, t.out(i).n)
		if s.place != inFrames {
			b = appendNumbers(b, s.in-end)
			end = s.in + int64(s.bits)
		}
		b = appendNumbers(b, int64(s.bits))
		b = append(b, s.sum[:]...)
	}
	return b
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

var errTable = errors.New("malformed table")

// parseTable decodes a table. body is where the body of the file ends. The table's content is checked: nothing in it
// leads to a read outside of the body, the blob, the frames or the tar, or to an allocation over the bounds.
func parseTable(b []byte, body int64) (*table, error) {
	d := decoder{b: b}
	t := &table{
		format: Format(d.string(maxString)),
		blob:   digest.Digest(d.string(maxString)),
		diffID: digest.Digest(d.string(maxString)),
		size:   d.number(maxSize),
	}
	t.parsePieces(&d, body)
	t.parseStates(&d, body)
	t.parseSpans(&d)
	if d.err == nil && len(d.b) > 0 {
		d.err = errShort
	}
	if d.err != nil {
		return nil, fmt.Errorf("%w: %w", errTable, d.err)
	}
	return t, t.check(body)
}

func (t *table) parsePieces(d *decoder, body int64) {
	t.pieces = make([]piece, d.length(minPiece))
	end := int64(headSize)
	for i := range t.pieces {
		p := &t.pieces[i]
		p.stored = stored{off: end + d.number(body), len: uint32(d.number(2 * maxPiece)), raw: uint32(d.number(maxPiece))}
		p.count = uint32(d.number(maxPieceEntries))
		p.sum = d.sum()
		end = p.off + int64(p.len)
		if t.entries += int(p.count); end > body || t.entries > maxEntries {
			d.err = errShort
			return
		}
	}
}

func (t *table) parseStates(d *decoder, body int64) {
	t.states = make([]stored, d.length(minState))
	end := int64(headSize)
	for i := range t.states {
		s := &t.states[i]
		*s = stored{off: end + d.number(body), len: uint32(d.number(2 * maxStates)), raw: uint32(d.number(maxStates))}
		s.sum = d.sum()
		if end = s.off + int64(s.len); end > body {
			d.err = errShort
			return
		}
	}
}

func (t *table) parseSpans(d *decoder) {
	t.spans = make([]span, d.length(minSpan))
	states, end := uint32(0), int64(0)
	for i := range t.spans {
		s := &t.spans[i]
		if p := d.take(1); p != nil {
			s.place = place(p[0])
		}
		s.out = t.tarSize
		t.tarSize += d.number(maxSpan)
		if s.place != inFrames {
			s.in = end + d.number(8*t.size-end)
		} else {
			s.in = 8 * t.frames
		}
		s.bits = uint32(d.number(8 * maxSpan))
		s.sum = d.sum()
		switch s.place {
		case inFrames:
			t.frames += int64(s.bits / 8)
		case inMember:
			s.state = states
			states++
			fallthrough
		default:
			end = s.in + int64(s.bits)
		}
		if end > 8*t.size {
			d.err = errShort
			return
		}
	}
}

// check tells what can't be.
func (t *table) check(body int64) error {
	codec := codecs[t.format]
	if t.blob.Validate() != nil || t.diffID.Validate() != nil || codec == nil {
		return fmt.Errorf("%w: identity", errTable)
	}
	if t.size < 0 || t.size > maxSize {
		return fmt.Errorf("%w: size", errTable)
	}
	for i := range t.pieces {
		p := &t.pieces[i]
		if !p.within(body, maxPiece) || p.count == 0 || p.count > min(maxPieceEntries, p.raw/minEntry) {
			return fmt.Errorf("%w: entries", errTable)
		}
	}
	for i := range t.states {
		if !t.states[i].within(body, maxStates) {
			return fmt.Errorf("%w: states", errTable)
		}
	}
	states := 0
	for i := range t.spans {
		s := &t.spans[i]
		out, in := t.out(i), t.in(i)
		if out.n < 0 || out.n > maxSpan || in.n < 0 || in.n > maxSpan || !codec.has(s.place) {
			return fmt.Errorf("%w: span %d", errTable, i)
		}
		if s.place != inMember && (s.in%8 != 0 || s.place == inFrames && s.bits%8 != 0) {
			return fmt.Errorf("%w: span %d starts within a byte", errTable, i)
		}
		if s.place == inMember {
			states++
		}
	}
	if (states+statesStored-1)/statesStored != len(t.states) {
		return fmt.Errorf("%w: number of states", errTable)
	}
	return nil
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

// in is where span i is in the blob, or in the frames. Neighbours share a byte where one ends within it.
func (t *table) in(i int) byteRange {
	s := &t.spans[i]
	off := s.in / 8
	return byteRange{off, (s.in+int64(s.bits)+7)/8 - off}
}
