package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"imgfs/cache"
	img "imgfs/internal/testimage"
)

// A longSample is a layer that is long enough to be read ahead in.
type longSample struct{ tar, blob []byte }

var theLongSample = sync.OnceValue(func() (s longSample) {
	r := rand.New(rand.NewPCG(3, 4))
	content := make([]byte, 24<<20)
	for i := range content {
		content[i] = byte('a' + r.IntN(16))
	}
	s.tar = img.Tar(img.File("f", string(content)))
	s.blob = img.Gzip(s.tar)
	return s
})

// A watched is a blob that can be made to fail or to wait, and knows what it was asked for.
type watched struct {
	*bytes.Reader
	t *testing.T

	mu sync.Mutex
	// The following are protected by mu.
	reads, fetches []byteRange
	closed         bool
	onRead         func(byteRange) error // called without the lock
	onFetch        func(byteRange) error
}

func (b *watched) ReadAt(p []byte, off int64) (int, error) {
	r := byteRange{off, int64(len(p))}
	if err := b.use(&b.reads, r, func() func(byteRange) error { return b.onRead }); err != nil {
		return 0, err
	}
	return b.Reader.ReadAt(p, off)
}

func (b *watched) Fetch(off, n int64) error {
	return b.use(&b.fetches, byteRange{off, n}, func() func(byteRange) error { return b.onFetch })
}

func (b *watched) Discard(off, n int64) error { return nil }

func (b *watched) use(list *[]byteRange, r byteRange, hook func() func(byteRange) error) error {
	b.mu.Lock()
	if b.closed {
		b.t.Errorf("the blob is used after its end: %v", r)
	}
	*list = append(*list, r)
	do := hook()
	b.mu.Unlock()
	if do == nil {
		return nil
	}
	return do(r)
}

// set changes what a blob does.
func (b *watched) set(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
}

// longReader reads the long sample with a memory of a limit.
func longReader(t *testing.T, limit int64) (*Reader, *watched, *cache.Memory) {
	t.Helper()
	s := theLongSample()
	b := &watched{Reader: bytes.NewReader(s.blob), t: t}
	m := cache.NewMemory(limit)
	r := NewReader(mustOpen(t, mustBuild(t, s.blob)), b, nil, m)
	t.Cleanup(func() {
		r.Close()
		b.set(func() { b.closed = true })
	})
	return r, b, m
}

// readOn reads what lies in [off, end) of the long sample, piece by piece.
func readOn(t *testing.T, r *Reader, off, end int64, piece int) {
	t.Helper()
	p := make([]byte, piece)
	for ; off < end; off += int64(piece) {
		p = p[:min(int64(len(p)), end-off)]
		if _, err := r.ReadAt(p, off); err != nil {
			t.Fatalf("%d bytes at %d: %v", len(p), off, err)
		}
		if !bytes.Equal(p, theLongSample().tar[off:off+int64(len(p))]) {
			t.Fatalf("%d bytes at %d differ", len(p), off)
		}
	}
}

// wantAhead tells whether the span after the one with a byte was decoded ahead.
func wantAhead(t *testing.T, r *Reader, m *cache.Memory, off int64, want bool) {
	t.Helper()
	r.ahead.running.Wait()
	if span := r.x.t.find(off) + 1; m.Has(r.x.sum, span) != want {
		t.Errorf("span %d, before a stream at %d, is there: %v", span, off, !want)
	}
}

// TestAPassThatGetsTooThinIsNoPassAnyMore leaves out as much as may be left out, and then a little more than that.
func TestAPassThatGetsTooThinIsNoPassAnyMore(t *testing.T) {
	r, _, _ := longReader(t, 128<<20)
	readOn(t, r, 0, sureAfter/2, 128<<10)
	for off := int64(sureAfter/2) + maxSkip; off < r.x.TarSize(); off += maxSkip {
		readOn(t, r, off, off+100, 100)
	}
}

func TestAStreamIsReadAhead(t *testing.T) {
	r, b, m := longReader(t, 128<<20)
	readOn(t, r, 0, sureAfter/2, 128<<10)
	wantAhead(t, r, m, sureAfter/2, false)
	readOn(t, r, sureAfter/2, 2*sureAfter, 128<<10)
	wantAhead(t, r, m, 2*sureAfter, true)
	readOn(t, r, 2*sureAfter, r.x.TarSize(), 128<<10)
	if n := r.Decoded(); n != int64(r.x.NumSpans()) {
		t.Errorf("%d spans were decoded, of %d", n, r.x.NumSpans())
	}
	sum := int64(0)
	for _, in := range b.reads {
		sum += in.n
	}
	if sum > r.x.Size()+int64(r.x.NumSpans()) {
		t.Errorf("%d bytes of a blob of %d were read", sum, r.x.Size())
	}
}

func TestFetchesAheadGrow(t *testing.T) {
	r, b, _ := longReader(t, 128<<20)
	t.Cleanup(func() {
		if len(b.fetches) < 3 || len(b.fetches) > 12 {
			t.Errorf("fetched %v", b.fetches)
		}
		for i, in := range b.fetches[1:] {
			if end := b.fetches[i].off + b.fetches[i].n; in.off != end && in.off != end-1 { // spans share a byte
				t.Errorf("fetched %v, not one after the other", b.fetches)
			}
		}
	})
	for off := int64(0); off < r.x.TarSize(); off += 128 << 10 {
		readOn(t, r, off, min(off+128<<10, r.x.TarSize()), 128<<10)
		r.ahead.running.Wait()
		if n := len(b.fetches); n > 0 {
			next := off + 128<<10
			limit := r.x.t.in(r.x.t.find(min(2*next, r.x.TarSize()) - 1))
			if end := b.fetches[n-1].off + b.fetches[n-1].n; end > limit.off+limit.n {
				t.Fatalf("fetched up to %d of the blob, for a reader at %d of the tar, by now up to %d", end, next, limit.off+limit.n)
			}
		}
	}
}

// A stream may leave out headers and links, and its reads may come in another order than they were asked for.
func TestAStreamGoesOnAcrossSmallFiles(t *testing.T) {
	for name, test := range map[string]struct {
		piece, gap int64
		swapped    bool
		want       bool
	}{
		"small files":                 {10 << 10, 1536, false, true},
		"tiny files":                  {600, 512, false, true},
		"two at once":                 {512 << 10, 0, true, true},
		"every other page":            {4 << 10, 32 << 10, false, false},
		"a piece here, a piece there": {100 << 10, 200 << 10, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, m := longReader(t, 128<<20)
			off := int64(0)
			for off < 3*sureAfter {
				next := off + test.piece + test.gap
				if test.swapped {
					readOn(t, r, next, next+test.piece, int(test.piece))
					readOn(t, r, off, off+test.piece, int(test.piece))
					off = next + test.piece
					continue
				}
				readOn(t, r, off, off+test.piece, int(test.piece))
				off = next
			}
			wantAhead(t, r, m, off-1, test.want)
		})
	}
}

func TestSeveralStreamsAreReadAhead(t *testing.T) {
	r, _, m := longReader(t, 1<<30)
	const streams, length, distance = 2, 2 * sureAfter, 12 << 20
	for off := int64(0); off < length; off += 64 << 10 {
		for i := range int64(streams) {
			readOn(t, r, i*distance+off, i*distance+off+64<<10, 64<<10)
		}
		random := (off*7919 + 5<<20) % r.x.TarSize()
		readOn(t, r, random, min(random+100, r.x.TarSize()), 100)
	}
	for i := range int64(streams) {
		wantAhead(t, r, m, i*distance+length-1, true)
	}
}

func TestRandomReadersDecodeOneSpanAndFetchItsRange(t *testing.T) {
	r, b, _ := longReader(t, 128<<20)
	seen := map[int]bool{}
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		off := rnd.Int64N(r.x.TarSize() - 4096)
		first, last := r.x.t.find(off), r.x.t.find(off+4095)
		b.set(func() { b.reads = nil })
		readOn(t, r, off, off+4096, 4096)
		r.ahead.running.Wait()
		var want []byteRange
		for span := first; span <= last; span++ {
			if !seen[span] {
				want = append(want, r.x.t.in(span))
			}
			seen[span] = true
		}
		if len(want) == 1 && (len(b.reads) != 1 || b.reads[0] != want[0]) || len(want) == 0 && len(b.reads) > 0 {
			t.Fatalf("read %v of the blob, want %v", b.reads, want)
		}
	}
	if r.Decoded() != int64(len(seen)) || len(b.fetches) > 0 {
		t.Errorf("%d spans decoded, %d asked for; fetched %v", r.Decoded(), len(seen), b.fetches)
	}
}

func TestNothingIsDecodedAheadWithoutMemory(t *testing.T) {
	for _, limit := range []int64{0, 4 << 20} {
		r, _, _ := longReader(t, limit)
		readOn(t, r, 0, r.x.TarSize(), 512<<10)
		if limit > 0 && r.Decoded() != int64(r.x.NumSpans()) {
			t.Errorf("limit %d: %d spans decoded, of %d", limit, r.Decoded(), r.x.NumSpans())
		}
	}
}

// TestAnErrorAheadIsNobodys has what is read and fetched ahead fail, in a reader's way and before him: he gets his bytes.
func TestAnErrorAheadIsNobodys(t *testing.T) {
	r, b, _ := longReader(t, 128<<20)
	broken := errors.New("the network is down")
	mine := func(in byteRange) bool { return in.off <= r.x.t.in(r.x.t.find(sureAfter+128<<10-1)).off } // that nobody reads ahead
	b.set(func() {
		b.onRead = func(in byteRange) error {
			if !mine(in) {
				return broken
			}
			return nil
		}
	})
	readOn(t, r, 0, sureAfter+128<<10, 128<<10)
	r.ahead.running.Wait()
	b.set(func() { b.onRead = nil })
	readOn(t, r, sureAfter+128<<10, 4*sureAfter, 128<<10)
	b.set(func() { b.onFetch = func(byteRange) error { return broken } })
	readOn(t, r, 4*sureAfter, r.x.TarSize(), 128<<10)
}

// TestWhoWaitsForADecodeAheadThatFailsDecodes joins one under way.
func TestWhoWaitsForADecodeAheadThatFailsDecodes(t *testing.T) {
	r, b, m := longReader(t, 128<<20)
	broken := errors.New("the network is down")
	arrived, proceed := make(chan byteRange), make(chan struct{})
	var once sync.Once
	readOn(t, r, 0, sureAfter, 128<<10)
	own := r.x.t.in(r.x.t.find(sureAfter + 1))
	b.set(func() {
		b.onRead = func(in byteRange) (err error) {
			if in.off >= own.off+own.n-1 {
				once.Do(func() {
					arrived <- in
					<-proceed
					err = broken
				})
			}
			return err
		}
	})
	readOn(t, r, sureAfter, sureAfter+2, 2) // which starts it
	span := 0
	for in := <-arrived; r.x.t.in(span) != in; {
		span++
	}
	before := m.Stats().Hits
	done := make(chan struct{})
	go func() {
		defer close(done)
		out := r.x.t.out(span)
		readOn(t, r, out.off, out.off+100, 100)
	}()
	for m.Stats().Hits == before {
		runtime.Gosched()
	}
	close(proceed)
	<-done
}

func TestCloseEndsReadingAhead(t *testing.T) {
	r, b, m := longReader(t, 128<<20)
	arrived, proceed := make(chan struct{}, 100), make(chan struct{})
	b.set(func() {
		b.onFetch = func(byteRange) error {
			arrived <- struct{}{}
			<-proceed
			return nil
		}
	})
	readOn(t, r, 0, 2*sureAfter, 128<<10)
	<-arrived
	closed := make(chan struct{})
	go func() {
		r.Close()
		close(closed)
	}()
	for done := false; !done; { // until it waits
		r.ahead.mu.Lock()
		done = r.ahead.closed
		r.ahead.mu.Unlock()
		runtime.Gosched()
	}
	select {
	case <-closed:
		t.Error("Close did not wait for a fetch")
	default:
	}
	close(proceed)
	<-closed
	decoded := r.Decoded()
	b.set(func() { b.closed = true })
	runtime.Gosched()
	if r.Decoded() != decoded || m.Has(r.x.sum, r.x.t.find(2*sureAfter)+2) {
		t.Error("spans are decoded after Close")
	}
	b.set(func() { b.closed = false })
	readOn(t, r, 0, r.x.TarSize(), 128<<10)
}

func TestAPanicAheadIsNot(t *testing.T) {
	r, b, _ := longReader(t, 128<<20)
	readOn(t, r, 0, sureAfter, 128<<10)
	own := r.x.t.in(r.x.t.find(sureAfter + 1))
	b.set(func() {
		b.onRead = func(in byteRange) error {
			if in.off >= own.off+own.n-1 {
				panic("a bug")
			}
			return nil
		}
	})
	readOn(t, r, sureAfter, sureAfter+2, 2)
	r.ahead.running.Wait()
	b.set(func() { b.onRead = nil })
	readOn(t, r, 0, r.x.TarSize(), 128<<10)
}

func TestHoldGivesTheTarInParts(t *testing.T) {
	r, _, _ := longReader(t, 64<<20)
	tar := theLongSample().tar
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 100 {
		off := rnd.Int64N(r.x.TarSize())
		n := min(1+rnd.IntN(2<<20), len(tar)-int(off))
		spans := r.x.t.find(off+int64(n)-1) - r.x.t.find(off) + 1
		room := rnd.IntN(5)
		parts, err := r.Hold(make([]Part, 0, room), off, n)
		check(t, err)
		var got []byte
		for _, p := range parts {
			got = append(got, p.Data...)
			p.Release()
		}
		if spans > room && len(parts) > 0 || spans <= room && !bytes.Equal(got, tar[off:off+int64(n)]) {
			t.Fatalf("%d bytes at %d in %d spans: %d parts of %d bytes", n, off, spans, len(parts), len(got))
		}
	}
	for _, bad := range []byteRange{{-1, 1}, {0, 0}, {0, -1}, {r.x.TarSize(), 1}, {0, r.x.TarSize() + 1}, {1 << 62, 1}} {
		if parts, err := r.Hold(make([]Part, 0, 100), bad.off, int(bad.n)); err == nil || len(parts) > 0 {
			t.Errorf("%v: %d parts, %v", bad, len(parts), err)
		}
	}
}

func TestHoldReadyGivesOnlyWhatIsDecoded(t *testing.T) {
	r, _, _ := longReader(t, 1<<30)
	tar := theLongSample().tar
	in := func(span int) byteRange { return r.x.t.out(span) }
	readOn(t, r, in(2).off, in(3).off+1, 1) // the third and the fourth span
	decoded := r.Decoded()
	for _, test := range []struct {
		off  int64
		n    int
		room int
		want bool
	}{
		{in(2).off, int(in(2).n), 1, true},
		{in(2).off + 5, int(in(2).n), 2, true},
		{in(2).off + 5, int(in(2).n), 1, false},
		{in(1).off + in(1).n - 1, 2, 2, false},
		{in(3).off + in(3).n - 1, 2, 2, false},
		{in(2).off, 0, 1, false},
		{-1, 1, 1, false},
		{r.x.TarSize(), 1, 1, false},
	} {
		var got []byte
		parts := r.HoldReady(make([]Part, 0, test.room), test.off, test.n)
		for _, p := range parts {
			got = append(got, p.Data...)
			p.Release()
		}
		if test.want != (len(parts) > 0) || test.want && !bytes.Equal(got, tar[test.off:test.off+int64(test.n)]) {
			t.Errorf("%d bytes at %d: %d parts of %d bytes", test.n, test.off, len(parts), len(got))
		}
	}
	if r.Decoded() != decoded {
		t.Errorf("%d spans were decoded for it", r.Decoded()-decoded)
	}
}

func TestHoldLetsGoOfWhatItHadWhenItFails(t *testing.T) {
	r, b, m := longReader(t, 1<<20)
	broken := errors.New("the network is down")
	second := r.x.t.in(1)
	b.set(func() {
		b.onRead = func(in byteRange) error {
			if in.off+in.n > second.off+1 {
				return broken
			}
			return nil
		}
	})
	readOn(t, r, 0, 1, 1)
	parts, err := r.Hold(make([]Part, 0, 4), r.x.t.out(1).off-1, 2)
	if !errors.Is(err, broken) || len(parts) > 0 {
		t.Errorf("%d parts, %v", len(parts), err)
	}
	b.set(func() { b.onRead = nil })
	readOn(t, r, r.x.t.out(5).off, r.x.t.out(5).off+1, 1)
	if m.Has(r.x.sum, 0) {
		t.Error("the first span is still held")
	}
}

func TestReadsFromMemoryAllocateNothing(t *testing.T) {
	r, _, _ := longReader(t, 128<<20)
	readOn(t, r, 0, r.x.TarSize(), 128<<10)
	p, parts := make([]byte, 1<<20), make([]Part, 0, 4)
	off := int64(0)
	next := func() int64 {
		off = (off + 1<<20) % (r.x.TarSize() - 1<<20)
		return off
	}
	for name, op := range map[string]func(){
		"ReadAt": func() {
			if _, err := r.ReadAt(p, next()); err != nil {
				t.Error(err)
			}
		},
		"Hold": func() {
			held, err := r.Hold(parts, next(), len(p))
			if err != nil || len(held) == 0 {
				t.Error(len(held), err)
			}
			for _, part := range held {
				part.Release()
			}
		},
	} {
		if n := testing.AllocsPerRun(1000, op); n > 0.5 { // a collection may empty the pool
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
