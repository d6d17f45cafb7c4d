package index

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"imgfs/index/inflate"
)

// zstdCodec enters a zstd file at its frames. Small neighbours make one span. One that is larger than
// a span may be can't be entered: it is written anew, as frames of a span each.
type zstdCodec struct{}

func (zstdCodec) scan(blob io.Reader, spans *spanner) (io.Reader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	s := &zstdScanner{spans: spans, z: z, mem: make([]byte, maxSpan+1)}
	s.frame.in = bufio.NewReaderSize(blob, pageSize)
	return s, nil
}

func (zstdCodec) has(p place) bool { return p == atStart || p == inFrames }

// unzipSpan is shared by all layers: DecodeAll is safe for concurrent use, and starts no goroutines. It doesn't go over
// the capacity of what it decodes to, but for a block.
var unzipSpan = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
})

func (zstdCodec) decode(dst, src []byte, _ *inflate.Checkpoint, _ int64) error {
	z, err := unzipSpan()
	if err != nil {
		return err
	}
	b, err := z.DecodeAll(src, dst[:0:len(dst)])
	if err == nil && len(b) != len(dst) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if len(b) > 0 && &b[0] != &dst[0] {
		copy(dst, b)
	}
	return nil
}

// A zstdScanner decodes a zstd file, frame by frame: a decoder that is given more than one would read ahead.
type zstdScanner struct {
	spans *spanner
	frame frameReader
	z     *zstd.Decoder
	mem   []byte
	buf   []byte // decoded, part of mem; not yet read
	out   int64  // tar offset of the byte after buf
	// The following is about the span under way.
	begun bool
	start int64 // blob offset of its first frame
	end   int64 // and of the end of its last one
	size  int   // bytes of the tar
	// The following is about a frame that is written anew.
	large bool
	ahead []byte // decoded, part of mem; behind buf
}

func (s *zstdScanner) Read(p []byte) (int, error) {
	for len(s.buf) == 0 {
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

// more decodes a frame, or some of a large one. It may give nothing.
func (s *zstdScanner) more() error {
	if s.large {
		return s.recode()
	}
	skippable, err := s.frame.next()
	switch {
	case err == io.EOF:
		s.close()
		return err
	case err != nil:
		return err
	}
	s.trim(spanSize) // of the frames before, also where the last one was large
	if skippable > 0 {
		return s.skip(skippable)
	}
	if err := s.check(); err != nil {
		return err
	}
	if err := s.z.Reset(readerFunc(s.compressed)); err != nil {
		return err
	}
	return s.decode()
}

// skip passes over a skippable frame.
func (s *zstdScanner) skip(n int64) error {
	for n > 0 {
		m := min(n, pageSize)
		if err := s.frame.skip(int(m)); err != nil {
			return err
		}
		n -= m
		s.trim(spanSize)
	}
	return nil
}

// check tells whether a frame can be decoded.
func (s *zstdScanner) check() error {
	h, at := &s.frame.header, s.frame.start
	if h.dict != 0 {
		return fmt.Errorf("%w: zstd frame at byte %d needs dictionary %d", ErrUnsupported, at, h.dict)
	}
	if h.window > maxWindow {
		return fmt.Errorf("%w: zstd frame at byte %d has a window of %d bytes, over %d", ErrUnsupported, at, h.window, maxWindow)
	}
	return nil
}

// trim ends the span if more bytes of the blob went by than it may be in, and lets go of those that no span needs.
func (s *zstdScanner) trim(most int64) {
	if s.begun && s.frame.off-s.start > most {
		s.close()
	}
	if !s.begun {
		s.spans.drop(s.frame.off)
	}
}

// close ends the span.
func (s *zstdScanner) close() {
	if s.begun {
		s.spans.end(8 * s.end)
		s.begun = false
	}
}

// decode decodes a frame as far as a span may be.
func (s *zstdScanner) decode() error {
	n, err := s.fill(s.mem)
	if err != nil {
		return err
	}
	size := s.frame.off - s.frame.start
	if n > maxSpan || size > maxSpan {
		s.close()
		s.large, s.ahead = true, s.mem[:n]
		return nil
	}
	if n > 0 {
		return s.join(n)
	}
	return nil
}

// join puts a decoded frame into the span under way, or into a new one.
func (s *zstdScanner) join(n int) error {
	if s.begun && (s.size+n > spanSize || s.frame.off-s.start > spanSize) {
		s.close()
	}
	if !s.begun {
		s.begun, s.start, s.size = true, s.frame.start, 0
		if err := s.spans.begin(&inflate.Checkpoint{In: 8 * s.start, Out: s.out, Member: true}); err != nil {
			return err
		}
	}
	s.end = s.frame.off
	s.size += n
	s.give(s.mem[:n])
	return nil
}

// give makes bytes ones that can be read.
func (s *zstdScanner) give(b []byte) {
	s.buf = b
	s.out += int64(len(b))
}

// recode writes the next part of a large frame anew.
func (s *zstdScanner) recode() error {
	if len(s.ahead) < spanSize {
		n := copy(s.mem, s.ahead)
		more, err := s.fill(s.mem[n:spanSize])
		if err != nil {
			return err
		}
		s.ahead = s.mem[:n+more]
	}
	n := min(len(s.ahead), spanSize)
	s.large = n == spanSize
	if n == 0 {
		return nil
	}
	if err := s.spans.recode(s.out, s.ahead[:n]); err != nil {
		return err
	}
	s.give(s.ahead[:n])
	s.ahead = s.ahead[n:]
	return nil
}

// fill decodes to b until it is full, or the frame ends.
func (s *zstdScanner) fill(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := s.z.Read(b[n:])
		n += m
		switch {
		case err == nil:
		case s.frame.err == io.EOF && err == io.EOF:
			return n, nil
		case s.frame.err != nil && s.frame.err != io.EOF:
			return n, s.frame.err
		default:
			return n, fmt.Errorf("%w: zstd frame at byte %d: %w", ErrMalformed, s.frame.start, err)
		}
	}
	return n, nil
}

// compressed gives the bytes of the frame to the decoder.
func (s *zstdScanner) compressed(p []byte) (int, error) {
	n, err := s.frame.Read(p)
	if s.frame.off-s.frame.start > maxSpan { // it won't be entered
		s.close()
		s.trim(0)
	}
	return n, err
}
