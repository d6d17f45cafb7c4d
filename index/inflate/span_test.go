package inflate_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"

	"imgfs/index/inflate"
)

func TestImpossibleCheckpointsAreRefused(t *testing.T) {
	stored := &writer{}
	stored.stored(false, []byte("x"))
	for name, cp := range map[string]inflate.Checkpoint{
		"before the file":               {In: -1},
		"member inside a byte":          {In: 3, Member: true},
		"member with a window":          {Member: true, Window: []byte("x")},
		"member with a block":           {Member: true, Block: []byte{3}},
		"window too large":              {Window: make([]byte, inflate.WindowSize+1)},
		"block's bit past its byte":     {Block: []byte{3}, BlockBit: 8},
		"block without bytes":           {Block: []byte{}},
		"block cut short":               {Block: []byte{4}},
		"block of a type unknown":       {Block: []byte{7}},
		"block that is stored":          {Block: stored.bytes},
		"place past all files":          {In: math.MaxInt64},
		"member past all files":         {In: math.MaxInt64 &^ 7, Member: true},
		"more bytes before than can be": {In: 8, Out: math.MaxInt64},
	} {
		if _, err := decodeGuarded(100, []byte{7, 7, 7, 7}, &cp, -1); !errors.Is(err, inflate.ErrCorrupt) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestASpanMayEndBetweenAnySymbols(t *testing.T) {
	want := text(100_000)
	file := gzipped(t, want, 0, stdLevel(6))
	whole := 0
	for n := range int64(3000) {
		got, err := decodeGuarded(n, file, &inflate.Checkpoint{Member: true}, -1)
		switch {
		case err == nil && bytes.Equal(got, want[:n]):
			whole++
		case err == nil || !strings.Contains(err.Error(), "after the end of the span"):
			t.Fatalf("%d bytes: wrong bytes, or error: %v", n, err)
		}
	}
	if whole < 500 {
		t.Errorf("only %d of 3000 places were between symbols", whole)
	}
	if _, err := decodeGuarded(100_001, file, &inflate.Checkpoint{Member: true}, -1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("one byte more than the file has: error is %v", err)
	}
}

func TestSpansAreDecodedConcurrently(t *testing.T) {
	want := text(2_000_000)
	file := gzipped(t, want, 0, stdLevel(6))
	_, cps, err := checkpoints(bytes.NewReader(file), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, cp := range cps[:len(cps)-1] {
		next := cps[i+1]
		wg.Go(func() {
			for range 5 {
				got, err := decodeGuarded(next.Out-cp.Out, file[cp.In/8:(next.In+7)/8], &cp, next.In)
				if err != nil || !bytes.Equal(got, want[cp.Out:next.Out]) {
					t.Errorf("span %d: wrong bytes, or error: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	want := text(300_000)
	file := gzipped(t, want, 0, stdLevel(6))
	dst := make([]byte, len(want))
	allocs := testing.AllocsPerRun(20, func() {
		if err := inflate.Decode(dst, file, &inflate.Checkpoint{Member: true}, 8*int64(len(file))); err != nil {
			t.Fatal(err)
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations", allocs)
	}
}
