package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
)

var errEntry = errors.New("malformed entry")

// nameChunk is how many bytes for names are allocated at a time.
const nameChunk = 32 << 10

// A pieceDecoder takes entries out of a piece.
type pieceDecoder struct {
	pieceState
	columns [numColumns]column
	kinds   []kind
	times   []timestamp
	names   strings.Builder // the memory that names are in
	text    int             // as the encoder's
	left    uint32          // entries that haven't been taken
	tarSize int64
	bad     bool // there was something that can't be
}

// A kind is what many entries have in common.
type kind struct {
	entry   Entry
	content byte
	slash   bool
	text    int // bytes of attributes
}

// start begins with a piece, which must stay as it is until the last entry has been taken.
func (d *pieceDecoder) start(piece []byte, count uint32, tarSize int64) {
	d.pieceState, d.kinds, d.times, d.text = pieceState{}, d.kinds[:0], d.times[:0], 0
	d.left, d.tarSize = count, tarSize
	head := column{b: piece}
	var lens [colText]uint64
	for i := range lens {
		lens[i] = head.uint()
	}
	all := column{b: piece, i: head.i, bad: head.bad}
	for i, n := range lens {
		d.columns[i] = column{b: all.bytes(n, maxPiece)}
	}
	d.columns[colText] = column{b: piece[all.i:]}
	d.bad = all.bad
}

// fill adds entries to a batch until that is full or the piece has no more.
func (d *pieceDecoder) fill(b *batch) error {
	for d.left > 0 && len(b.entries) < cap(b.entries) && !d.bad {
		b.entries = b.entries[:len(b.entries)+1]
		d.entry(&b.entries[len(b.entries)-1], b)
		d.left--
	}
	for i := range d.columns {
		c := &d.columns[i]
		d.bad = d.bad || c.bad || d.left == 0 && c.i < len(c.b)
	}
	if d.bad {
		b.entries = b.entries[:0]
		return errEntry
	}
	return nil
}

// entry takes one entry. It may set bad, or that of a column, and go on with what is nonsense then.
func (d *pieceDecoder) entry(e *Entry, b *batch) {
	k := d.kind()
	if k == nil {
		return
	}
	*e = k.entry
	e.Name = d.nextName(k.slash)
	d.text += len(e.Name) + k.text
	if e.isLink() {
		target := d.columns[colText].bytes(d.columns[colTarget].uint(), MaxName)
		e.Linkname = d.store("", target, false)
		d.text += len(target)
	}
	if d.text > maxPieceText {
		d.bad = true
	}
	t := d.time()
	e.MtimeSec, e.MtimeNsec = t.sec, t.nsec
	d.pos += blockSize
	switch k.content {
	case contentPlain:
		d.plain(e, b)
	case contentSparse:
		d.sparse(e)
	}
	d.pos = roundUp(d.pos)
}

// kind takes an entry's kind.
func (d *pieceDecoder) kind() *kind {
	n := d.columns[colKind].uint()
	switch {
	case n < uint64(len(d.kinds)):
	case n > uint64(len(d.kinds)):
		d.bad = true
		return nil
	default:
		d.kinds = append(d.kinds, kind{})
		d.newKind(&d.kinds[n])
	}
	return &d.kinds[n]
}

func (d *pieceDecoder) newKind(k *kind) {
	c, e := &d.columns[colKinds], &k.entry
	head := c.bytes(2, 2)
	if len(head) < 2 || head[1] >= 2*kindSlash || head[1]&^kindSlash >= contentKinds {
		d.bad = true
		return
	}
	e.Type, k.content, k.slash = head[0], head[1]&^kindSlash, head[1]&kindSlash != 0
	e.Mode = uint32(d.atMost(0o7777, c.uint()))
	e.UID = uint32(d.atMost(MaxID, c.uint()))
	e.GID = uint32(d.atMost(MaxID, c.uint()))
	if e.isDevice() {
		e.Major = uint32(d.atMost(1<<32-1, c.uint()))
		e.Minor = uint32(d.atMost(1<<32-1, c.uint()))
	}
	for n := c.uint(); n > 0 && !d.bad && !c.bad; n-- {
		x := Xattr{string(c.bytes(c.uint(), maxXattrName)), string(c.bytes(c.uint(), maxXattrValue))}
		if last := len(e.Xattrs) - 1; last >= 0 && e.Xattrs[last].Name >= x.Name {
			d.bad = true
		}
		e.Xattrs = append(e.Xattrs, x)
		k.text += len(x.Name) + len(x.Value)
	}
}

// atMost is n, or what is bad.
func (d *pieceDecoder) atMost(max, n uint64) uint64 {
	if n > max {
		d.bad = true
		return 0
	}
	return n
}

// nextName takes a name.
func (d *pieceDecoder) nextName(slash bool) string {
	shared := int64(d.dir) + d.columns[colShared].int()
	rest := d.columns[colText].bytes(d.columns[colRest].uint(), MaxName)
	if shared < 0 || shared > int64(len(d.name)) || int(shared)+len(rest) > MaxName {
		d.bad = true
		return ""
	}
	name := d.store(d.name[:shared], rest, slash)
	switch {
	case slash:
		d.dir = len(name)
	case int(shared) < d.dir || bytes.IndexByte(rest, '/') >= 0:
		d.dir = strings.LastIndexByte(name, '/') + 1
	}
	d.name = name
	return name
}

// store makes a string. Its memory is that of its neighbours.
func (d *pieceDecoder) store(front string, rest []byte, slash bool) string {
	if n := len(front) + len(rest) + 1; n > d.names.Cap()-d.names.Len() {
		d.names.Reset()
		d.names.Grow(max(n, nameChunk))
	}
	start := d.names.Len()
	d.names.WriteString(front)
	d.names.Write(rest)
	if slash {
		d.names.WriteByte('/')
	}
	return d.names.String()[start:]
}

// time takes a time.
func (d *pieceDecoder) time() timestamp {
	n := d.columns[colTime].uint()
	switch {
	case n < uint64(len(d.times)):
	case n > uint64(len(d.times)):
		d.bad = true
		return timestamp{}
	default:
		c := &d.columns[colTimes]
		d.pieceState.time += c.int()
		d.times = append(d.times, timestamp{d.pieceState.time, uint32(d.atMost(1e9-1, c.uint()))})
	}
	return d.times[n]
}

// plain takes content that is one run of bytes.
func (d *pieceDecoder) plain(e *Entry, b *batch) {
	size, offset := d.columns[colSize].uint(), d.pos+d.columns[colOffset].int()
	if offset < 0 || offset > d.tarSize || size == 0 || size > uint64(d.tarSize-offset) {
		d.bad = true
		return
	}
	e.Size = int64(size)
	b.extents = append(b.extents, Extent{0, offset, e.Size})
	e.Extents = b.extents[len(b.extents)-1:]
	d.pos = offset + e.Size
}

// sparse takes content that is any number of runs.
func (d *pieceDecoder) sparse(e *Entry) {
	c := &d.columns[colExtents]
	e.Size = int64(d.atMost(1<<63-1, d.columns[colSize].uint()))
	n := d.atMost(uint64(len(c.b)-c.i)/3, c.uint())
	e.Extents = make([]Extent, n)
	logical := int64(0)
	for i := range e.Extents {
		gap := int64(d.atMost(uint64(e.Size-logical), c.uint()))
		offset := d.pos + c.int()
		length := int64(d.atMost(uint64(e.Size-logical-gap), c.uint()))
		if d.bad || length == 0 || offset < 0 || offset > d.tarSize-length {
			d.bad = true
			return
		}
		e.Extents[i] = Extent{logical + gap, offset, length}
		logical += gap + length
		d.pos = offset + length
	}
}

// A column gives values off the front of b. After the first that can't be it gives zeros, and bad is set.
type column struct {
	b   []byte
	i   int // what is before b[i] has been given
	bad bool
}

// uint gives a number.
func (c *column) uint() uint64 {
	if c.i < len(c.b) && c.b[c.i] < 0x80 { // nearly always
		c.i++
		return uint64(c.b[c.i-1])
	}
	return c.long()
}

// long gives a number of several bytes.
func (c *column) long() (x uint64) {
	for n, rest := 0, c.b[c.i:]; n < len(rest) && n < binary.MaxVarintLen64; n++ {
		digit := rest[n]
		x |= uint64(digit&0x7f) << (7 * n)
		if digit >= 0x80 {
			continue
		}
		c.i += n + 1
		if digit == 0 || n == binary.MaxVarintLen64-1 && digit > 1 {
			break // not the shortest form, or over 64 bits
		}
		return x
	}
	c.bad = true
	return 0
}

// int gives a signed number: zigzag, as encoding/binary's Varint.
func (c *column) int() int64 {
	x := c.uint()
	return int64(x>>1) ^ -int64(x&1)
}

// bytes gives n bytes, max at most.
func (c *column) bytes(n, max uint64) []byte {
	if n > max || n > uint64(len(c.b)-c.i) {
		c.bad = true
		return nil
	}
	c.i += int(n)
	return c.b[c.i-int(n) : c.i]
}
