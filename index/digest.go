package index

import (
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Sums are what a layer's blob has turned out to be.
type Sums struct {
	Blob    digest.Digest
	Size    int64         // of the blob in bytes
	DiffID  digest.Digest // "" if there is no tar in it
	TarSize int64         // in bytes
}

// Digest reads a layer's blob from r, once and to its end, and tells what it is. It makes no index and does not look at the
// entries of the tar, but otherwise it does as Build: a blob that does not decode to its end, with all its checksums
// right and nothing behind it, has no diff ID. Of want, only the algorithms of its digests count.
//
// Errors: one that wraps ErrMalformed or ErrUnsupported if there is no tar in the blob, with what the blob is; or what r
// failed with.
func Digest(r io.Reader, want Want) (Sums, error) {
	if err := want.check(); err != nil {
		return Sums{}, err
	}
	in := newIntake(r, Want{Blob: want.Blob, Size: -1})
	defer in.close()
	in.whole = true
	tar, err := digestTar(in, algorithm(want.DiffID))
	if err := in.finish(); err != nil {
		return Sums{}, err
	}
	sums := Sums{Blob: in.hash.digest(), Size: in.off}
	if err != nil {
		return sums, fmt.Errorf("%s: %w", layerName(sums.Blob), cause(in, err))
	}
	sums.DiffID, sums.TarSize = tar.DiffID, tar.TarSize
	return sums, nil
}

// digestTar decodes a blob, and tells of the tar in it.
func digestTar(in *intake, a digest.Algorithm) (Sums, error) {
	blob, format, err := in.sniff()
	if err != nil {
		return Sums{}, err
	}
	scan, err := codecs[format].scan(blob, nil)
	if err != nil {
		return Sums{}, err
	}
	sums, hash := Sums{}, a.Hash()
	tar := newStream(scan, nil, hash, nil)
	for err == nil {
		var b []byte
		b, err = tar.next()
		sums.TarSize += int64(len(b))
	}
	tar.close()
	if err != io.EOF {
		return Sums{}, err
	}
	sums.DiffID = digest.NewDigest(a, hash)
	return sums, nil
}
