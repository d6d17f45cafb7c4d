package index

import (
	"crypto/sha256"
	"hash"

	"github.com/opencontainers/go-digest"
)

// A hasher makes the digests of a blob and of the spans in it, each byte while it is in the processor's cache.
type hasher struct {
	algorithm digest.Algorithm
	jobs      chan job
	free      chan<- []byte
	whole     hash.Hash // of the blob
	span      hash.Hash
	held      []held // what may belong to spans to come
	end       int64  // where it ends in the blob
	sums      [][sha256.Size]byte
}

// A job is a page to hash, or a span that is complete.
type job struct {
	b         []byte
	cut       bool
	from, end int64
	keep      int64 // what is before this will belong to no other span
}

// held is a page, or zeros of any number.
type held struct {
	b   []byte // starts with the zero page's bytes if it is zeros
	off int64
	n   int64
}

func newHasher(a digest.Algorithm, free chan<- []byte) *hasher {
	return &hasher{algorithm: a, jobs: make(chan job, 8), free: free, whole: a.Hash(), span: sha256.New()}
}

// run does what it is told until there are no more jobs.
func (h *hasher) run() {
	for j := range h.jobs {
		if j.cut {
			h.cut(j.from, j.end)
		} else {
			h.add(j.b)
		}
		h.drop(j.keep)
	}
}

// add takes a page.
func (h *hasher) add(b []byte) {
	h.whole.Write(b)
	n := int64(len(b))
	if last := len(h.held) - 1; last >= 0 && isZeroPage(b) && isZeroPage(h.held[last].b) {
		h.held[last].n += n
	} else {
		h.held = append(h.held, held{b, h.end, n})
	}
	h.end += n
}

// cut makes the digest of a span.
func (h *hasher) cut(from, end int64) {
	h.span.Reset()
	for i := range h.held {
		p := &h.held[i]
		for off := max(from, p.off); off < min(end, p.off+p.n); {
			b := p.b
			if isZeroPage(b) {
				b = zeroPage[:min(pageSize, end-off, p.off+p.n-off)]
			} else {
				b = b[off-p.off : min(end-p.off, p.n)]
			}
			h.span.Write(b)
			off += int64(len(b))
		}
	}
	h.sums = append(h.sums, [sha256.Size]byte(h.span.Sum(nil)))
}

// drop lets go of what is before an offset.
func (h *hasher) drop(keep int64) {
	n := 0
	for n < len(h.held) && h.held[n].off+h.held[n].n <= keep {
		if b := h.held[n].b; !isZeroPage(b) {
			reuse(h.free, b)
		}
		n++
	}
	h.held = h.held[:copy(h.held, h.held[n:])]
}

// digest is that of the blob, once run has ended.
func (h *hasher) digest() digest.Digest { return digest.NewDigest(h.algorithm, h.whole) }
