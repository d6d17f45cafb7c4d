package index

import (
	"bytes"
	_ "crypto/sha512" // digests may be of SHA-512
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxPending bounds the bytes of a blob that are kept until it is known which span they belong to: a span, and what
// the decoder reads ahead.
const maxPending = 2 * maxSpan

// pageSize is how much of a blob is read at a time.
const pageSize = 128 << 10

// A page is some of the blob. It does not change once it is made.
type page struct {
	b   []byte
	err error // what came after it
}

// An intake reads a blob and hashes it: all of it, and each span's bytes. It does so beside the one who decodes
// it: one goroutine reads ahead, another one hashes.
//
// The methods are for one goroutine at a time.
type intake struct {
	r     io.Reader
	want  Want
	rest  []byte // of the page that is being read
	off   int64  // where it ends in the blob
	keep  int64  // what is before will belong to no span
	spare bool   // nobody reads the blob any more: what is left of it is hashed and no more
	whole bool   // nobody asks for digests of spans
	err   error  // of r, or of a blob that is too long

	pages chan page   // from r
	free  chan []byte // pages to use again
	quit  chan struct{}
	hash  *hasher
	wait  sync.WaitGroup
	ended bool
}

func newIntake(r io.Reader, want Want) *intake {
	in := &intake{r: r, want: want, pages: make(chan page, 4), free: make(chan []byte, 16), quit: make(chan struct{})}
	in.hash = newHasher(algorithm(want.Blob), in.free)
	in.wait.Go(in.fetch)
	in.wait.Go(in.hash.run)
	return in
}

// algorithm is that of a digest; the canonical one if the digest isn't known.
func algorithm(d digest.Digest) digest.Algorithm {
	if d == "" {
		return digest.Canonical
	}
	return d.Algorithm()
}

// close ends what runs beside. It waits for a call of r's Read that is under way.
func (in *intake) close() {
	if in.ended {
		return
	}
	in.ended = true
	close(in.quit)
	close(in.hash.jobs)
	in.wait.Wait()
}

// fetch reads the blob.
func (in *intake) fetch() {
	size := int64(0)
	for {
		p := page{b: in.page()}
		n := 0
		for n < len(p.b) && p.err == nil {
			var m int
			m, p.err = in.r.Read(p.b[n:])
			n += m
		}
		p.b = p.b[:n]
		size += int64(n)
		if in.want.Size >= 0 && size > in.want.Size {
			found := fmt.Sprintf("over %d", in.want.Size)
			p.err = &MismatchError{in.want.Blob, "size", fmt.Sprint(in.want.Size), found}
		}
		if allZero(p.b) {
			in.reuse(p.b)
			p.b = zeroPage[:n]
		}
		select {
		case in.pages <- p:
		case <-in.quit:
			return
		}
		if p.err != nil {
			return
		}
	}
}

// zeroPage stands for all pages of zeros: a blob may end in any number of them, and they take no memory.
var zeroPage [pageSize]byte

func allZero(b []byte) bool { return bytes.Equal(b, zeroPage[:len(b)]) }

func isZeroPage(b []byte) bool { return len(b) == 0 || &b[0] == &zeroPage[0] }

// page gives room for a page.
func (in *intake) page() []byte {
	select {
	case b := <-in.free:
		return b
	default:
		return make([]byte, pageSize)
	}
}

func (in *intake) reuse(b []byte) { reuse(in.free, b) }

// reuse keeps a page for the next one, if there is room.
func reuse(free chan<- []byte, b []byte) {
	select {
	case free <- b[:pageSize]:
	default:
	}
}

// sniff gives the blob from its beginning on, and its format.
func (in *intake) sniff() (io.Reader, Format, error) {
	head := make([]byte, magicSize)
	n, _ := io.ReadFull(in, head) // in keeps the error; a short blob is none
	return io.MultiReader(bytes.NewReader(head[:n]), in), sniff(head[:n]), in.failed()
}

func (in *intake) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.err != nil {
			return 0, in.err
		}
		if err := in.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// next takes a page. If it fails the blob can be read on, to be verified.
func (in *intake) next() error {
	if in.whole {
		in.keep = in.off // the pages before have been read
	}
	p := <-in.pages
	in.rest, in.err = p.b, p.err
	in.off += int64(len(p.b))
	if in.spare {
		in.keep = in.off
	}
	in.hash.jobs <- job{b: p.b, keep: in.keep}
	if in.off-in.keep > maxPending && !isZeroPage(p.b) {
		in.spare = true
		return fmt.Errorf("%w: cannot be entered for %d bytes", ErrMalformed, maxPending)
	}
	return nil
}

// cut asks for the digest of a span: of the bytes before end, of which those before keep (which is end or one less)
// will not be in another one.
func (in *intake) cut(from, end, keep int64) {
	in.hash.jobs <- job{cut: true, from: from, end: end, keep: keep}
	in.keep = keep
}

// drop says that the bytes before off will belong to no span that isn't cut yet.
func (in *intake) drop(off int64) { in.keep = off }

// failed is the error of reading the blob, if it isn't its end.
func (in *intake) failed() error {
	if in.err == io.EOF {
		return nil
	}
	return in.err
}

// finish reads what is left of the blob. It closes the intake.
func (in *intake) finish() error {
	in.spare = true
	for in.err == nil {
		if err := in.next(); err != nil {
			return err
		}
	}
	in.close()
	return in.failed()
}

// verify reads what is left of the blob, and tells whether it is the one that was asked for. It closes the intake.
func (in *intake) verify() error {
	if err := in.finish(); err != nil {
		return err
	}
	if in.want.Size >= 0 && in.off != in.want.Size {
		return &MismatchError{in.want.Blob, "size", fmt.Sprint(in.want.Size), fmt.Sprint(in.off)}
	}
	if found := in.hash.digest(); in.want.Blob != "" && found != in.want.Blob {
		return &MismatchError{in.want.Blob, "digest", in.want.Blob.String(), found.String()}
	}
	return nil
}
