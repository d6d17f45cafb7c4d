package index

import (
	"bytes"
	"crypto/sha256"
	_ "crypto/sha512" // digests may be of SHA-512
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// maxPending bounds the compressed bytes that are kept until it is known which span they belong to: a span, and what
// the decoder reads ahead.
const maxPending = 2 * maxSpan

// An intake reads a blob, hashes it, and keeps the bytes since the last checkpoint for their span's digest.
type intake struct {
	r       io.Reader
	want    Want
	hash    hash.Hash
	size    int64
	pending *pending // nil: nobody asks for digests of spans any more
	err     error    // of r, or of a blob that is too long
}

func newIntake(r io.Reader, want Want) *intake {
	return &intake{r: r, want: want, hash: algorithm(want.Blob).Hash(), pending: &pending{}}
}

// algorithm is that of a digest; the canonical one if the digest isn't known.
func algorithm(d digest.Digest) digest.Algorithm {
	if d == "" {
		return digest.Canonical
	}
	return d.Algorithm()
}

func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.hash.Write(p[:n])
	in.size += int64(n)
	if in.want.Size >= 0 && in.size > in.want.Size {
		found := fmt.Sprintf("over %d", in.want.Size)
		err = &MismatchError{in.want.Blob, "size", fmt.Sprint(in.want.Size), found}
	}
	in.err = err
	if in.pending != nil && (err == nil || err == io.EOF) {
		if e := in.pending.add(p[:n]); e != nil {
			return n, e // not kept: the blob can be read on, to be verified
		}
	}
	return n, err
}

// failed is the error of reading the blob, if it isn't its end.
func (in *intake) failed() error {
	if in.err == io.EOF {
		return nil
	}
	return in.err
}

// verify reads what is left of the blob, and tells whether it is the one that was asked for.
func (in *intake) verify() error {
	in.pending = nil
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if in.want.Size >= 0 && in.size != in.want.Size {
		return &MismatchError{in.want.Blob, "size", fmt.Sprint(in.want.Size), fmt.Sprint(in.size)}
	}
	if found := in.digest(); in.want.Blob != "" && found != in.want.Blob {
		return &MismatchError{in.want.Blob, "digest", in.want.Blob.String(), found.String()}
	}
	return nil
}

// digest is that of the bytes read so far.
func (in *intake) digest() digest.Digest {
	return digest.NewDigest(algorithm(in.want.Blob), in.hash)
}

// pending holds the bytes of a blob that have been read and don't belong to a finished span.
type pending struct {
	off   int64 // blob offset of buf[0]
	buf   []byte
	zeros int64 // that many zeros follow buf: a blob may end in any number of them, and they take no memory
}

func (p *pending) add(b []byte) error {
	if allZero(b) {
		p.zeros += int64(len(b))
		return nil
	}
	if int64(len(p.buf))+p.zeros+int64(len(b)) > maxPending {
		return fmt.Errorf("%w: cannot be entered for %d bytes", ErrMalformed, maxPending)
	}
	p.buf = append(p.buf, make([]byte, p.zeros)...)
	p.buf = append(p.buf, b...)
	p.zeros = 0
	return nil
}

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

var errSpan = errors.New("checkpoint out of order")

// cut gives the digest of the bytes before blob offset end, and drops those before keep, which is end or the byte
// before.
func (p *pending) cut(end, keep int64) (sum [sha256.Size]byte, err error) {
	n, k := end-p.off, keep-p.off
	if k < 0 || n < k || n > int64(len(p.buf))+p.zeros {
		return sum, errSpan
	}
	if more := n - int64(len(p.buf)); more > 0 { // at most a span's worth: a span is over where its last member is
		if n > maxSpan {
			return sum, errSpan
		}
		p.buf = append(p.buf, make([]byte, more)...)
		p.zeros -= more
	}
	sum = sha256.Sum256(p.buf[:n])
	p.buf = p.buf[:copy(p.buf, p.buf[k:])]
	p.off = keep
	return sum, nil
}
