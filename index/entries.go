package index

import (
	"encoding/binary"
	"errors"
)

const (
	// pieceTarget is how many bytes of encoded entries make a piece: enough to be compressed well.
	pieceTarget = 256 << 10
	// maxPiece bounds a piece, decompressed: pieceTarget and one entry, whose attributes and sparse map come out of at
	// most 1 MiB of the tar each.
	maxPiece = 8 << 20
	// maxPieceEntries bounds the entries of a piece.
	maxPieceEntries = 1 << 14
	// minEntry is the length of the shortest entry, encoded.
	minEntry = 11
)

// A context is what an encoded entry refers to: numbers of the entry before in the same piece.
type context struct {
	mtime int64
	data  int64 // end of the last extent in the tar
}

// appendEntry encodes an entry.
func (c *context) appendEntry(b []byte, e *Entry) []byte {
	b = append(b, e.Type)
	b = appendString(b, e.Name)
	b = appendString(b, e.Linkname)
	for _, n := range [...]uint32{e.Mode, e.UID, e.GID, e.MtimeNsec} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendVarint(b, e.MtimeSec-c.mtime)
	c.mtime = e.MtimeSec
	b = binary.AppendUvarint(b, uint64(e.Size))
	if e.isDevice() {
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendString(b, x.Name)
		b = appendString(b, x.Value)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Extents)))
	logical := int64(0)
	for _, x := range e.Extents {
		b = binary.AppendUvarint(b, uint64(x.Logical-logical))
		b = binary.AppendVarint(b, x.Offset-c.data)
		b = binary.AppendUvarint(b, uint64(x.Length))
		logical = x.Logical + x.Length
		c.data = x.Offset + x.Length
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func (e *Entry) isDevice() bool { return e.Type == TypeChar || e.Type == TypeBlock }

var errEntry = errors.New("malformed entry")

// An entryDecoder takes entries out of s, whose memory they share. The first thing that can't be sets bad.
type entryDecoder struct {
	s       string
	i       int // what is before s[i] has been taken
	tarSize int64
	context context
	extents []Extent // room for the next ones
	bad     bool
}

// entries decodes a whole piece.
func (d *entryDecoder) entries(count uint32) ([]Entry, error) {
	list := make([]Entry, count)
	for i := range list {
		if d.entry(&list[i]); d.bad {
			return nil, errEntry
		}
	}
	if d.i < len(d.s) {
		return nil, errEntry
	}
	return list, nil
}

func (d *entryDecoder) entry(e *Entry) {
	if d.i == len(d.s) {
		d.bad = true
		return
	}
	e.Type = d.s[d.i]
	d.i++
	e.Name = d.string(MaxName)
	e.Linkname = d.string(MaxName)
	e.Mode = uint32(d.uint(0o7777))
	e.UID = uint32(d.uint(MaxID))
	e.GID = uint32(d.uint(MaxID))
	e.MtimeNsec = uint32(d.uint(1e9 - 1))
	e.MtimeSec = d.context.mtime + d.int()
	d.context.mtime = e.MtimeSec
	e.Size = int64(d.uint(1<<63 - 1))
	if e.isDevice() {
		e.Major = uint32(d.uint(1<<32 - 1))
		e.Minor = uint32(d.uint(1<<32 - 1))
	}
	d.xattrs(e)
	d.extentsOf(e)
}

func (d *entryDecoder) xattrs(e *Entry) {
	for n := d.uint(uint64(len(d.s) - d.i)); n > 0 && !d.bad; n-- {
		x := Xattr{d.string(maxXattrName), d.string(maxXattrValue)}
		if last := len(e.Xattrs) - 1; last >= 0 && e.Xattrs[last].Name >= x.Name {
			d.bad = true
		}
		e.Xattrs = append(e.Xattrs, x)
	}
}

func (d *entryDecoder) extentsOf(e *Entry) {
	n := int(d.uint(uint64(len(d.s)-d.i) / 3))
	if n == 0 {
		return
	}
	if n > len(d.extents) {
		d.extents = make([]Extent, max(n, 1024))
	}
	e.Extents, d.extents = d.extents[:n:n], d.extents[n:]
	logical := int64(0)
	for i := range e.Extents {
		gap := int64(d.uint(uint64(e.Size - logical)))
		offset := d.context.data + d.int()
		length := int64(d.uint(uint64(e.Size - logical - gap)))
		if d.bad || length == 0 || offset < 0 || offset > d.tarSize-length {
			d.bad = true
			return
		}
		e.Extents[i] = Extent{logical + gap, offset, length}
		logical += gap + length
		d.context.data = offset + length
	}
}

// uint takes a number up to max, in its shortest form.
func (d *entryDecoder) uint(max uint64) uint64 {
	x := uint64(0)
	if d.i < len(d.s) && d.s[d.i] < 0x80 { // nearly always
		x = uint64(d.s[d.i])
		d.i++
	} else {
		x = d.longUint()
	}
	if x > max {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	return x
}

// longUint takes a number of several bytes.
func (d *entryDecoder) longUint() (x uint64) {
	for n, rest := 0, d.s[d.i:]; n < len(rest) && n < binary.MaxVarintLen64; n++ {
		c := rest[n]
		x |= uint64(c&0x7f) << (7 * n)
		if c >= 0x80 {
			continue
		}
		d.i += n + 1
		if c == 0 || n == binary.MaxVarintLen64-1 && c > 1 {
			break // not the shortest form, or over 64 bits
		}
		return x
	}
	d.bad = true
	return 0
}

// int takes a signed number: zigzag, as encoding/binary's Varint.
func (d *entryDecoder) int() int64 {
	x := d.uint(1<<64 - 1)
	return int64(x>>1) ^ -int64(x&1)
}

func (d *entryDecoder) string(max uint64) string {
	n := d.uint(max)
	if n > uint64(len(d.s)-d.i) {
		d.bad = true
		return ""
	}
	s := d.s[d.i:][:n]
	d.i += int(n)
	return s
}
