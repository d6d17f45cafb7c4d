package index

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// A block is one unit of a tar: a header, a part of a sparse map, or content.
type block [blockSize]byte

// Type flags of headers that say something about the next one.
const (
	typeLongName  = 'L' // GNU
	typeLongLink  = 'K' // GNU
	typeGNUSparse = 'S'
	typePAX       = 'x'
	typePAXGlobal = 'g'
)

var (
	errChecksum = errors.New("wrong header checksum")
	errNumber   = errors.New("malformed number")
)

// A header is a header block's fields, as they are in it.
type header struct {
	name, linkname string
	typ            byte
	gnu            bool // in the format of GNU tar
	mode           int64
	uid, gid       int64
	size           int64
	mtime          int64
	mtimeNsec      uint32 // from PAX records alone
	major, minor   int64
}

func (h *header) isLink() bool { return h.typ == TypeLink || h.typ == TypeSymlink }

// contentless tells whether entries of a type have no content, whatever their size says.
func contentless(typ byte) bool { return typ >= TypeLink && typ <= TypeFIFO }

// parse reads a header block. Sources: POSIX.1-2017, pax, "ustar Interchange Format"; the manual of GNU tar, "Basic
// Tar Format"; star's documentation of its header.
func (b *block) parse(h *header) error {
	if !b.checksum() {
		return errChecksum
	}
	*h = header{
		name:     cString(b[0:100]),
		typ:      b[156],
		linkname: cString(b[157:257]),
	}
	fields := []field{
		{b[100:108], &h.mode},
		{b[108:116], &h.uid},
		{b[116:124], &h.gid},
		{b[124:136], &h.size},
		{b[136:148], &h.mtime},
	}
	ustar := string(b[257:263]) == "ustar\x00"
	h.gnu = string(b[257:265]) == "ustar  \x00"
	if ustar || h.gnu {
		fields = append(fields, field{b[329:337], &h.major}, field{b[337:345], &h.minor})
	}
	var times [2]int64 // star's access and change times: checked, not kept
	star := ustar && string(b[508:512]) == "tar\x00"
	if star {
		fields = append(fields, field{b[476:488], &times[0]}, field{b[488:500], &times[1]})
	}
	if err := parseFields(fields); err != nil {
		return err
	}
	if prefix := b.prefix(ustar, star, h.gnu); prefix != "" {
		h.name = prefix + "/" + h.name
	}
	return nil
}

// prefix is what comes before the name. GNU headers have none, but for those that Go wrote before 1.8: they are
// known by times that are none, where the prefix is.
func (b *block) prefix(ustar, star, gnu bool) string {
	switch {
	case star:
		return cString(b[345:476])
	case ustar:
		return cString(b[345:500])
	case gnu && !(gnuTime(b[345:357]) && gnuTime(b[357:369])):
		if s := cString(b[345:500]); isASCII(s) {
			return s
		}
	}
	return ""
}

// gnuTime tells whether an optional time of a GNU header is one.
func gnuTime(b []byte) bool {
	_, err := parseNumber(b)
	return b[0] == 0 || err == nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// checksum tells whether the block's checksum is right. The sum is of unsigned bytes; some old programs
// sum signed ones.
func (b *block) checksum() bool {
	sum, err := parseOctal(b[148:156])
	if err != nil {
		return false
	}
	unsigned, signed := int64(8*' '), int64(8*' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			unsigned += int64(c)
			signed += int64(int8(c))
		}
	}
	return sum == unsigned || sum == signed
}

// A field is a number in a header block, and where its value goes.
type field struct {
	b []byte
	v *int64
}

func parseFields(fields []field) error {
	for _, f := range fields {
		var err error
		if *f.v, err = parseNumber(f.b); err != nil {
			return err
		}
	}
	return nil
}

// parseNumber reads a number of a header: octal digits, or, where the first bit is set, a two's complement
// in the bits after it ("base-256").
func parseNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		return parseOctal(b)
	}
	var inv byte // a negative number is read as its complement
	if b[0]&0x40 != 0 {
		inv = 0xff
	}
	x := int64((b[0] ^ inv) & 0x3f)
	for _, c := range b[1:] {
		if x >= 1<<55 {
			return 0, errNumber
		}
		x = x<<8 | int64(c^inv)
	}
	if inv != 0 {
		x = ^x
	}
	return x, nil
}

// parseOctal reads octal digits between spaces and NULs. No digits are a zero.
func parseOctal(b []byte) (int64, error) {
	s := cString(bytes.Trim(b, " \x00"))
	if s == "" {
		return 0, nil
	}
	x, err := strconv.ParseUint(s, 8, 63)
	if err != nil {
		return 0, errNumber
	}
	return int64(x), nil
}

// cString is b up to its first NUL, if it has one.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
