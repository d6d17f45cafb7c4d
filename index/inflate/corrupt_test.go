package inflate_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"imgfs/index/inflate"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// smallFiles are files of some hundred bytes with all kinds of blocks.
func smallFiles(t *testing.T) map[string]struct{ file, want []byte } {
	files := map[string]struct{ file, want []byte }{}
	rng := newRand(2)
	for _, name := range []string{"random 1", "random 2", "random 3"} {
		file, want := randomFile(rng, 4, 100)
		files[name] = struct{ file, want []byte }{file, want}
	}
	want := text(600)
	files["compressed"] = struct{ file, want []byte }{gzipped(t, want, 300, stdLevel(9)), want}
	return files
}

func TestATruncatedFileIsAnError(t *testing.T) {
	for name, c := range smallFiles(t) {
		for n := range c.file {
			got, cps, err := checkpoints(bytes.NewReader(c.file[:n]), 100)
			if !bytes.HasPrefix(c.want, got) {
				t.Fatalf("%s cut to %d: wrong bytes", name, n)
			}
			if end := cps[len(cps)-1].In / 8; end == int64(n) && n > 0 {
				continue // between two members
			}
			if !errors.Is(err, inflate.ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut to %d: error is %v", name, n, err)
			}
		}
	}
}

func TestATruncatedSpanIsAnError(t *testing.T) {
	for name, c := range smallFiles(t) {
		_, cps, err := checkpoints(bytes.NewReader(c.file), 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, cp := range cps[:len(cps)-1] {
			next := cps[i+1]
			want := c.want[cp.Out:next.Out]
			src := c.file[cp.In/8 : (next.In+7)/8]
			for n := range src {
				got, err := decodeGuarded(int64(len(want)), src[:n], &cp, next.In)
				if err == nil && !bytes.Equal(got, want) {
					t.Fatalf("%s, span %d cut to %d of %d bytes: wrong bytes", name, i, n, len(src))
				}
				if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s, span %d cut to %d: error is %v", name, i, n, err)
				}
			}
		}
	}
}

func TestAChangedBitIsNeverAWrongFile(t *testing.T) {
	for name, c := range smallFiles(t) {
		for i := range c.file {
			file := bytes.Clone(c.file)
			bit := i % 8
			file[i] ^= 1 << bit
			got, cps, err := checkpoints(bytes.NewReader(file), 100)
			if err == nil && !bytes.Equal(got, c.want) {
				t.Fatalf("%s, bit %d of byte %d: other bytes, and no error", name, bit, i)
			}
			if err != nil && !errors.Is(err, inflate.ErrCorrupt) {
				t.Fatalf("%s, bit %d of byte %d: error is %v", name, bit, i, err)
			}
			resumeAll(t, file, cps)
		}
	}
}

// resumeAll decodes a damaged file from each checkpoint: it may give anything, within its bounds, or an error that is
// one of ours.
func resumeAll(t *testing.T, file []byte, cps []inflate.Checkpoint) {
	t.Helper()
	for _, cp := range cps[:len(cps)-1] {
		for _, n := range []int64{1, 200, 1000} {
			if _, err := decodeGuarded(n, file[cp.In/8:], &cp, -1); err != nil && !errors.Is(err, inflate.ErrCorrupt) {
				t.Fatalf("from bit %d: %v", cp.In, err)
			}
		}
	}
}

func TestBadBlocks(t *testing.T) {
	lit, dist := fixedCodes()
	abc := make([]uint8, 257)
	abc['a'], abc['b'], abc[256] = 1, 2, 2
	two := []uint8{1, 1}
	dynamic := func(lit, dist []uint8, more func(w *writer, lit huffman)) func(w *writer) {
		return func(w *writer) {
			l := newHuffman(lit)
			w.block(true, 2)
			w.codes(l, newHuffman(dist))
			if more != nil {
				more(w, l)
			}
		}
	}
	set := func(lengths []uint8, symbol int, n uint8) []uint8 {
		lengths = slices.Clone(lengths)
		lengths[symbol] = n
		return lengths
	}
	for _, c := range []struct {
		name, reason string
		write        func(w *writer)
	}{
		{"type 3", "block of a type that does not exist", func(w *writer) { w.block(true, 3) }},
		{"stored size", "stored block's size and its check differ", func(w *writer) {
			w.block(true, 0)
			w.bits(0, 5)
			w.bits(0x12345678, 32)
		}},
		{"287 literal codes", "block with too many codes", func(w *writer) {
			w.block(true, 2)
			w.bits(30, 5)
			w.bits(0, 9)
		}},
		{"31 distance codes", "block with too many codes", func(w *writer) {
			w.block(true, 2)
			w.bits(0, 5)
			w.bits(30, 5)
			w.bits(0, 4)
		}},
		{"code for lengths of one symbol", "block whose code for lengths is not complete", func(w *writer) {
			w.block(true, 2)
			w.bits(0, 14)
			w.bits(1, 12)
		}},
		{"repeat of nothing", "block whose first length repeats one before it", func(w *writer) {
			w.block(true, 2)
			w.bits(0, 14)
			w.bits(0o0011, 12) // 16 and 17 have a bit each
			w.bits(0, 1)
			w.bits(0, 2)
		}},
		{"repeat past the end", "block with more lengths than codes", func(w *writer) {
			w.block(true, 2)
			w.bits(0, 14)
			w.bits(0o1100, 12) // 18 and 0 have a bit each
			for range 2 {
				w.bits(1, 1)
				w.bits(127, 7)
			}
		}},
		{"no code for the end", "block without a code for its end", dynamic(set(abc, 256, 0), two, nil)},
		{"too many short codes", "block whose literal code is not one", dynamic(set(abc, 'c', 2), two, nil)},
		{"too few codes", "block whose literal code is not one", dynamic(set(abc, 'b', 3), two, nil)},
		{"too many distances", "block whose distance code is not one", dynamic(abc, []uint8{1, 1, 1}, nil)},
		{"too few distances", "block whose distance code is not one", dynamic(abc, []uint8{2, 1}, nil)},
		{"one distance of two bits", "block whose distance code is not one", dynamic(abc, []uint8{2}, nil)},
		{"the end alone, and another bit", "bits that are not a code", dynamic(set(make([]uint8, 257), 256, 1), two, func(w *writer, _ huffman) {
			w.bits(1, 1)
		})},
		{"match without distances", "bits that are not a code", dynamic(set(append(abc, 3), 256, 3), []uint8{0}, func(w *writer, lit huffman) {
			w.symbol(lit, 'a')
			w.symbol(lit, 257)
		})},
		{"literal symbol 286", "bits that are not a code", func(w *writer) {
			w.block(true, 1)
			w.symbol(lit, 286)
		}},
		{"distance symbol 30", "bits that are not a code", func(w *writer) {
			w.block(true, 1)
			w.symbol(lit, 'a')
			w.symbol(lit, 257)
			w.symbol(dist, 30)
		}},
		{"distance too far", "match that begins before its member", func(w *writer) {
			w.block(true, 1)
			w.symbol(lit, 'a')
			w.symbol(lit, 257)
			w.symbol(dist, 1)
		}},
	} {
		for _, padding := range []int{20, 2000} { // so that both loops meet it
			w := &writer{}
			c.write(w)
			file := slices.Concat(plainHeader, w.bytes, make([]byte, padding))
			_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(file), nil))
			var corrupt *inflate.CorruptError
			if !errors.As(err, &corrupt) || corrupt.Reason != c.reason {
				t.Errorf("%s: error is %v, want %q", c.name, err, c.reason)
			}
		}
	}
}

func TestIncompleteCodesThatZlibAllows(t *testing.T) {
	only := func(size, symbol int) huffman {
		lengths := make([]uint8, size)
		lengths[symbol] = 1
		return newHuffman(lengths)
	}
	ab := make([]uint8, 258)
	ab['a'], ab[256], ab[257] = 1, 2, 2
	for name, write := range map[string]func(w *writer){
		"only the end": func(w *writer) {
			end := only(257, 256)
			w.codes(end, only(1, 0))
			w.symbol(end, 256)
		},
		"no distances": func(w *writer) {
			lit := newHuffman(ab)
			w.codes(lit, newHuffman([]uint8{0}))
			w.literals(lit, []byte("aaaaaaaaaaaa"))
			w.symbol(lit, 256)
		},
		"one distance": func(w *writer) {
			lit, dist := newHuffman(ab), only(3, 2)
			w.codes(lit, dist)
			w.literals(lit, []byte("aaaa"))
			for range 100 {
				w.match(lit, dist, 257, 0, 2, 0)
			}
			w.symbol(lit, 256)
		},
	} {
		w := &writer{}
		w.block(true, 2)
		write(w)
		t.Log(name)
		check(t, w.member(), w.want, 1, 1000)
	}
}
