package testimage

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// A GzipShape is a way in which some program makes gzip files.
type GzipShape struct {
	Name  string
	Write func(b []byte) []byte
}

// GzipShapes are the shapes of layers that are about, the odd ones too.
func GzipShapes() []GzipShape {
	return []GzipShape{
		{"one member", Gzip},
		{"best compression", func(b []byte) []byte { return member(b, flate.BestCompression, gzip.Header{}) }},
		{"Huffman codes only", func(b []byte) []byte { return member(b, flate.HuffmanOnly, gzip.Header{}) }},
		{"stored blocks", gzipStored},
		{"all header fields", gzipWithHeader},
		{"many members", func(b []byte) []byte { return gzipMembers(b, 10_000) }},
		{"pigz", pigz},
		{"bgzip", bgzip},
		{"empty members", func(b []byte) []byte { return slices.Concat(Gzip(nil), Gzip(nil), Gzip(b), Gzip(nil)) }},
		{"trailing zeros", func(b []byte) []byte { return append(Gzip(b), make([]byte, 10_000)...) }},
	}
}

// Gzip is a gzip file as most programs write it: one member.
func Gzip(b []byte) []byte { return member(b, flate.DefaultCompression, gzip.Header{}) }

// gzipStored is a gzip file of stored blocks.
func gzipStored(b []byte) []byte { return member(b, flate.NoCompression, gzip.Header{}) }

// gzipWithHeader is a gzip file with all that a header can have: an extra field, a name, a comment, a time
// and a checksum of the header.
func gzipWithHeader(b []byte) []byte {
	plain := member(b, flate.DefaultCompression, gzip.Header{})[10:]
	h := []byte{0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 0x15, 0xcd, 0x5b, 0x07, 0, 3} // FHCRC, FEXTRA, FNAME, FCOMMENT; time; OS
	h = append(h, 6, 0, 'A', 'p', 2, 0, 'x', 'y')
	h = append(h, "layer.tar\x00a comment\x00"...)
	h = binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h)))
	return append(h, plain...)
}

// gzipMembers is a gzip file with a member for every n bytes.
func gzipMembers(b []byte, n int) []byte {
	var out []byte
	for chunk := range slices.Chunk(b, n) {
		out = append(out, Gzip(chunk)...)
	}
	return out
}

// pigz is a gzip file as pigz -i writes it: one member, in which every 128 KiB start afresh after an
// empty stored block.
func pigz(b []byte) []byte {
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}
	for chunk := range slices.Chunk(b, 128<<10) {
		out = append(out, deflate(chunk, (*flate.Writer).Flush)...)
	}
	out = append(out, deflate(nil, (*flate.Writer).Close)...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(b))
	return binary.LittleEndian.AppendUint32(out, uint32(len(b)))
}

// bgzip is a gzip file as bgzip writes it: members of under 64 KiB, each with its own compressed size in an
// extra field, and an empty one at the end.
func bgzip(b []byte) []byte {
	var out []byte
	for chunk := range slices.Chunk(b, 0xff00) {
		out = append(out, bgzipMember(chunk)...)
	}
	return append(out, bgzipMember(nil)...)
}

func bgzipMember(b []byte) []byte {
	m := member(b, flate.DefaultCompression, gzip.Header{Extra: []byte("BC\x02\x00\x00\x00")})
	binary.LittleEndian.PutUint16(m[16:], uint16(len(m)-1))
	return m
}

// EStargz is a layer as estargz makes it, blob and tar: a member for each entry, then the table of contents, then
// a footer that says where that is. The table is an empty one.
func EStargz(entries ...Entry) (blob, tar []byte) {
	for _, e := range entries {
		blob = append(blob, Gzip(e.blocks)...)
	}
	toc := len(blob)
	last := []Entry{File("stargz.index.json", `{"version":1,"entries":[]}`), End()}
	blob = append(blob, Gzip(OpenTar(last...))...)
	extra := "SG\x16\x00" + fmt.Sprintf("%016xSTARGZ", toc)
	blob = append(blob, member(nil, flate.NoCompression, gzip.Header{Extra: []byte(extra)})...)
	return blob, OpenTar(append(slices.Clone(entries), last...)...)
}

// member is one member of a gzip file. A bytes.Buffer takes all that is written, and the levels are
// right, so there are no errors.
func member(b []byte, level int, h gzip.Header) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, level)
	w.Header = h
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// deflate compresses b and ends as told.
func deflate(b []byte, end func(*flate.Writer) error) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.DefaultCompression)
	w.Write(b)
	end(w)
	return out.Bytes()
}
