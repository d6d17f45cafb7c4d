package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

var layerA, layerB = digest.FromString("a"), digest.FromString("b")

// spanBytes is what a span of that number and size must hold.
func spanBytes(span int, dst []byte) {
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], uint64(span)*2654435761)
	for i := range dst {
		dst[i] = word[i%8] + byte(i>>3)
	}
}

// useSpan uses a span and checks its bytes; it reports whether it was made.
func useSpan(t *testing.T, m *Memory, blob digest.Digest, span, size int) (made bool) {
	t.Helper()
	data, release, err := m.Hold(blob, span, size, func(dst []byte) error {
		made = true
		if len(dst) != size {
			t.Errorf("span %d: %d bytes to fill, want %d", span, len(dst), size)
		}
		spanBytes(span, dst)
		return nil
	})
	if err != nil {
		t.Error(err)
		return made
	}
	want := make([]byte, size)
	spanBytes(span, want)
	if !bytes.Equal(data, want) {
		t.Errorf("span %d has other bytes", span)
	}
	checkMemory(t, m)
	release()
	checkMemory(t, m)
	return made
}

// checkMemory checks everything that holds between calls and during them.
func checkMemory(t *testing.T, m *Memory) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var over, held int64
	for key, s := range m.spans {
		if s.key != key {
			t.Errorf("span %v under the key %v", s.key, key)
		}
		if s.in == nil {
			over += s.cost
		} else if s.refs > 0 {
			held += s.cost
		}
	}
	queued := 0
	for _, q := range []*queue{&m.fresh, &m.hot, &m.gone} {
		var bytes int64
		for s := q.root.next; s != &q.root; s = s.next {
			queued++
			bytes += s.cost
			if m.spans[s.key] != s || s.in != q || s.next.prev != s || s.cost < int64(bufferSize(s.size)) {
				t.Errorf("span %v is wrongly in a queue", s.key)
			}
			if q == &m.gone && (s.refs > 0 || s.buf != nil) {
				t.Errorf("span %v is gone and held", s.key)
			}
		}
		if bytes != q.bytes {
			t.Errorf("%d bytes accounted, %d there", q.bytes, bytes)
		}
	}
	for _, s := range m.spans {
		if s.in == nil {
			queued++
		}
	}
	if queued != len(m.spans) || over != m.over {
		t.Errorf("%d spans of %d in queues, %d bytes over the limit accounted, %d there", queued, len(m.spans), m.over, over)
	}
	if bytes := m.fresh.bytes + m.hot.bytes; bytes > max(m.limit, held) {
		t.Errorf("%d bytes, limit %d, %d in use", bytes, m.limit, held)
	}
	if m.gone.bytes > m.limit/2 {
		t.Errorf("names of %d bytes, limit %d", m.gone.bytes, m.limit)
	}
}

func TestMemoryKeepsWhatComesBack(t *testing.T) {
	m := NewMemory(8 * 4096)
	for i, tt := range []struct {
		span int
		made bool
	}{
		{1, true}, {2, true}, {1, false}, {3, true}, {4, true}, {5, true}, {6, true}, {7, true}, {8, true},
		{9, true},             // 1, used twice at its time, leaves before 2, used once
		{2, false}, {1, true}, // 2 leaves now, and 1 has come back
		{10, true}, {11, true}, {12, true}, {13, true}, {14, true}, {15, true}, {16, true}, {17, true}, {18, true},
		{1, false}, {16, false}, // so it stays, as does what came last
		{11, true}, {1, false}, {11, false},
	} {
		if made := useSpan(t, m, layerA, tt.span, 4096); made != tt.made {
			t.Errorf("%d: span %d: made is %v, want %v", i, tt.span, made, tt.made)
		}
	}
	if useSpan(t, m, layerB, 1, 4096); !m.Has(layerB, 1) || !m.Has(layerA, 18) || m.Has(layerA, 2) {
		t.Error("Has says otherwise")
	}
	want := MemoryStats{Hits: 6, Misses: 21, Bytes: 8 * 4096}
	if got := m.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestMemoryKeepsItsHotSetDuringAScan(t *testing.T) {
	const spans, hot = 64, 24
	m := NewMemory(spans * minBuffer)
	for pass := range 2 { // in between the hot ones leave, so that they come back
		for span := range hot {
			useSpan(t, m, layerA, span, minBuffer)
		}
		for span := range spans {
			useSpan(t, m, layerB, 100*pass+span, minBuffer)
		}
	}
	for span := range 10 * spans {
		for range 3 { // as who reads a span piece by piece
			useSpan(t, m, layerB, 2000+span, minBuffer)
		}
	}
	for span := range hot {
		if !m.Has(layerA, span) {
			t.Errorf("a scan has driven out span %d", span)
		}
	}
}

// A model is 2Q as its inventors describe it, in slices whose first leaves.
type model struct {
	limit            int64
	fresh, hot, gone []modelSpan
}

type modelSpan struct {
	span int
	cost int64
}

func costs(list []modelSpan) (sum int64) {
	for _, s := range list {
		sum += s.cost
	}
	return sum
}

// without returns the list without a span, and whether that was there.
func without(list []modelSpan, span int) (rest []modelSpan, found bool) {
	for _, s := range list {
		if s.span == span {
			found = true
		} else {
			rest = append(rest, s)
		}
	}
	return rest, found
}

// use reports whether a span has to be made.
func (m *model) use(span, size int) (made bool) {
	for _, s := range m.fresh {
		if s.span == span {
			return false
		}
	}
	for _, s := range m.hot {
		if s.span == span {
			m.hot, _ = without(m.hot, span)
			m.hot = append(m.hot, s)
			return false
		}
	}
	cost := int64(bufferSize(size))
	if cost > m.limit {
		return true
	}
	back := false
	m.gone, back = without(m.gone, span)
	for reused := false; costs(m.fresh)+costs(m.hot)+cost > m.limit; {
		left := m.leave()
		if !reused && left >= cost && left <= cost+cost/4 {
			cost, reused = left, true
		}
	}
	if back {
		m.hot = append(m.hot, modelSpan{span, cost})
	} else {
		m.fresh = append(m.fresh, modelSpan{span, cost})
	}
	return true
}

// leave has a span leave, and returns the size of its buffer.
func (m *model) leave() (left int64) {
	if costs(m.fresh) <= m.limit/4 && len(m.hot) > 0 {
		left, m.hot = m.hot[0].cost, m.hot[1:]
		return left
	}
	m.gone, m.fresh = append(m.gone, m.fresh[0]), m.fresh[1:]
	left = m.gone[len(m.gone)-1].cost
	for costs(m.gone) > m.limit/2 {
		m.gone = m.gone[1:]
	}
	return left
}

func TestMemoryAgainstAModel(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		limit := rnd.Int64N(200_000)
		m, model := NewMemory(limit), &model{limit: limit}
		sizes := make([]int, 40)
		for i := range sizes {
			sizes[i] = rnd.IntN(30_000)
		}
		for i := range 1000 {
			span := min(rnd.IntN(len(sizes)), rnd.IntN(len(sizes))) // some more often than others
			made, want := useSpan(t, m, layerA, span, sizes[span]), model.use(span, sizes[span])
			if made != want {
				t.Fatalf("seed %d, use %d: span %d of %d bytes: made is %v", seed, i, span, sizes[span], made)
			}
		}
	}
}

func TestMemoryUnderManyUsers(t *testing.T) {
	for _, limit := range []int64{0, 20_000, 200_000, 1 << 30} {
		m := NewMemory(limit)
		broken := errors.New("broken span")
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), uint64(limit)))
				for range 500 {
					span := rnd.IntN(40)
					if span%10 == 7 {
						if _, _, err := m.Hold(layerA, span, 100, func([]byte) error { return broken }); err != broken {
							t.Errorf("error %v", err)
						}
						continue
					}
					useSpan(t, m, layerA, span, 1000+span*500)
				}
			})
		}
		wg.Wait()
		if st := m.Stats(); st.Hits+st.Misses != 8*500 || st.Bytes > limit {
			t.Errorf("limit %d: %+v", limit, st)
		}
	}
}

func TestMemoryFillsOnceForAllWhoWait(t *testing.T) {
	m := NewMemory(1 << 20)
	var fills, holds atomic.Int32
	var wg sync.WaitGroup
	fill := func([]byte) error {
		fills.Add(1)
		for range 7 {
			wg.Go(func() {
				if _, _, err := m.Hold(layerA, 1, 10, nil); err != nil {
					t.Error(err)
				}
				holds.Add(1)
			})
		}
		for m.Stats().Hits < 7 { // until all of them wait
			runtime.Gosched()
		}
		if !m.Has(layerA, 1) {
			t.Error("Has does not know of a span that is being made")
		}
		return nil
	}
	_, _, err := m.Hold(layerA, 1, 10, fill)
	must(t, err)
	wg.Wait()
	if fills.Load() != 1 || holds.Load() != 7 {
		t.Errorf("%d fills, %d more holds", fills.Load(), holds.Load())
	}
}

func TestMemoryIsNotPoisonedByAFailedFill(t *testing.T) {
	broken := errors.New("EIO")
	for _, tt := range []struct {
		name string
		fill func(dst []byte) error
		want error // to those who wait
	}{
		{"error", func([]byte) error { return broken }, broken},
		{"panic", func([]byte) error { panic("in fill") }, errFillFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMemory(1 << 20)
			waiter := make(chan error)
			func() {
				defer func() { _ = recover() }()
				_, _, _ = m.Hold(layerA, 1, 100, func(dst []byte) error {
					go func() {
						_, _, err := m.Hold(layerA, 1, 100, nil)
						waiter <- err
					}()
					for m.Stats().Hits < 1 { // until it waits
						runtime.Gosched()
					}
					return tt.fill(dst)
				})
			}()
			if err := <-waiter; err != tt.want {
				t.Errorf("the waiter was told %v, want %v", err, tt.want)
			}
			checkMemory(t, m)
			if st := m.Stats(); len(m.spans) != 0 || st.Bytes != 0 {
				t.Errorf("something is left: %+v", st)
			}
			if !useSpan(t, m, layerA, 1, 100) {
				t.Error("the failed span was kept")
			}
		})
	}
}

// What is held stays as it is, whatever comes meanwhile, and goes when it is released.
func TestMemoryHoldsWhatIsReadyAndMakesNothingForIt(t *testing.T) {
	m := NewMemory(1 << 20)
	if _, _, ok := m.HoldReady(layerA, 1, 1000); ok || m.Has(layerA, 1) {
		t.Error("a span that nobody made is ready")
	}
	making, made := make(chan bool), make(chan bool)
	go func() {
		defer close(made)
		_, release, err := m.Hold(layerA, 1, 1000, func(dst []byte) error {
			making <- true
			<-making
			spanBytes(1, dst)
			return nil
		})
		if err != nil {
			t.Error(err)
			return
		}
		release()
	}()
	<-making
	if _, _, ok := m.HoldReady(layerA, 1, 1000); ok {
		t.Error("a span that is being made is ready")
	}
	close(making)
	<-made
	data, release, ok := m.HoldReady(layerA, 1, 1000)
	want := make([]byte, 1000)
	if spanBytes(1, want); !ok || !bytes.Equal(data, want) {
		t.Error("a span that is there is not ready, or has other bytes")
	}
	release()
	if _, _, ok := m.HoldReady(layerA, 1, 999); ok {
		t.Error("a span of another size is ready")
	}
	checkMemory(t, m)
}

func TestMemoryLeavesAloneWhatIsHeld(t *testing.T) {
	m := NewMemory(4 * 4096)
	type held struct {
		span    int
		data    []byte
		release func()
	}
	var all []held
	for span := range 20 {
		data, release, err := m.Hold(layerA, span, 4096, func(dst []byte) error { spanBytes(span, dst); return nil })
		must(t, err)
		all = append(all, held{span, data, release})
		useSpan(t, m, layerB, span, 4096)
	}
	want := make([]byte, 4096)
	for _, h := range all {
		spanBytes(h.span, want)
		if !bytes.Equal(h.data, want) {
			t.Errorf("span %d has changed", h.span)
		}
		h.release()
		checkMemory(t, m)
	}
	if st := m.Stats(); st.Bytes > 4*4096 {
		t.Errorf("%d bytes stay", st.Bytes)
	}
}

func TestMemoryNeverWaitsForMemory(t *testing.T) {
	m := NewMemory(4096)
	var nest func(span int)
	nest = func(span int) {
		_, release, err := m.Hold(layerA, span, 4096, func([]byte) error {
			if span > 0 {
				nest(span - 1)
			}
			return nil
		})
		must(t, err)
		checkMemory(t, m)
		release()
	}
	nest(20)
	if st := m.Stats(); st.Bytes > 4096 {
		t.Errorf("%d bytes stay", st.Bytes)
	}
}

func TestMemoryUsesBuffersAgain(t *testing.T) {
	m := NewMemory(16 << 20)
	nothing := func([]byte) error { return nil }
	span := 0
	use := func() {
		_, release, err := m.Hold(layerA, span, 768<<10+span%7*20_000, nothing)
		must(t, err)
		release()
		span++
	}
	for range 200 {
		use()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 200 {
		use()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 10<<20 {
		t.Errorf("200 spans took %d new bytes", n)
	}
}

func TestAHitAllocatesNothing(t *testing.T) {
	m := NewMemory(1 << 20)
	useSpan(t, m, layerA, 1, 100)
	n := testing.AllocsPerRun(100, func() {
		if _, release, err := m.Hold(layerA, 1, 100, nil); err == nil {
			release()
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMemoryServesASpanOverTheLimit(t *testing.T) {
	m := NewMemory(10_000)
	useSpan(t, m, layerA, 1, 5000)
	for range 2 {
		if !useSpan(t, m, layerA, 2, 50_000) {
			t.Error("a span over the limit was kept")
		}
	}
	if !m.Has(layerA, 1) {
		t.Error("it drove out what was there")
	}
}

func TestMemoryRefusesSizesThatCanNotBe(t *testing.T) {
	m := NewMemory(10_000)
	for _, size := range []int{-1, maxSpan + 1} {
		if _, _, err := m.Hold(layerA, 1, size, nil); err == nil {
			t.Errorf("a size of %d was accepted", size)
		}
	}
	useSpan(t, m, layerA, 1, 100)
	if _, _, err := m.Hold(layerA, 1, 99, nil); err == nil {
		t.Error("a span was given under another size")
	}
	checkMemory(t, m)
}

func TestBufferSizesAreFewAndLittleLarger(t *testing.T) {
	sizes := map[int]bool{}
	for n := minBuffer; n < 4<<20; n += 997 {
		size := bufferSize(n)
		if size < n || size > n+n/8+8 {
			t.Errorf("bufferSize(%d) = %d", n, size)
		}
		sizes[size] = true
	}
	if len(sizes) > 85 {
		t.Errorf("%d sizes", len(sizes))
	}
}

func ExampleMemory_Hold() {
	m := NewMemory(1 << 20)
	for range 2 {
		data, release, err := m.Hold(layerA, 0, 5, func(dst []byte) error {
			fmt.Println("decode")
			copy(dst, "hello")
			return nil
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", data)
		release()
	}
	// Output:
	// decode
	// hello
	// hello
}
