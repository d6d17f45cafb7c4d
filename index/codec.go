package index

import (
	"bytes"
	"fmt"
	"io"

	"imgfs/index/inflate"
)

// spanSize is the number of bytes, of the tar or of the blob, after which the next chance to start a span is taken.
//
// Somewhat less than a MiB: a program started from a lazy mount touches single pages all over a layer, and what it
// fetches is whole spans. Half of it would double the windows, and so the index.
const spanSize = 768 << 10

// maxSpan bounds a span, decoded and compressed, in bytes. The codecs stay well below it; an index that
// goes over it is damaged.
const maxSpan = 4 << 20

// A Format is how a layer's blob holds its tar.
type Format string

// The formats that can be read.
const (
	Gzip Format = "gzip" // RFC 1952, any number of members
	Tar  Format = "tar"  // not compressed
)

// A codec knows where a format can be entered, and how to decode from there.
type codec interface {
	// scan decodes a blob from its first byte on. It calls mark with each checkpoint in turn, with the last one before
	// Read returns io.EOF. Block, Window and Used are valid during the call.
	scan(r io.Reader, mark func(inflate.Checkpoint) error) scanner
	// decode decodes one span, into the whole of dst and out of the whole of src. It is safe for concurrent use.
	decode(dst, src []byte, from *inflate.Checkpoint) error
}

// A scanner reads the tar.
type scanner interface {
	io.Reader
	// End is where the last span ends in the blob. It is known once Read has returned io.EOF.
	End() int64
}

var codecs = map[Format]codec{Gzip: gzipCodec{}, Tar: tarCodec{}}

// magicSize is how many bytes sniff looks at.
const magicSize = 4

// sniff finds the format by a blob's first bytes, as containerd does: media types are often wrong. An empty blob is
// an empty tar.
func sniff(head []byte) (Format, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), isSkippable(head):
		return "", fmt.Errorf("%w: zstd", ErrUnsupported)
	}
	return Tar, nil
}

// isSkippable tells whether a zstd skippable frame starts here (RFC 8878, section 3.1.2).
func isSkippable(head []byte) bool {
	return len(head) == magicSize && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18})
}

// gzipCodec enters a gzip file at its members, at blocks and within blocks.
type gzipCodec struct{}

func (gzipCodec) scan(r io.Reader, mark func(inflate.Checkpoint) error) scanner {
	return inflate.NewReader(r, &inflate.Options{Span: spanSize, Checkpoint: mark})
}

func (gzipCodec) decode(dst, src []byte, from *inflate.Checkpoint) error {
	return inflate.Decode(dst, src, from)
}

// tarCodec enters a plain tar anywhere: its spans are ranges.
type tarCodec struct{}

func (tarCodec) scan(r io.Reader, mark func(inflate.Checkpoint) error) scanner {
	return &tarScanner{r: r, mark: mark}
}

func (tarCodec) decode(dst, src []byte, _ *inflate.Checkpoint) error {
	if copy(dst, src) != len(dst) || len(src) != len(dst) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// A tarScanner passes a tar on, and marks every spanSize bytes of it.
type tarScanner struct {
	r    io.Reader
	mark func(inflate.Checkpoint) error
	off  int64
	next int64 // where the last mark is, or comes with the next byte
}

func (s *tarScanner) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(int64(len(p)), s.next+spanSize-s.off)])
	if n > 0 && s.off == s.next {
		if err := s.mark(inflate.Checkpoint{In: 8 * s.off, Out: s.off, Member: true}); err != nil {
			return 0, err
		}
	}
	s.off += int64(n)
	if s.off == s.next+spanSize {
		s.next = s.off
	}
	return n, err
}

func (s *tarScanner) End() int64 { return s.off }
