package inflate_test

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// A writer makes DEFLATE streams bit by bit, in shapes that no compressor gives, and keeps what they decode to.
type writer struct {
	bytes []byte
	free  uint   // unused bits of the last byte
	want  []byte // what the stream decodes to
}

// bits writes the n low bits of v, the lowest first.
func (w *writer) bits(v, n uint) {
	for ; n > 0; n-- {
		if w.free == 0 {
			w.bytes = append(w.bytes, 0)
			w.free = 8
		}
		w.bytes[len(w.bytes)-1] |= byte(v&1) << (8 - w.free)
		w.free--
		v >>= 1
	}
}

// block writes the three bits that every block begins with.
func (w *writer) block(final bool, kind uint) {
	if final {
		w.bits(1, 1)
	} else {
		w.bits(0, 1)
	}
	w.bits(kind, 2)
}

// stored writes a stored block.
func (w *writer) stored(final bool, data []byte) {
	w.block(final, 0)
	w.free = 0
	w.bytes = binary.LittleEndian.AppendUint16(w.bytes, uint16(len(data)))
	w.bytes = binary.LittleEndian.AppendUint16(w.bytes, ^uint16(len(data)))
	w.bytes = append(w.bytes, data...)
	w.want = append(w.want, data...)
}

// A huffman is a code: the length and the bits of each symbol's.
type huffman struct {
	lengths []uint8
	words   []uint
}

// newHuffman returns the code that lengths define.
func newHuffman(lengths []uint8) huffman {
	h := huffman{lengths: lengths, words: make([]uint, len(lengths))}
	next := uint(0)
	for n := uint8(1); n <= 15; n++ {
		next <<= 1
		for symbol, l := range lengths {
			if l == n {
				h.words[symbol] = uint(bits.Reverse16(uint16(next)) >> (16 - n))
				next++
			}
		}
	}
	return h
}

// randomHuffman returns a complete code of up to max bits for the given symbols, two at least, of size symbols in all.
func randomHuffman(rng *rand.Rand, size int, symbols []int, maxBits uint8) huffman {
	leaves := []uint8{1, 1}
	for len(leaves) < len(symbols) {
		i := rng.IntN(len(leaves))
		if rng.IntN(2) == 0 {
			i = len(leaves) - 1 // deep trees need subtables
		}
		if leaves[i] < maxBits {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	lengths := make([]uint8, size)
	for i, symbol := range symbols {
		lengths[symbol] = leaves[i]
	}
	return newHuffman(lengths)
}

// fixedCodes are those of fixed blocks (RFC 1951, section 3.2.6).
func fixedCodes() (lit, dist huffman) {
	lengths := slices.Concat(slices.Repeat([]uint8{8}, 144), slices.Repeat([]uint8{9}, 112), slices.Repeat([]uint8{7}, 24), slices.Repeat([]uint8{8}, 8))
	return newHuffman(lengths), newHuffman(slices.Repeat([]uint8{5}, 32))
}

// symbol writes a symbol's code.
func (w *writer) symbol(h huffman, symbol int) { w.bits(h.words[symbol], uint(h.lengths[symbol])) }

// literals writes bytes as symbols.
func (w *writer) literals(lit huffman, data []byte) {
	for _, b := range data {
		w.symbol(lit, int(b))
	}
	w.want = append(w.want, data...)
}

// match writes a match of the given length symbol and distance symbol, with all the extra bits from the numbers given.
func (w *writer) match(lit, dist huffman, lengthSymbol int, lengthMore uint, distSymbol int, distMore uint) {
	base, n := lengthOf(lengthSymbol)
	lengthMore &= 1<<n - 1
	w.symbol(lit, lengthSymbol)
	w.bits(lengthMore, n)
	back, m := distOf(distSymbol)
	distMore &= 1<<m - 1
	w.symbol(dist, distSymbol)
	w.bits(distMore, m)
	for range base + lengthMore {
		w.want = append(w.want, w.want[uint(len(w.want))-back-distMore])
	}
}

// lengthOf and distOf compute what RFC 1951, section 3.2.5, lists.
func lengthOf(symbol int) (base, extra uint) {
	switch i := uint(symbol - 257); {
	case i < 8:
		return 3 + i, 0
	case i == 28:
		return 258, 0
	default:
		return 3 + (4+i%4)<<(i/4-1), i/4 - 1
	}
}

func distOf(symbol int) (base, extra uint) {
	i := uint(symbol)
	if i < 4 {
		return 1 + i, 0
	}
	return 1 + (2+i%2)<<(i/2-1), i/2 - 1
}

// lengthsCode is the code in which codes' lengths are written by codes: all 19 symbols, of 4 and 5 bits.
func lengthsCode() huffman {
	return newHuffman(slices.Concat(slices.Repeat([]uint8{4}, 13), slices.Repeat([]uint8{5}, 6)))
}

// lengthsOrder is from RFC 1951, section 3.2.7.
var lengthsOrder = []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codes writes what follows the type of a dynamic block.
func (w *writer) codes(lit, dist huffman) {
	w.bits(uint(len(lit.lengths)-257), 5)
	w.bits(uint(len(dist.lengths)-1), 5)
	w.bits(19-4, 4)
	h := lengthsCode()
	for _, symbol := range lengthsOrder {
		w.bits(uint(h.lengths[symbol]), 3)
	}
	lengths := slices.Concat(lit.lengths, dist.lengths)
	for i := 0; i < len(lengths); {
		run := 1
		for i+run < len(lengths) && lengths[i+run] == lengths[i] {
			run++
		}
		i += w.run(h, lengths[i], run, i > 0 && lengths[i-1] == lengths[i])
	}
}

// run writes some of a run of equal lengths, and returns how many.
func (w *writer) run(h huffman, length uint8, run int, again bool) int {
	switch {
	case length == 0 && run >= 11:
		run = min(run, 138)
		w.symbol(h, 18)
		w.bits(uint(run-11), 7)
	case length == 0 && run >= 3:
		w.symbol(h, 17)
		w.bits(uint(run-3), 3)
	case again && run >= 3:
		run = min(run, 6)
		w.symbol(h, 16)
		w.bits(uint(run-3), 2)
	default:
		run = 1
		w.symbol(h, int(length))
	}
	return run
}

// randomBlock writes a random block that decodes to size bytes or a few more.
func (w *writer) randomBlock(rng *rand.Rand, final bool, size int) {
	switch rng.IntN(4) {
	case 0:
		w.stored(final, randomBytes(rng, min(size, 65535)))
	case 1:
		lit, dist := fixedCodes()
		w.block(final, 1)
		w.random(rng, lit, dist, size)
	default:
		lit, dist := randomCodes(rng)
		w.block(final, 2)
		w.codes(lit, dist)
		w.random(rng, lit, dist, size)
	}
}

// randomCodes returns complete codes of random sets of symbols.
func randomCodes(rng *rand.Rand) (lit, dist huffman) {
	lits := rng.Perm(286)[:1+rng.IntN(285)]
	if !slices.Contains(lits, 256) {
		lits = append(lits, 256)
	}
	if len(lits) == 1 {
		lits = append(lits, 'a')
	}
	lit = randomHuffman(rng, 286, lits, 15)
	dist = randomHuffman(rng, 30, rng.Perm(30)[:2+rng.IntN(29)], 15)
	return lit, dist
}

// random writes random symbols, and the end of the block.
func (w *writer) random(rng *rand.Rand, lit, dist huffman, size int) {
	symbols := used(lit.lengths, 286)
	dists := used(dist.lengths, 30)
	for end := len(w.want) + size; len(w.want) < end; {
		symbol := symbols[rng.IntN(len(symbols))]
		d := dists[rng.IntN(len(dists))]
		base, extra := distOf(d)
		switch {
		case symbol < 256:
			w.literals(lit, []byte{byte(symbol)})
		case symbol > 256 && base+1<<extra-1 <= uint(len(w.want)):
			w.match(lit, dist, symbol, rng.Uint(), d, rng.Uint())
		default:
			end-- // nothing to refer to yet
		}
	}
	w.symbol(lit, 256)
}

// used returns the symbols below limit that have a code.
func used(lengths []uint8, limit int) (symbols []int) {
	for symbol, n := range lengths[:min(limit, len(lengths))] {
		if n > 0 {
			symbols = append(symbols, symbol)
		}
	}
	return symbols
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// plainHeader is a member's header without anything optional.
var plainHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

// member returns a gzip member of the stream.
func (w *writer) member() []byte { return member(plainHeader, w.bytes, w.want) }

func member(header, stream, want []byte) []byte {
	b := slices.Concat(header, stream)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(want))
	return binary.LittleEndian.AppendUint32(b, uint32(len(want)))
}

// randomFile returns a file of random members of random blocks, and what it decodes to.
func randomFile(rng *rand.Rand, blocks, size int) (file, want []byte) {
	w := &writer{}
	for range blocks {
		final := rng.IntN(8) == 0
		w.randomBlock(rng, final, rng.IntN(size))
		if final {
			file, want, w = append(file, w.member()...), append(want, w.want...), &writer{}
		}
	}
	w.randomBlock(rng, true, rng.IntN(size))
	return append(file, w.member()...), append(want, w.want...)
}
