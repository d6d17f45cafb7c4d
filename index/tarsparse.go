package index

import (
	"errors"
	"io"
	"slices"
	"strings"
)

var errSparse = errors.New("malformed sparse map")

// A fragment is a piece of a sparse file that is in the tar; between fragments are zeros.
type fragment struct{ offset, length int64 }

// layOut turns a sparse map into extents: the fragments stand in the tar one after the other, from byte off on,
// and are all of the physical bytes there.
func layOut(frags []fragment, size, off, physical int64) ([]Extent, error) {
	if size < 0 {
		return nil, errSparse
	}
	var extents []Extent
	end := int64(0) // of the fragment before
	for _, f := range frags {
		if f.offset < end || f.length < 0 || f.length > physical || f.offset > size-f.length {
			return nil, errSparse
		}
		if f.length > 0 {
			extents = append(extents, Extent{f.offset, off, f.length})
		}
		end = f.offset + f.length
		off += f.length
		physical -= f.length
	}
	if physical != 0 {
		return nil, errors.New("sparse map does not match the content's length")
	}
	return extents, nil
}

// oldSparse reads the sparse map of the old GNU form: four fragments in the header block, more in blocks that
// follow it. It returns the real size as well.
func oldSparse(b *block, src *source) (size int64, frags []fragment, err error) {
	if size, err = parseNumber(b[483:495]); err != nil {
		return 0, nil, err
	}
	table, more := b[386:482], b[482] != 0
	for n := 0; ; n += blockSize {
		if frags, err = appendTable(frags, table); err != nil {
			return 0, nil, err
		}
		if !more {
			return size, frags, nil
		}
		if n >= maxSpecial {
			return 0, nil, errTooLong
		}
		if b, err = src.block(); err != nil {
			return 0, nil, unexpected(err)
		}
		table, more = b[:504], b[504] != 0
	}
}

// appendTable reads pairs of a fragment's offset and length, up to the first that is empty.
func appendTable(frags []fragment, table []byte) ([]fragment, error) {
	for ; len(table) > 0 && table[0] != 0; table = table[24:] {
		var f fragment
		if err := parseFields([]field{{table[:12], &f.offset}, {table[12:24], &f.length}}); err != nil {
			return nil, err
		}
		frags = append(frags, f)
	}
	return frags, nil
}

// sparseForm is the form of a sparse file that PAX records speak of.
type sparseForm int

const (
	notSparse    sparseForm = iota
	sparseInPAX             // versions 0.0 and 0.1: the map is in the records
	sparseInData            // version 1.0: the map comes before the content
)

func (m records) sparseForm() sparseForm {
	switch version := m[paxSparseMajor] + "." + m[paxSparseMinor]; {
	case version == "0.0" || version == "0.1":
		return sparseInPAX
	case version == "1.0":
		return sparseInData
	case version == "." && m[paxSparseMap] != "": // 0.0 and 0.1 may go without saying
		return sparseInPAX
	}
	return notSparse
}

// sparseHeader replaces the name and the size by those of the sparse file.
func (m records) sparseHeader(h *header) (err error) {
	if name := m[paxSparseName]; name != "" {
		h.name = name
	}
	size := m[paxSparseSize]
	if size == "" {
		size = m[paxSparseRealSize]
	}
	if size != "" {
		h.size, err = parseDecimal(size)
	}
	return err
}

// sparseMap reads the map of versions 0.0 and 0.1.
func (m records) sparseMap() ([]fragment, error) {
	count, err := parseDecimal(m[paxSparseNumBlocks])
	if err != nil || count < 0 {
		return nil, errSparse
	}
	var numbers []string
	if m[paxSparseMap] != "" {
		numbers = strings.Split(m[paxSparseMap], ",")
	}
	if len(numbers)%2 != 0 || int64(len(numbers)/2) != count {
		return nil, errSparse
	}
	var frags []fragment
	for pair := range slices.Chunk(numbers, 2) {
		f, err := parseFragment(pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		frags = append(frags, f)
	}
	return frags, nil
}

func parseFragment(offset, length string) (f fragment, err error) {
	if f.offset, err = parseDecimal(offset); err != nil {
		return f, errSparse
	}
	if f.length, err = parseDecimal(length); err != nil {
		return f, errSparse
	}
	return f, nil
}

// A mapReader reads the map of version 1.0: lines with a number each, in whole blocks before the content.
type mapReader struct {
	src  *source
	left int64 // bytes of map and content that haven't been read
	read int64 // bytes that have
	buf  []byte
}

// fragments reads the whole map. What is left after it is the content.
func (r *mapReader) fragments() ([]fragment, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	count, err := parseDecimal(line)
	if err != nil || count < 0 {
		return nil, errSparse
	}
	var frags []fragment // grows with what there is, not with what count says
	for range count {
		offset, err := r.line()
		if err != nil {
			return nil, err
		}
		length, err := r.line()
		if err != nil {
			return nil, err
		}
		f, err := parseFragment(offset, length)
		if err != nil {
			return nil, err
		}
		frags = append(frags, f)
	}
	return frags, nil
}

func (r *mapReader) line() (string, error) {
	var line []byte
	for {
		for i, c := range r.buf {
			if c == '\n' {
				line = append(line, r.buf[:i]...)
				r.buf = r.buf[i+1:]
				return string(line), nil
			}
		}
		line = append(line, r.buf...)
		if err := r.fill(); err != nil {
			return "", err
		}
	}
}

func (r *mapReader) fill() error {
	if r.left < blockSize {
		return io.ErrUnexpectedEOF
	}
	if r.read >= maxSpecial {
		return errTooLong
	}
	b, err := r.src.block()
	if err != nil {
		return unexpected(err)
	}
	r.buf = b[:]
	r.left -= blockSize
	r.read += blockSize
	return nil
}
