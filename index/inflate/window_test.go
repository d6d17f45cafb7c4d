package inflate_test

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"imgfs/index/inflate"
)

// windowOf reads a file of two spans, and returns the checkpoint between them.
func windowOf(t *testing.T, w *writer, span int64) inflate.Checkpoint {
	t.Helper()
	got, cps, err := checkpoints(bytes.NewReader(w.member()), span)
	if err != nil || !bytes.Equal(got, w.want) || len(cps) != 3 {
		t.Fatalf("%d checkpoints, wrong bytes or error: %v", len(cps), err)
	}
	if err := checkSpan(w.member(), w.want, span); err != nil {
		t.Fatal(err)
	}
	return cps[1]
}

func TestAWindowIsWhatMatchesReach(t *testing.T) {
	lit, dist := fixedCodes()
	noise := randomBytes(newRand(21), 40_000)
	for name, c := range map[string]struct {
		write func(w *writer)
		size  int
		used  []inflate.Run
	}{
		"nothing":              {func(w *writer) { w.literals(lit, noise[:100]) }, 0, nil},
		"the last byte":        {func(w *writer) { w.match(lit, dist, 285, 0, 0, 0) }, 1, []inflate.Run{{0, 1}}},
		"what there is":        {func(w *writer) { w.match(lit, dist, 259, 0, 2, 0) }, 3, []inflate.Run{{0, 3}}},
		"as far as can be":     {func(w *writer) { w.match(lit, dist, 257, 0, 29, 8191) }, 32768, []inflate.Run{{0, 3}}},
		"its first bytes":      {func(w *writer) { w.literals(lit, noise[:1]); w.match(lit, dist, 257, 0, 29, 8191) }, 32767, []inflate.Run{{0, 3}}},
		"long and far":         {func(w *writer) { w.match(lit, dist, 285, 0, 29, 0) }, 24577, []inflate.Run{{0, 258}}},
		"runs apart":           {func(w *writer) { w.match(lit, dist, 257, 0, 4, 0); w.match(lit, dist, 257, 0, 8, 0) }, 14, []inflate.Run{{0, 3}, {9, 3}}},
		"runs that touch":      {func(w *writer) { w.match(lit, dist, 257, 0, 4, 0); w.match(lit, dist, 257, 0, 4, 0) }, 5, []inflate.Run{{0, 5}}},
		"no run of a copy":     {func(w *writer) { w.match(lit, dist, 257, 0, 2, 0); w.match(lit, dist, 257, 0, 2, 0) }, 3, []inflate.Run{{0, 3}}},
		"past 32 KiB of bytes": {func(w *writer) { w.literals(lit, noise[:32768]); w.match(lit, dist, 257, 0, 29, 8191) }, 0, nil},
	} {
		for _, padding := range []int{0, 1000} { // so that both loops meet it
			w := &writer{}
			w.stored(false, noise)
			w.block(true, 1)
			c.write(w)
			w.literals(lit, noise[:padding])
			w.symbol(lit, 256)
			cp := windowOf(t, w, 39_000)
			if len(cp.Window) != c.size || !slices.Equal(cp.Used, c.used) {
				t.Errorf("%s: window of %d bytes, used %v; want %d, %v", name, len(cp.Window), cp.Used, c.size, c.used)
			}
		}
	}
}

func TestACheckpointIsToldOfWhenItsWindowIsKnown(t *testing.T) {
	const late = inflate.WindowSize + 128<<10 // and what fits in the decoder
	want := text(4 << 20)
	for name, file := range map[string][]byte{
		"one member":    gzipped(t, want, 0, stdLevel(6)),
		"short members": slices.Concat(gzipped(t, want[:1<<20], 0, stdLevel(6)), gzipped(t, want[:1000], 100, stdLevel(6)), gzipped(t, want, 0, stdLevel(6))),
	} {
		var read, told int64
		z := inflate.NewReader(bytes.NewReader(file), &inflate.Options{Span: 1 << 20, Checkpoint: func(cp inflate.Checkpoint) error {
			if told = cp.Out; read > cp.Out+late {
				t.Errorf("%s: checkpoint at %d told of after %d bytes", name, cp.Out, read)
			}
			return nil
		}})
		buf := make([]byte, 1000)
		for err := error(nil); err != io.EOF; {
			var n int
			if n, err = z.Read(buf); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			read += int64(n)
		}
		if told < 2<<20 {
			t.Errorf("%s: the last checkpoint told of is at %d", name, told)
		}
	}
}

func TestTheLastCheckpointIsToldOfHoweverShortItsSpan(t *testing.T) {
	lit, dist := fixedCodes()
	w := &writer{}
	w.stored(false, text(10_000))
	w.block(true, 1)
	w.match(lit, dist, 257, 0, 10, 0)
	w.symbol(lit, 256)
	if cp := windowOf(t, w, 10_000); cp.Out != 10_000 || len(cp.Window) != 33 {
		t.Errorf("checkpoint is %+v", cp)
	}
}
