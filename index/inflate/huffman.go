package inflate

import "math/bits"

// An entry of a decoding table says all there is to know about the symbol whose code the next bits begin with.
//
//	bits 0-7    bits to consume: the code and the extra bits that follow it
//	bits 8-11   length of the code alone; the two bits above are 0 in a symbol, so that 6 bits can be a shift's count
//	bit  13     the end of the block
//	bit  14     no symbol yet: the code goes on in a subtable
//	bit  15     not an ordinary symbol: a bit above is set, or else no code begins with these bits
//	bits 16-30  what the symbol stands for: a byte, or the base of a length or distance
//	bit  31     a literal byte
//
// For a subtable, bits 0-7 are the bits that the main table has used up, bits 8-11 the number of bits that index the
// subtable, and bits 16-30 where it begins. Its entries count code bits from there.
type entry = uint32

const (
	endOfBlock = 1 << 13
	subtable   = 1 << 14
	special    = 1 << 15
	literal    = 1 << 31

	invalid = special | 1
)

// maxCode is the longest code DEFLATE has, in bits (RFC 1951, section 3.2.7).
const maxCode = 15

// A code is a Huffman code: how many symbols have a code of each length, and the symbols in the order of their codes.
type code struct {
	count   [maxCode + 1]uint
	sorted  [maxLitCodes]uint16
	symbols []uint16 // those of sorted that have a code; the others stand before them
	max     uint     // longest code
}

// init takes the code that the lengths define (RFC 1951, section 3.2.2). It reports whether they define one, and
// whether it is complete, that is, whether every row of bits begins with a code.
func (c *code) init(lengths []uint8) (ok, complete bool) {
	c.count = [maxCode + 1]uint{}
	for _, n := range lengths {
		c.count[n&maxCode]++
	}
	c.symbols = c.sorted[c.count[0]:len(lengths)]
	c.max = 0
	var first [maxCode + 2]uint
	left := 1 // codes of this length that do not begin with a shorter one
	for n, count := range c.count {
		first[n+1] = first[n] + count
		if n == 0 {
			continue
		}
		if count > 0 {
			c.max = uint(n)
		}
		if left = left<<1 - int(count); left < 0 {
			return false, false
		}
	}
	for symbol, n := range lengths {
		c.sorted[first[n&maxCode]] = uint16(symbol)
		first[n&maxCode]++
	}
	return true, left == 0
}

// build fills a table that is indexed by the next tableBits bits. The meaning of each symbol is an entry without the
// length of its code. The code is complete, or has one code of one bit, or none at all; bits that begin no code lead
// to invalid entries.
func (c *code) build(table []entry, tableBits uint, meaning []entry) {
	if len(c.symbols) <= 1 && c.max <= 1 {
		c.buildSingle(table[:1<<tableBits], meaning)
		return
	}
	next, word := c.buildMain(table, tableBits, meaning)
	if next < uint(len(c.symbols)) {
		c.buildSubtables(table, tableBits, meaning, next, word)
	}
}

// buildSingle fills a table for a code of one symbol, whose code is a zero bit, or none.
func (c *code) buildSingle(table []entry, meaning []entry) {
	for i := range table {
		table[i] = invalid
	}
	if len(c.symbols) == 0 {
		return
	}
	for i := 0; i < len(table); i += 2 {
		table[i] = with(meaning[c.symbols[0]], 1)
	}
}

// buildMain fills the main table with the codes that fit in it. The table is made for codes of one bit, and doubled
// for each bit more. It returns the number of codes done and the word of the next one.
func (c *code) buildMain(table []entry, tableBits uint, meaning []entry) (next, word uint) {
	for n := uint(1); n <= tableBits; n++ {
		size := uint(1) << n
		if n > 1 {
			copy(table[size>>1:size], table[:size>>1])
		}
		for range c.count[n] {
			table[word] = with(meaning[c.symbols[next]], n)
			next++
			word = successor(word, n)
		}
	}
	return next, word
}

// buildSubtables fills the subtables, one for each row of tableBits bits that longer codes begin with, behind the
// main table.
func (c *code) buildSubtables(table []entry, tableBits uint, meaning []entry, next, word uint) {
	n := tableBits + 1
	left := c.count[n] // codes of n bits still to come
	end := uint(1) << tableBits
	start, prefix := end, end // no prefix yet
	for ; next < uint(len(c.symbols)); next++ {
		for left == 0 {
			n++
			left = c.count[n]
		}
		if p := word & (1<<tableBits - 1); p != prefix {
			prefix, start = p, end
			size := c.subtableBits(n, left, tableBits)
			end = start + 1<<size
			table[prefix] = uint32(start)<<16 | special | subtable | uint32(size)<<8 | uint32(tableBits)
		}
		e := with(meaning[c.symbols[next]], n-tableBits)
		for i := start + word>>tableBits; i < end; i += 1 << (n - tableBits) {
			table[i] = e
		}
		word = successor(word, n)
		left--
	}
}

// subtableBits returns how many bits index the subtable whose first code has n bits, with left such codes to come: as
// many as its longest has beyond the main table.
func (c *code) subtableBits(n, left, tableBits uint) uint {
	space := left
	for space < 1<<(n-tableBits) && n < maxCode {
		n++
		space = space<<1 + c.count[n]
	}
	return n - tableBits
}

// with returns the entry of a symbol whose code has n bits.
func with(meaning entry, n uint) entry { return meaning + uint32(n<<8|n) }

// successor returns the code of n bits that follows word. Codes are numbers counted up, but packed from their most
// significant bit (RFC 1951, section 3.1.1), so this adds one to a number whose bits stand in reverse. After the last
// code, all ones, comes 0. A code's extension by zero bits is the same word, which takes the count on to longer
// codes.
func successor(word, n uint) uint {
	free := ^word & (1<<n - 1)
	if free == 0 {
		return 0
	}
	high := uint(1) << (bits.Len(free) - 1)
	return word&(high-1) | high
}
