package index

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

// A memory keeps some decoded spans, and is as simple as that can be.
type memory struct {
	mu sync.Mutex
	// The following is protected by mu.
	limit int // of spans; 0: keep none
	spans map[memoryKey][]byte
}

type memoryKey struct {
	table digest.Digest
	span  int
}

func newMemory(limit int) *memory {
	return &memory{limit: limit, spans: map[memoryKey][]byte{}}
}

func (m *memory) Has(table digest.Digest, span int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spans[memoryKey{table, span}] != nil
}

func (m *memory) Limit() int64 { return int64(m.limit) << 20 }

func (m *memory) HoldReady(table digest.Digest, span, size int) ([]byte, func(), bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data := m.spans[memoryKey{table, span}]
	return data, func() {}, data != nil
}

func (m *memory) Hold(table digest.Digest, span, size int, fill func([]byte) error) ([]byte, func(), error) {
	m.mu.Lock()
	data := m.spans[memoryKey{table, span}]
	m.mu.Unlock()
	if data == nil {
		data = make([]byte, size)
		if err := fill(data); err != nil {
			return nil, nil, err
		}
		m.mu.Lock()
		for k := range m.spans {
			if len(m.spans) >= m.limit {
				delete(m.spans, k)
			}
		}
		if m.limit > 0 {
			m.spans[memoryKey{table, span}] = data
		}
		m.mu.Unlock()
	}
	return data, func() {}, nil
}

// A blob serves bytes, and repairs what is discarded if it can.
type blob struct {
	mu sync.Mutex
	// The following are protected by mu.
	good    []byte // what discarded ranges are fetched from; nil: they stay as they are
	bytes   []byte
	reads   []byteRange
	discard []byteRange
	err     error // of ReadAt
	stuck   error // of Discard
}

func (b *blob) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads = append(b.reads, byteRange{off, int64(len(p))})
	if b.err != nil {
		return 0, b.err
	}
	return bytes.NewReader(b.bytes).ReadAt(p, off)
}

func (b *blob) Discard(off, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.discard = append(b.discard, byteRange{off, n})
	if b.good != nil {
		copy(b.bytes[off:off+n], b.good[off:off+n])
	}
	return b.stuck
}

func (b *blob) Fetch(off, n int64) error { return nil }

func readerOf(t testing.TB, data []byte, m Memory) (*Reader, *blob) {
	t.Helper()
	b := &blob{bytes: bytes.Clone(data)}
	x, frames := mustBuildBoth(t, data)
	return NewReader(mustOpen(t, x), b, bytes.NewReader(frames), m), b
}

func TestReadsGiveTheTar(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for name, c := range samples(t) {
		t.Run(name, func(t *testing.T) {
			z, _ := readerOf(t, c.blob, newMemory(2))
			all, err := io.ReadAll(io.NewSectionReader(z, 0, 1<<40))
			check(t, err)
			if !bytes.Equal(all, c.tar) {
				t.Fatal("the whole tar differs")
			}
			for range 30 {
				readRandomly(t, z, c.tar, r)
			}
		})
	}
}

// TestReadersByOtherIndexesOfALayerShareNoSpans has an index that another version may have made: where its spans are is
// none of ours, but their sizes are.
func TestReadersByOtherIndexesOfALayerShareNoSpans(t *testing.T) {
	tar := img.Tar(bigFiles(4 << 20)...)
	x := mustBuild(t, tar)
	other := mustOpen(t, x).t
	half := other.spans[0]
	half.bits /= 2
	other.spans[0].out, other.spans[0].in, other.spans[0].bits = int64(half.bits/8), int64(half.bits), half.bits
	other.spans = append([]span{half}, other.spans...)
	for i := range other.spans {
		in := other.in(i)
		other.spans[i].sum = sha256.Sum256(tar[in.off : in.off+in.n])
	}
	table := other.appendTo(nil)
	body := x[headSize : len(x)-trailerSize-len(mustOpen(t, x).t.appendTo(nil))]
	m := newMemory(100)
	for _, b := range [][]byte{x, seal(body, table)} {
		got := make([]byte, len(tar))
		_, err := NewReader(mustOpen(t, b), &blob{bytes: tar}, nil, m).ReadAt(got, 0)
		if check(t, err); !bytes.Equal(got, tar) {
			t.Error("other bytes")
		}
	}
}

// readRandomly does one read, and holds it against io.ReaderAt's contract.
func readRandomly(t *testing.T, z *Reader, tar []byte, r *rand.Rand) {
	t.Helper()
	off := r.Int64N(int64(len(tar)) + 10)
	p := make([]byte, r.IntN(1<<r.IntN(21)))
	n, err := z.ReadAt(p, off)
	want := make([]byte, len(p))
	wantN, wantErr := bytes.NewReader(tar).ReadAt(want, off)
	if n != wantN || !bytes.Equal(p, want) || (err != wantErr && len(p) > 0) {
		t.Fatalf("%d bytes at %d: %d, %v; want %d, %v", len(p), off, n, err, wantN, wantErr)
	}
}

func TestReaderKeepsTheContractOfReaderAt(t *testing.T) {
	b := img.Tar(img.File("f", "content"))
	z, _ := readerOf(t, img.Gzip(b), newMemory(1))
	check(t, iotest.TestReader(io.NewSectionReader(z, 0, int64(len(b))), b))
	for _, test := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{0, 10, 10, nil},
		{0, len(b), len(b), nil},
		{0, len(b) + 1, len(b), io.EOF},
		{int64(len(b)) - 1, 1, 1, nil},
		{int64(len(b)), 1, 0, io.EOF},
		{1 << 62, 1, 0, io.EOF},
		{5, 0, 0, nil},
	} {
		if n, err := z.ReadAt(make([]byte, test.n), test.off); n != test.want || err != test.err {
			t.Errorf("%d bytes at %d: %d, %v", test.n, test.off, n, err)
		}
	}
	if _, err := z.ReadAt(nil, -1); err == nil || err == io.EOF {
		t.Errorf("offset -1: %v", err)
	}
}

func TestNeighbouringSpansAreFetchedAtOnce(t *testing.T) {
	c := gzipSample(t)
	z, b := readerOf(t, c.blob, newMemory(100))
	_, err := z.ReadAt(make([]byte, 2<<20), 100)
	check(t, err)
	if len(b.reads) != 1 {
		t.Errorf("reads %v", b.reads)
	}
	if spans := int64(z.x.t.find(2<<20+99) + 1); z.Decoded() != spans {
		t.Errorf("%d spans decoded, not %d", z.Decoded(), spans)
	}
	_, err = z.ReadAt(make([]byte, 2<<20), 200)
	check(t, err)
	if len(b.reads) > 2 {
		t.Errorf("reads %v", b.reads)
	}
}

func TestASpanInMemoryIsNotFetched(t *testing.T) {
	c := gzipSample(t)
	z, b := readerOf(t, c.blob, newMemory(100))
	second := z.x.t.out(1)
	_, err := z.ReadAt(make([]byte, 1), second.off)
	check(t, err)
	b.reads = nil
	_, err = z.ReadAt(make([]byte, second.n+2), second.off-1)
	check(t, err)
	if fmt.Sprint(b.reads) != fmt.Sprint([]byteRange{z.x.t.in(0), z.x.t.in(2)}) {
		t.Errorf("reads %v", b.reads)
	}
}

func TestADamagedBlobIsDiscardedAndReadAgain(t *testing.T) {
	for name, c := range samples(t) {
		t.Run(name, func(t *testing.T) {
			z, b := readerOf(t, c.blob, newMemory(1))
			b.good = c.blob
			span := slices.IndexFunc(z.x.t.spans, func(s span) bool { return s.place != inFrames && s.out > 0 })
			if span < 0 {
				return // all of it stands in the frames
			}
			in := z.x.t.in(span)
			b.bytes[in.off+in.n/2] ^= 0x10
			got := make([]byte, len(c.tar))
			_, err := z.ReadAt(got, 0)
			check(t, err)
			if !bytes.Equal(got, c.tar) {
				t.Error("wrong bytes")
			}
			if fmt.Sprint(b.discard) != fmt.Sprint([]byteRange{in}) {
				t.Errorf("discarded %v, not %v", b.discard, in)
			}
		})
	}
}

func TestADamagedBlobThatStaysSoGivesAnError(t *testing.T) {
	c := gzipSample(t)
	z, b := readerOf(t, c.blob, newMemory(1))
	in, out := z.x.t.in(1), z.x.t.out(1)
	b.bytes[in.off+in.n/2] ^= 0x10
	got := make([]byte, len(c.tar))
	n, err := z.ReadAt(got, 0)
	if !errors.Is(err, ErrCorrupt) || int64(n) != out.off || !bytes.Equal(got[:n], c.tar[:n]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if len(b.discard) != 1 {
		t.Errorf("discarded %v", b.discard)
	}
	if _, err := z.ReadAt(got[:100], out.off+out.n); err != nil {
		t.Errorf("the next span: %v", err)
	}
	b.stuck = errors.New("read-only file system")
	if _, err := z.ReadAt(got, 0); !errors.Is(err, ErrCorrupt) || !errors.Is(err, b.stuck) {
		t.Errorf("not discarded: %v", err)
	}
}

func TestABlobThatFailsOrEndsGivesAnError(t *testing.T) {
	c := gzipSample(t)
	z, b := readerOf(t, c.blob, newMemory(1))
	b.err = errors.New("network is down")
	if n, err := z.ReadAt(make([]byte, 100), 0); n != 0 || !errors.Is(err, b.err) {
		t.Errorf("%d, %v", n, err)
	}
	b.err, b.bytes = nil, b.bytes[:100]
	if n, err := z.ReadAt(make([]byte, 100), 0); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestReadersMayWorkAtOnce(t *testing.T) {
	c := samples(t)["many members"]
	z, _ := readerOf(t, c.blob, newMemory(2))
	var wg sync.WaitGroup
	for i := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(i, i))
			for range 20 {
				off := r.IntN(len(c.tar) - 1000)
				p := make([]byte, 1000)
				if _, err := z.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, c.tar[off:off+1000]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAReadFromMemoryAllocatesNothing(t *testing.T) {
	z, _ := readerOf(t, img.Gzip(img.Tar(img.File("f", "content"))), newMemory(1))
	p := make([]byte, 100)
	n := testing.AllocsPerRun(1000, func() {
		if _, err := z.ReadAt(p, 0); err != nil {
			t.Error(err)
		}
	})
	if n > 0.5 { // a collection may empty the pool
		t.Errorf("%v allocations", n)
	}
}

func TestAnIdleReaderKeepsLittleMemory(t *testing.T) {
	z, _ := readerOf(t, gzipSample(t).blob, newMemory(0))
	q := newRequest(z)
	for _, test := range []struct {
		n    int
		kept bool
	}{{100, true}, {3 << 20, false}} {
		_, err := q.read(make([]byte, test.n), 0)
		check(t, err)
		if cap(q.buf) == 0 || cap(q.buf) <= maxKept != test.kept {
			t.Fatalf("a read of %d bytes takes %d", test.n, cap(q.buf))
		}
		if q.release(); cap(q.buf) > 0 != test.kept {
			t.Errorf("after a read of %d bytes, %d are kept", test.n, cap(q.buf))
		}
	}
}
