package index

import (
	"encoding/binary"
	"strings"
)

// Bounds on a piece of the entries. docs/format.md describes its encoding.
const (
	// pieceTarget is how many bytes of encoded entries make a piece: enough to be compressed well.
	pieceTarget = 256 << 10
	// maxPieceEntries bounds the entries of a piece.
	maxPieceEntries = 1 << 14
	// maxPiece bounds a piece, decompressed: pieceTarget and one entry, whose attributes and sparse map come out of at
	// most 1 MiB of the tar each.
	maxPiece = 8 << 20
	// maxPieceText bounds the strings of a piece's entries as they are when decoded, which may be many times what they
	// are in the piece. A piece is written once it has half of that, and one entry has less than the other half.
	maxPieceText = 8 << 20
	// minEntry is the length of the shortest entry, encoded.
	minEntry = 4
)

// The columns of a piece: what its entries have, kind by kind. They are compressed in groups of those that are alike.
const (
	colKinds   = iota // the kinds that there are
	colKind           // for each entry, which one it is of
	colShared         // how much of the name before its name starts with
	colRest           // length of the rest of its name
	colTarget         // length of what it links to
	colTime           // which of the times is its own
	colOffset         // where its content is
	colTimes          // the times that there are; from here on they look like noise
	colSize           // size of the content
	colExtents        // of content that isn't one run of bytes
	colText           // the rests of the names, and the targets
	numColumns
)

// frames are the first columns of those groups, each of which becomes a zstd frame.
var frames = [...]int{colKinds, colTimes, colText, numColumns}

// What is said of an entry's content by its kind.
const (
	contentNone   = iota // it has none
	contentPlain         // an extent of the size's length
	contentSparse        // any extents
	contentKinds
)

// kindSlash is the flag of a kind whose names end with a slash, which is not in the text.
const kindSlash = 1 << 2

// A timestamp is a time in an entry.
type timestamp struct {
	sec  int64
	nsec uint32
}

// A pieceState is what the encoding of an entry refers to.
type pieceState struct {
	name string // of the entry before
	dir  int    // how much of it leads to its directory, or is a directory
	pos  int64  // in the tar, where the header after that entry is unless there are headers for special things
	time int64  // seconds of the last new time
}

// A pieceEncoder encodes the entries of a piece.
type pieceEncoder struct {
	pieceState
	columns [numColumns][]byte
	kinds   map[string]uint64
	times   map[timestamp]uint64
	scratch []byte
	count   uint32
	text    int // bytes that the entries' strings have when they are decoded
}

func newPieceEncoder() *pieceEncoder {
	return &pieceEncoder{kinds: make(map[string]uint64), times: make(map[timestamp]uint64)}
}

// full tells whether the piece has got large enough.
func (p *pieceEncoder) full() bool {
	n := 0
	for i := range p.columns {
		n += len(p.columns[i])
	}
	return n >= pieceTarget || p.text >= maxPieceText/2 || p.count == maxPieceEntries
}

// take is the piece, as the parts that are to be compressed each by itself. They are valid until the next call of
// add, which starts a new piece.
func (p *pieceEncoder) take() (parts [][]byte, count uint32) {
	var head []byte
	for _, c := range p.columns[:colText] {
		head = binary.AppendUvarint(head, uint64(len(c)))
	}
	from := 0
	for _, to := range frames[1:] {
		for _, c := range p.columns[from:to] {
			head = append(head, c...)
		}
		parts, head, from = append(parts, head), nil, to
	}
	count = p.count
	for i := range p.columns {
		p.columns[i] = p.columns[i][:0]
	}
	clear(p.kinds)
	clear(p.times)
	p.pieceState, p.count, p.text = pieceState{}, 0, 0
	return parts, count
}

func (p *pieceEncoder) uint(column int, n uint64) {
	p.columns[column] = binary.AppendUvarint(p.columns[column], n)
}

func (p *pieceEncoder) int(column int, n int64) {
	p.columns[column] = binary.AppendVarint(p.columns[column], n)
}

// add encodes an entry.
func (p *pieceEncoder) add(e *Entry) {
	p.count++
	content := contentOf(e)
	p.addKind(e, content)
	p.addName(e.Name)
	if e.isLink() {
		p.uint(colTarget, uint64(len(e.Linkname)))
		p.columns[colText] = append(p.columns[colText], e.Linkname...)
		p.text += len(e.Linkname)
	}
	p.addTime(timestamp{e.MtimeSec, e.MtimeNsec})
	p.pos += blockSize
	switch content {
	case contentPlain:
		p.uint(colSize, uint64(e.Size))
		p.int(colOffset, e.Extents[0].Offset-p.pos)
		p.pos = e.Extents[0].Offset + e.Size
	case contentSparse:
		p.uint(colSize, uint64(e.Size))
		p.addExtents(e.Extents)
	}
	p.pos = roundUp(p.pos)
}

func (e *Entry) isLink() bool   { return e.Type == TypeLink || e.Type == TypeSymlink }
func (e *Entry) isDevice() bool { return e.Type == TypeChar || e.Type == TypeBlock }

func contentOf(e *Entry) byte {
	switch {
	case e.Size == 0 && len(e.Extents) == 0:
		return contentNone
	case len(e.Extents) == 1 && e.Extents[0].Logical == 0 && e.Extents[0].Length == e.Size:
		return contentPlain
	}
	return contentSparse
}

// roundUp is where in a tar the block starts that comes after n bytes.
func roundUp(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// addKind encodes what many entries have in common.
func (p *pieceEncoder) addKind(e *Entry, content byte) {
	flags := content
	if strings.HasSuffix(e.Name, "/") {
		flags |= kindSlash
	}
	b := append(p.scratch[:0], e.Type, flags)
	for _, n := range [...]uint32{e.Mode, e.UID, e.GID} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	if e.isDevice() {
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendString(b, x.Name)
		b = appendString(b, x.Value)
		p.text += len(x.Name) + len(x.Value)
	}
	n, ok := p.kinds[string(b)]
	if !ok {
		n = uint64(len(p.kinds))
		p.kinds[string(b)] = n
		p.columns[colKinds] = append(p.columns[colKinds], b...)
	}
	p.uint(colKind, n)
	p.scratch = b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func (p *pieceEncoder) addName(name string) {
	p.text += len(name)
	short := strings.TrimSuffix(name, "/")
	shared := 0
	for shared < min(len(short), len(p.name)) && short[shared] == p.name[shared] {
		shared++
	}
	p.int(colShared, int64(shared-p.dir))
	p.uint(colRest, uint64(len(short)-shared))
	p.columns[colText] = append(p.columns[colText], short[shared:]...)
	p.name, p.dir = name, strings.LastIndexByte(name, '/')+1
}

func (p *pieceEncoder) addTime(t timestamp) {
	n, ok := p.times[t]
	if !ok {
		n = uint64(len(p.times))
		p.times[t] = n
		p.int(colTimes, t.sec-p.time)
		p.uint(colTimes, uint64(t.nsec))
		p.time = t.sec
	}
	p.uint(colTime, n)
}

func (p *pieceEncoder) addExtents(list []Extent) {
	p.uint(colExtents, uint64(len(list)))
	logical := int64(0)
	for _, x := range list {
		p.uint(colExtents, uint64(x.Logical-logical))
		p.int(colExtents, x.Offset-p.pos)
		p.uint(colExtents, uint64(x.Length))
		logical, p.pos = x.Logical+x.Length, x.Offset+x.Length
	}
}
