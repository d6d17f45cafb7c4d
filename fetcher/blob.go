package fetcher

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
)

// A Blob is the bytes of a layer as they are stored, i.e. usually compressed.
// It is safe for concurrent use.
type Blob struct {
	impl interface {
		io.ReaderAt
		open(ctx context.Context, off, n int64) (io.ReadCloser, error)
		length() int64
		local() bool
		close() error
	}
}

// ReadAt has io.ReaderAt's contract. From a registry, a call is one ranged
// request, or more where some fail. It depends on no context: it ends when the
// blob is closed, with an error that wraps fs.ErrClosed, and when the server
// has been silent for 30 seconds in all, whatever the length of p. Bytes that
// arrive make up for silence, a second for each 16 KiB. A server that has no ranges makes it an error that
// wraps errors.ErrUnsupported, now and from then on: then Open is the way.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	switch size := b.Size(); {
	case off < 0:
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	case len(p) == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	case int64(len(p)) > size-off:
		n, err := b.impl.ReadAt(p[:size-off], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	n, err := b.impl.ReadAt(p, off)
	if n == len(p) {
		err = nil
	}
	return n, err
}

// Open returns n bytes of the blob from off on as a stream, which goes on where
// the connection broke. It ends with io.EOF after exactly n bytes, or with
// another error; when ctx is done, with that of ctx. The caller closes it. A
// server that has no ranges makes it an error that wraps errors.ErrUnsupported,
// unless all of the blob is asked for.
func (b *Blob) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n < 0 || off > b.Size() || n > b.Size()-off {
		return nil, fmt.Errorf("%d bytes at %d of %d: %w", n, off, b.Size(), fs.ErrInvalid)
	}
	if n == 0 {
		return http.NoBody, nil
	}
	return b.impl.open(ctx, off, n)
}

// Size returns the number of bytes that the manifest gives.
func (b *Blob) Size() int64 { return b.impl.length() }

// Ranges tells whether the blob can be had in ranges. It asks a registry for a
// byte, once. Blobs of this machine's, and those of a byte, can.
func (b *Blob) Ranges(ctx context.Context) (bool, error) {
	if r, ok := b.impl.(*remoteBlob); ok && r.layer.Size > 1 {
		return r.ranges(ctx)
	}
	return true, nil
}

// Doubt says that bytes of the blob were found to be wrong. If they may have
// come from a mirror, that is not asked for this blob again, and Doubt tells
// that there is somebody else to ask.
func (b *Blob) Doubt() bool {
	r, ok := b.impl.(*remoteBlob)
	return ok && r.doubt()
}

// Local tells whether the blob is in a file of this machine's, which needs no cache.
func (b *Blob) Local() bool { return b.impl.local() }

// Close releases the blob, and ends all reads and streams that are under way:
// they fail with an error that wraps fs.ErrClosed.
func (b *Blob) Close() error { return b.impl.close() }

// A fileBlob is a blob that is a file, or a piece of one.
type fileBlob struct{ openFile }

func (b *fileBlob) length() int64 { return b.size }
func (b *fileBlob) local() bool   { return true }
func (b *fileBlob) close() error  { return b.Close() }

func (b *fileBlob) open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	section, left := io.NewSectionReader(b, off, n), n
	read := func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		n, err := section.Read(p)
		left -= int64(n)
		if err == io.EOF && left > 0 {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	return io.NopCloser(readerFunc(read)), nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
