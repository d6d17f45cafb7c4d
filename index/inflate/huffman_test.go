package inflate

import (
	"math/bits"
	"math/rand/v2"
	"testing"
)

// TestTablesFindEveryCode builds tables of random complete codes, and looks up each code with random bits behind it.
func TestTablesFindEveryCode(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		n := 2 + rng.IntN(maxLitCodes-1)
		lengths := randomLengths(rng, n)
		var c code
		if ok, complete := c.init(lengths); !ok || !complete {
			t.Fatalf("complete code of %d symbols is said to be none", n)
		}
		var d decoder
		c.build(d.lit[:], litBits, litMeaning[:])
		next := uint64(0)
		for length := uint8(1); length <= maxCode; length++ {
			next <<= 1
			for symbol, l := range lengths {
				if l != length {
					continue
				}
				word := bits.Reverse64(next) >> (64 - l)
				next++
				checkSymbol(t, &d, word|rng.Uint64()<<l, symbol, l)
			}
		}
	}
}

// checkSymbol fails unless the input's first symbol is the one given.
func checkSymbol(t *testing.T, d *decoder, input uint64, symbol int, length uint8) {
	t.Helper()
	d.bit = 0
	for i := range 8 {
		d.buf[i] = byte(input >> (8 * i))
	}
	e, value := d.symbol(d.lit[:], litBits)
	meaning := litMeaning[symbol]
	extra := uint(meaning & 0xff)
	want := uint(meaning&^literal>>16) + uint(input>>length)&(1<<extra-1)
	if d.bit != uint(length)+extra || value != want || (e^meaning)&(literal|special|endOfBlock) != 0 {
		t.Fatalf("symbol %d of %d bits: entry %#x, value %d, %d bits taken", symbol, length, e, value, d.bit)
	}
}

// randomLengths returns the lengths of a complete code of n symbols.
func randomLengths(rng *rand.Rand, n int) []uint8 {
	leaves := []uint8{1, 1}
	for len(leaves) < n {
		i := rng.IntN(len(leaves))
		if rng.IntN(3) > 0 {
			i = len(leaves) - 1
		}
		if leaves[i] < maxCode {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	rng.Shuffle(n, func(i, j int) { leaves[i], leaves[j] = leaves[j], leaves[i] })
	return leaves
}

func TestCodesThatAreNone(t *testing.T) {
	for _, test := range []struct {
		name         string
		lengths      []uint8
		ok, complete bool
	}{
		{"nothing", nil, true, false},
		{"no symbol used", []uint8{0, 0}, true, false},
		{"one bit of two", []uint8{1}, true, false},
		{"both bits", []uint8{1, 1}, true, true},
		{"three of one bit", []uint8{1, 1, 1}, false, false},
		{"a hole", []uint8{1, 3, 3}, true, false},
		{"too many long ones", []uint8{1, 2, 3, 3, 3}, false, false},
		{"15 bits", []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15}, true, true},
	} {
		var c code
		if ok, complete := c.init(test.lengths); ok != test.ok || complete != test.complete {
			t.Errorf("%s: ok %v, complete %v", test.name, ok, complete)
		}
	}
}
