package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// An Index says what is in a layer and where. It doesn't change, and is safe for concurrent use as its file is. It
// keeps about 64 bytes of memory for each span, that is for each 512 KiB of tar or so, and some 30 KiB once spans have
// been read; the rest is read from the file when it's needed.
type Index struct {
	r      io.ReaderAt
	t      *table
	sum    digest.Digest // of the table
	states atomic.Pointer[loadedStates]
}

// Open reads an index of the given size. Errors wrap ErrStale or ErrDamaged, or what r failed with.
// The file must stay open and as it is; changes of it are noticed when they are read.
func Open(r io.ReaderAt, size int64) (*Index, error) {
	if size < headSize+trailerSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, size)
	}
	b := make([]byte, headSize)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	if err := checkHead(b); err != nil {
		return nil, err
	}
	b = make([]byte, trailerSize)
	if err := readFull(r, b, size-trailerSize); err != nil {
		return nil, err
	}
	n, room := int64(binary.LittleEndian.Uint64(b)), size-headSize-trailerSize
	if n < 0 || n > room {
		return nil, fmt.Errorf("%w: table of %d bytes", ErrDamaged, n)
	}
	body := size - trailerSize - n
	b, want := make([]byte, n), [sha256.Size]byte(b[8:])
	if err := readFull(r, b, body); err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != want {
		return nil, fmt.Errorf("%w: digest of the table", ErrDamaged)
	}
	t, err := parseTable(b, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &Index{r: r, t: t, sum: digest.NewDigestFromBytes(digest.SHA256, want[:])}, nil
}

// readFull reads the whole of b. An index that ends before is damaged.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF || err == nil:
		return fmt.Errorf("%w: %w", ErrDamaged, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading the index: %w", err)
}

// Blob is the digest of the layer's blob.
func (x *Index) Blob() digest.Digest { return x.t.blob }

// Size is the size of the blob in bytes.
func (x *Index) Size() int64 { return x.t.size }

// DiffID is the digest of the layer's tar.
func (x *Index) DiffID() digest.Digest { return x.t.diffID }

// TarSize is the size of the tar in bytes.
func (x *Index) TarSize() int64 { return x.t.tarSize }

// FramesSize is the size in bytes of the file that Output.Frames gave. It is 0 if the layer needs none.
func (x *Index) FramesSize() int64 { return x.t.frames }

// Format is how the blob holds the tar.
func (x *Index) Format() Format { return x.t.format }

// NumEntries is the number of the tar's entries.
func (x *Index) NumEntries() int { return x.t.entries }

// NumSpans is the number of spans.
func (x *Index) NumSpans() int { return len(x.t.spans) }

// unzip is shared by all indexes: DecodeAll is safe for concurrent use, and starts no goroutines.
var unzip = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPiece))
})

// load reads, checks and decompresses a part of the body. The result may be in buf's memory.
func (x *Index) load(s *stored, buf []byte) ([]byte, error) {
	zipped := make([]byte, s.len)
	if err := readFull(x.r, zipped, s.off); err != nil {
		return nil, err
	}
	if sha256.Sum256(zipped) != s.sum {
		return nil, fmt.Errorf("%w: digest of the bytes from %d on", ErrDamaged, s.off)
	}
	z, err := unzip()
	if err != nil {
		return nil, err
	}
	if cap(buf) < int(s.raw) {
		buf = make([]byte, 0, s.raw)
	}
	raw, err := z.DecodeAll(zipped, buf[:0])
	if err == nil && len(raw) != int(s.raw) {
		err = errors.New("wrong length")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return raw, nil
}
