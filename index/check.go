package index

import (
	"crypto/sha256"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"
)

// A BlobSpan is where in the blob a span is, in bytes, and what their digest is. Neighbours may share a byte.
type BlobSpan struct {
	Off, Size int64
	Digest    digest.Digest
}

// Spans gives those spans that stand in the blob, in order.
func (x *Index) Spans() iter.Seq[BlobSpan] {
	return func(yield func(BlobSpan) bool) {
		for i := range x.t.spans {
			s := &x.t.spans[i]
			if s.place == inFrames {
				continue
			}
			in := x.t.in(i)
			if !yield(BlobSpan{in.off, in.n, digest.NewDigestFromBytes(digest.SHA256, s.sum[:])}) {
				return
			}
		}
	}
}

// Check reads all that there is of an index, and of its frames, which may be nil if it needs none. Its error wraps
// ErrDamaged, or what a file failed with.
func (x *Index) Check(frames io.ReaderAt) error {
	for _, err := range x.Entries() {
		if err != nil {
			return err
		}
	}
	var buf []byte
	for i := range x.t.spans {
		var err error
		if x.t.spans[i].place == inFrames {
			buf, err = x.readFrame(frames, i, buf)
		} else {
			_, buf, err = x.checkpoint(i, buf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readFrame reads the frame that a span is, and checks it. The result may be in buf's memory.
func (x *Index) readFrame(frames io.ReaderAt, span int, buf []byte) ([]byte, error) {
	if frames == nil {
		return buf, fmt.Errorf("%w: there are no frames", ErrDamaged)
	}
	in := x.t.in(span)
	if int64(cap(buf)) < in.n {
		buf = make([]byte, in.n)
	}
	buf = buf[:in.n]
	if err := readFull(frames, buf, in.off); err != nil {
		return buf, err
	}
	if sha256.Sum256(buf) != x.t.spans[span].sum {
		return buf, fmt.Errorf("%w: digest of the frame from byte %d on", ErrDamaged, in.off)
	}
	return buf, nil
}
