package testimage

import (
	"encoding/binary"
	"fmt"
)

const blockSize = 512

// defaultMtime is the time of entries that were given none: a second with a round number.
const defaultMtime = 1_000_000_000

// A header is what an entry is made of.
type header struct {
	name, link   string
	typ          byte
	mode         int64
	uid, gid     int64
	size         int64 // -1: the content's
	mtime        int64
	major, minor int64
	pax          map[string]string
	paxText      []byte // more records: of repeated keys, or that have to be the last
	gnu, binary  bool
	fields       []field
	content      []byte
}

// A field is bytes of a header block.
type field struct {
	offset int
	value  string
}

func newEntry(h header, opts []Option) Entry {
	h.pax = make(map[string]string)
	h.mtime = defaultMtime
	if h.mode == 0 {
		h.mode = 0o644
	}
	for _, o := range opts {
		o(&h)
	}
	if h.size < 0 {
		h.size = int64(len(h.content))
	}
	var b []byte
	if h.gnu {
		b = append(b, h.long('L', h.name)...)
		b = append(b, h.long('K', h.link)...)
	} else {
		h.spill("path", h.name)
		h.spill("linkpath", h.link)
	}
	if records := append(paxRecords(h.pax), h.paxText...); len(records) > 0 {
		b = append(b, special('x', "PaxHeaders/entry", records, false)...)
	}
	b = append(b, h.block()...)
	return Entry{append(b, padded(h.content)...)}
}

// long is the GNU entry for a name that does not fit.
func (h *header) long(typ byte, name string) []byte {
	if fits(name) {
		return nil
	}
	return special(typ, "././@LongLink", append([]byte(name), 0), true)
}

// spill puts a name that does not fit into a PAX record.
func (h *header) spill(key, name string) {
	if _, ok := h.pax[key]; !ok && !fits(name) {
		h.pax[key] = name
	}
}

// special is an entry about the next one.
func special(typ byte, name string, content []byte, gnu bool) []byte {
	h := header{name: name, typ: typ, gnu: gnu, size: int64(len(content))}
	return append(h.block(), padded(content)...)
}

func padded(content []byte) []byte {
	return append(content, make([]byte, -len(content)&(blockSize-1))...)
}

// block is the header block. Its layout is POSIX's ("ustar"), or GNU tar's.
func (h *header) block() []byte {
	b := make([]byte, blockSize)
	copy(b[0:100], h.name)
	copy(b[157:257], h.link)
	b[156] = h.typ
	h.number(b[100:108], h.mode)
	h.number(b[108:116], h.uid)
	h.number(b[116:124], h.gid)
	h.number(b[124:136], h.size)
	h.number(b[136:148], h.mtime)
	if h.gnu {
		copy(b[257:265], "ustar  \x00")
	} else {
		copy(b[257:265], "ustar\x0000")
	}
	h.number(b[329:337], h.major)
	h.number(b[337:345], h.minor)
	for _, f := range h.fields {
		copy(b[f.offset:], f.value)
	}
	h.sum(b)
	return b
}

// number writes octal digits and a NUL, or a binary number where they don't suffice.
func (h *header) number(b []byte, n int64) {
	digits := fmt.Sprintf("%0*o\x00", len(b)-1, n)
	if n >= 0 && len(digits) == len(b) && !h.binary {
		copy(b, digits)
		return
	}
	var be [8]byte
	binary.BigEndian.PutUint64(be[:], uint64(n))
	for i := range b {
		b[i] = byte(n >> 63) // the sign, repeated
	}
	copy(b[max(len(b)-8, 0):], be[max(8-len(b), 0):])
	b[0] = b[0]&0x7f | 0x80
}

// sum fills in the checksum, if no field has.
func (h *header) sum(b []byte) {
	for _, f := range h.fields {
		if f.offset < 156 && f.offset+len(f.value) > 148 {
			return
		}
	}
	copy(b[148:156], "        ")
	total := 0
	for _, c := range b {
		total += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", total))
}
