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
	err := m.Use(blob, span, size,
		func(dst []byte) error {
			made = true
			if len(dst) != size {
				t.Errorf("span %d: %d bytes to fill, want %d", span, len(dst), size)
			}
			spanBytes(span, dst)
			return nil
		},
		func(data []byte) {
			want := make([]byte, size)
			spanBytes(span, want)
			if !bytes.Equal(data, want) {
				t.Errorf("span %d has other bytes", span)
			}
		})
	if err != nil {
		t.Error(err)
	}
	checkMemory(t, m)
	return made
}

// checkMemory checks everything that holds between calls and during them.
func checkMemory(t *testing.T, m *Memory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var bytes, over, used int64
	idle := 0
	for key, s := range m.spans {
		if s.key != key {
			t.Errorf("span %v under the key %v", s.key, key)
		}
		n := int64(bufferSize(s.size))
		if n > m.limit {
			over += n
		} else {
			bytes += n
		}
		if s.refs == 0 {
			idle++
		} else if n <= m.limit {
			used += n
		}
	}
	if bytes != m.bytes || over != m.over {
		t.Errorf("%d+%d bytes accounted, %d+%d there", m.bytes, m.over, bytes, over)
	}
	if bytes > max(m.limit, used) {
		t.Errorf("%d bytes, limit %d, %d in use", bytes, m.limit, used)
	}
	for s := m.idle.next; s != &m.idle; s = s.next {
		idle--
		if s.refs != 0 || m.spans[s.key] != s || s.next.prev != s {
			t.Errorf("span %v is wrongly in the idle list", s.key)
		}
	}
	if idle != 0 {
		t.Errorf("%d idle spans are not in the list", idle)
	}
}

func TestMemoryKeepsTheSpansUsedLast(t *testing.T) {
	m := NewMemory(3 * 4096)
	for _, tt := range []struct {
		span int
		made bool
	}{
		{1, true}, {2, true}, {3, true}, {1, false}, {4, true}, {2, true}, {1, false}, {4, false}, {3, true},
	} {
		if made := useSpan(t, m, layerA, tt.span, 4096); made != tt.made {
			t.Errorf("span %d: made is %v, want %v", tt.span, made, tt.made)
		}
	}
	if useSpan(t, m, layerB, 1, 4096); !m.Has(layerB, 1) || !m.Has(layerA, 3) || m.Has(layerA, 1) {
		t.Error("Has says otherwise")
	}
	want := MemoryStats{Hits: 3, Misses: 7, Bytes: 3 * 4096}
	if got := m.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

// The bound holds, and the order of eviction is that of a plain list, for any
// sequence of uses.
func TestMemoryAgainstAModel(t *testing.T) {
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		limit := rnd.Int64N(100_000)
		m := NewMemory(limit)
		sizes := make([]int, 30)
		for i := range sizes {
			sizes[i] = rnd.IntN(30_000)
		}
		var model []int // used last comes last
		for range 500 {
			span := rnd.IntN(len(sizes))
			made := useSpan(t, m, layerA, span, sizes[span])
			var known bool
			if model, known = touch(model, span, sizes, limit); known == made {
				t.Fatalf("seed %d: span %d of %d bytes: made is %v", seed, span, sizes[span], made)
			}
		}
	}
}

func touch(model []int, span int, sizes []int, limit int64) (after []int, known bool) {
	for i, s := range model {
		if s == span {
			return append(append(append(after, model[:i]...), model[i+1:]...), span), true
		}
	}
	if int64(bufferSize(sizes[span])) > limit {
		return model, false
	}
	model = append(model, span)
	for {
		var sum int64
		for _, s := range model {
			sum += int64(bufferSize(sizes[s]))
		}
		if sum <= limit {
			return model, false
		}
		model = model[1:]
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
						if err := m.Use(layerA, span, 100, func([]byte) error { return broken }, func([]byte) { t.Error("used a broken span") }); err != broken {
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
	var fills, uses atomic.Int32
	var wg sync.WaitGroup
	fill := func([]byte) error {
		fills.Add(1)
		for range 7 {
			wg.Go(func() {
				if err := m.Use(layerA, 1, 10, nil, func([]byte) { uses.Add(1) }); err != nil {
					t.Error(err)
				}
			})
		}
		for m.Stats().Hits < 7 { // until all of them wait
			runtime.Gosched()
		}
		if m.Has(layerA, 1) {
			t.Error("Has sees a span that is being made")
		}
		return nil
	}
	must(t, m.Use(layerA, 1, 10, fill, func([]byte) { uses.Add(1) }))
	wg.Wait()
	if fills.Load() != 1 || uses.Load() != 8 {
		t.Errorf("%d fills, %d uses", fills.Load(), uses.Load())
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
				_ = m.Use(layerA, 1, 100, func(dst []byte) error {
					go func() { waiter <- m.Use(layerA, 1, 100, nil, func([]byte) { t.Error("used") }) }()
					for m.Stats().Hits < 1 { // until it waits
						runtime.Gosched()
					}
					return tt.fill(dst)
				}, func([]byte) { t.Error("used") })
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

func TestMemoryIsLetGoWhenUsePanics(t *testing.T) {
	m := NewMemory(4096)
	func() {
		defer func() { _ = recover() }()
		_ = m.Use(layerA, 1, 100, func([]byte) error { return nil }, func([]byte) { panic("in use") })
	}()
	useSpan(t, m, layerA, 2, 100)
	if m.Has(layerA, 1) || !m.Has(layerA, 2) {
		t.Error("the span is still held")
	}
}

func TestMemoryNeverWaitsForMemory(t *testing.T) {
	m := NewMemory(4096)
	var nest func(span int)
	nest = func(span int) {
		must(t, m.Use(layerA, span, 4096, func([]byte) error {
			if span > 0 {
				nest(span - 1)
			}
			return nil
		}, func([]byte) { checkMemory(t, m) }))
	}
	nest(20)
	if st := m.Stats(); st.Bytes > 4096 {
		t.Errorf("%d bytes stay", st.Bytes)
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
		if err := m.Use(layerA, 1, size, nil, nil); err == nil {
			t.Errorf("a size of %d was accepted", size)
		}
	}
	useSpan(t, m, layerA, 1, 100)
	if err := m.Use(layerA, 1, 99, nil, nil); err == nil {
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

func ExampleMemory_Use() {
	m := NewMemory(1 << 20)
	for range 2 {
		err := m.Use(layerA, 0, 5,
			func(dst []byte) error { fmt.Println("decode"); copy(dst, "hello"); return nil },
			func(data []byte) { fmt.Printf("%s\n", data) })
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// decode
	// hello
	// hello
}
