package testimage

import (
	"fmt"
	"strings"
)

// A Segment is a piece of data in a sparse file. A file that ends with a hole has an empty one at its end, in GNU tar too.
type Segment struct {
	Offset int64
	Data   string
}

// sparseBytes are the segments' data, one after the other.
func sparseBytes(segments []Segment) []byte {
	var b []byte
	for _, s := range segments {
		b = append(b, s.Data...)
	}
	return b
}

// SparseGNU is a sparse file in the old format of GNU tar, type S: a map of four segments in the
// header, and of 21 in each block after it.
func SparseGNU(name string, size int64, segments []Segment, opts ...Option) Entry {
	rest := segments[min(4, len(segments)):]
	var extra []byte
	for len(rest) > 0 {
		n := min(21, len(rest))
		b := make([]byte, blockSize)
		sparseMap(b, rest[:n])
		if rest = rest[n:]; len(rest) > 0 {
			b[504] = 1
		}
		extra = append(extra, b...)
	}
	first := make([]byte, 97+12) // four segments, a flag, and the real size
	sparseMap(first, segments[:min(4, len(segments))])
	if len(extra) > 0 {
		first[96] = 1
	}
	copy(first[97:], fmt.Sprintf("%011o\x00", size))
	data := sparseBytes(segments)
	opts = append([]Option{GNU(), Field(386, string(first)), Size(int64(len(data)))}, opts...)
	return newEntry(header{name: name, typ: 'S', content: append(extra, data...)}, opts)
}

func sparseMap(b []byte, segments []Segment) {
	for i, s := range segments {
		copy(b[24*i:], fmt.Sprintf("%011o\x00%011o\x00", s.Offset, len(s.Data)))
	}
}

// SparsePAX00 is a sparse file in version 0.0 of GNU tar's PAX format: two records a segment.
func SparsePAX00(name string, size int64, segments []Segment, opts ...Option) Entry {
	var records strings.Builder
	for _, s := range segments {
		records.WriteString(paxRecord("GNU.sparse.offset", fmt.Sprint(s.Offset)))
		records.WriteString(paxRecord("GNU.sparse.numbytes", fmt.Sprint(len(s.Data))))
	}
	opts = append(opts, PAX("GNU.sparse.size", fmt.Sprint(size)), PAX("GNU.sparse.numblocks", fmt.Sprint(len(segments))))
	h := header{name: name, typ: '0', content: sparseBytes(segments), size: -1, paxText: []byte(records.String())}
	return newEntry(h, opts)
}

// SparsePAX01 is a sparse file in version 0.1 of GNU tar's PAX format: the map in one record.
func SparsePAX01(name string, size int64, segments []Segment, opts ...Option) Entry {
	var numbers []string
	for _, s := range segments {
		numbers = append(numbers, fmt.Sprint(s.Offset), fmt.Sprint(len(s.Data)))
	}
	opts = append(opts,
		PAX("GNU.sparse.name", name),
		PAX("GNU.sparse.size", fmt.Sprint(size)),
		PAX("GNU.sparse.numblocks", fmt.Sprint(len(segments))))
	h := header{name: "GNUSparseFile.0/it", typ: '0', content: sparseBytes(segments), size: -1}
	h.paxText = []byte(paxRecord("GNU.sparse.map", strings.Join(numbers, ","))) // GNU tar wants it after the number of blocks
	return newEntry(h, opts)
}

// SparsePAX10 is a sparse file in version 1.0 of GNU tar's PAX format: the map stands before the data.
func SparsePAX10(name string, size int64, segments []Segment, opts ...Option) Entry {
	var numbers strings.Builder
	fmt.Fprintln(&numbers, len(segments))
	for _, s := range segments {
		fmt.Fprintf(&numbers, "%d\n%d\n", s.Offset, len(s.Data))
	}
	opts = append(opts,
		PAX("GNU.sparse.major", "1"),
		PAX("GNU.sparse.minor", "0"),
		PAX("GNU.sparse.name", name),
		PAX("GNU.sparse.realsize", fmt.Sprint(size)))
	content := append(padded([]byte(numbers.String())), sparseBytes(segments)...)
	return newEntry(header{name: "GNUSparseFile.0/it", typ: '0', content: content, size: -1}, opts)
}
