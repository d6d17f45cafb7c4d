package index

import (
	"io"
	"math"
)

// blockSize is the unit of a tar.
const blockSize = 512

// A source gives the tar's bytes to the walk, block by block.
// It is always at a multiple of blockSize, except at the end of the tar.
type source struct {
	next func() ([]byte, error) // gives the tar, in whole blocks but for the end, where there is an error too
	buf  []byte                 // what next gave, not yet taken
	off  int64                  // tar offset of buf[0]
	err  error                  // of next; io.EOF at the end of the tar
}

// fill makes sure that there is a byte in buf: a whole block of them, unless the tar ends before.
func (s *source) fill() error {
	if len(s.buf) > 0 {
		return nil
	}
	if s.err != nil {
		return s.err
	}
	if s.buf, s.err = s.next(); len(s.buf) == 0 {
		return s.err
	}
	return nil
}

// take gives up to n bytes, at least one. They are valid until the next call.
func (s *source) take(n int64) ([]byte, error) {
	if err := s.fill(); err != nil {
		return nil, err
	}
	n = min(n, int64(len(s.buf)))
	b := s.buf[:n]
	s.buf = s.buf[n:]
	s.off += n
	return b, nil
}

// block gives the next block, valid until the next call. The error is io.EOF if the tar ends before it,
// io.ErrUnexpectedEOF if it ends within it.
func (s *source) block() (*block, error) {
	b, err := s.take(blockSize)
	if err != nil {
		return nil, err
	}
	if len(b) < blockSize {
		return nil, io.ErrUnexpectedEOF
	}
	return (*block)(b), nil
}

// skip drops n bytes, and fails with io.ErrUnexpectedEOF if there are less.
func (s *source) skip(n int64) error {
	for n > 0 {
		b, err := s.take(n)
		if err != nil {
			return unexpected(err)
		}
		n -= int64(len(b))
	}
	return nil
}

// append appends n bytes to dst, and fails with io.ErrUnexpectedEOF if there are less.
func (s *source) append(dst []byte, n int64) ([]byte, error) {
	for n > 0 {
		b, err := s.take(n)
		if err != nil {
			return dst, unexpected(err)
		}
		dst = append(dst, b...)
		n -= int64(len(b))
	}
	return dst, nil
}

// drain reads the tar to its end.
func (s *source) drain() error {
	for {
		if _, err := s.take(math.MaxInt64); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// unexpected makes an end of the tar one that should not be there.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// padding is how many bytes follow n bytes of data up to the next block.
func padding(n int64) int64 { return -n & (blockSize - 1) }
