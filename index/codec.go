package index

import (
	"bytes"
	"io"

	"imgfs/index/inflate"
)

// spanSize is the number of bytes, of the tar or of the blob, after which the next chance to start a span is taken.
//
// A program started from a lazy mount touches single pages all over a layer, and what it fetches is whole spans: a
// python of Debian's 15.8% of its image, and 18.3% with spans of 768 KiB. The index grows as they shrink: with
// these it is 0.94% of that image, and 0.67% with those.
const spanSize = 512 << 10

// maxSpan bounds a span, decoded and compressed, in bytes. The codecs stay well below it; an index that
// goes over it is damaged.
const maxSpan = 4 << 20

// A Format is how a layer's blob holds its tar.
type Format string

// The formats that can be read.
const (
	Gzip Format = "gzip" // RFC 1952, any number of members
	Zstd Format = "zstd" // RFC 8878, any number of frames, none with a dictionary
	Tar  Format = "tar"  // not compressed
)

// A codec knows where a format can be entered, and how to decode from there.
type codec interface {
	// scan returns a reader that decodes a blob, which is read from its first byte on. It tells spans where each begins
	// and ends, in turn, and of the last end before Read returns io.EOF. spans may be nil.
	scan(blob io.Reader, spans *spanner) (io.Reader, error)
	// decode decodes one span, into the whole of dst and out of the whole of src, from a checkpoint up to the bit end of
	// the file. It is safe for concurrent use.
	decode(dst, src []byte, from *inflate.Checkpoint, end int64) error
	// has tells whether there are spans of the format in such a place.
	has(place) bool
}

var codecs = map[Format]codec{Gzip: gzipCodec{}, Zstd: zstdCodec{}, Tar: tarCodec{}}

// magicSize is how many bytes sniff looks at.
const magicSize = 4

// sniff finds the format by a blob's first bytes, as containerd does: media types are often wrong. An empty blob is
// an empty tar.
func sniff(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(head, []byte(frameMagic)), isSkippable(head):
		return Zstd
	}
	return Tar
}

// gzipCodec enters a gzip file at its members, at blocks and within blocks.
type gzipCodec struct{}

func (gzipCodec) scan(blob io.Reader, spans *spanner) (io.Reader, error) {
	mark := func(c inflate.Checkpoint) error {
		spans.end(c.In)
		return spans.begin(&c)
	}
	var o *inflate.Options // a decoder that tells of no checkpoints is faster
	if spans != nil {
		o = &inflate.Options{Span: spanSize, Checkpoint: mark}
	}
	z := inflate.NewReader(blob, o)
	return readerFunc(func(p []byte) (int, error) {
		n, err := z.Read(p)
		if err == io.EOF {
			spans.end(8 * z.End())
		}
		return n, err
	}), nil
}

func (gzipCodec) decode(dst, src []byte, from *inflate.Checkpoint, end int64) error {
	return inflate.Decode(dst, src, from, end)
}

func (gzipCodec) has(p place) bool { return p == atStart || p == inMember }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// tarCodec enters a plain tar anywhere: its spans are ranges.
type tarCodec struct{}

func (tarCodec) scan(blob io.Reader, spans *spanner) (io.Reader, error) {
	off, next := int64(0), int64(0) // the latter is where the next span begins
	return readerFunc(func(p []byte) (int, error) {
		room := next - off
		if room == 0 {
			room = spanSize
		}
		n, err := blob.Read(p[:min(int64(len(p)), room)])
		if n > 0 && off == next {
			spans.end(8 * off)
			if err := spans.begin(&inflate.Checkpoint{In: 8 * off, Out: off, Member: true}); err != nil {
				return 0, err
			}
			next += spanSize
		}
		if off += int64(n); err == io.EOF {
			spans.end(8 * off)
		}
		return n, err
	}), nil
}

func (tarCodec) decode(dst, src []byte, _ *inflate.Checkpoint, _ int64) error {
	if copy(dst, src) != len(dst) || len(src) != len(dst) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (tarCodec) has(p place) bool { return p == atStart }
