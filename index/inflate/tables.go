package inflate

import "sync"

const (
	maxLitCodes  = 288 // literal and length symbols of a fixed block; the last two never occur
	maxDistCodes = 32  // the same for distances

	// A table is indexed by so many bits at once; longer codes take a second step. These sizes are libdeflate's: they
	// leave room for nearly all symbols of real data and keep both tables in the first-level cache.
	litBits  = 11
	distBits = 8

	// Complete codes of 288 and 32 symbols of 15 bits at most need 2342 and 402 entries (as zlib's "enough" counts
	// them); powers of two let the decoder mask its indexes.
	litSize  = 4096
	distSize = 512

	litMask  = 1<<litBits - 1
	distMask = 1<<distBits - 1
)

// tables decode the symbols of a block.
type tables struct {
	lit   [litSize]entry  // literals, lengths and the end of the block
	dist  [distSize]entry // distances
	fixed bool            // these are the tables of a fixed block
}

// lengthBase and lengthExtra are the lengths of symbols 257 to 285, distBase and distExtra the distances of symbols 0
// to 29 (RFC 1951, section 3.2.5).
var (
	lengthBase = [...]uint16{
		3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
	}
	lengthExtra = [...]uint8{
		0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
	}
	distBase = [...]uint16{
		1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
	}
	distExtra = [...]uint8{
		0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
	}
)

// litMeaning, distMeaning and lengthMeaning are the entries of the symbols of the three codes, without their codes'
// lengths.
var (
	litMeaning    = makeLitMeaning()
	distMeaning   = makeDistMeaning()
	lengthMeaning = makeLengthMeaning()
)

// endSymbol ends a block (RFC 1951, section 3.2.5).
const endSymbol = 256

func makeLitMeaning() (m [maxLitCodes]entry) {
	for i := range m {
		m[i] = special
	}
	for i := range endSymbol {
		m[i] = literal | uint32(i)<<16
	}
	m[endSymbol] = special | endOfBlock
	for i, base := range lengthBase {
		m[endSymbol+1+i] = uint32(base)<<16 | uint32(lengthExtra[i])
	}
	return m
}

func makeDistMeaning() (m [maxDistCodes]entry) {
	for i := range m {
		m[i] = special
	}
	for i, base := range distBase {
		m[i] = uint32(base)<<16 | uint32(distExtra[i])
	}
	return m
}

// The last three symbols of the code for lengths are runs: of the length before, of zeros, and of more zeros (RFC 1951,
// section 3.2.7). The first of them is marked as special.
func makeLengthMeaning() (m [lengthSyms]entry) {
	for i := range m {
		m[i] = literal | uint32(i)<<16
	}
	m[16] = 3<<16 | 2 | special
	m[17] = 3<<16 | 3
	m[18] = 11<<16 | 7
	return m
}

// fixedTables returns the tables of fixed blocks (RFC 1951, section 3.2.6).
var fixedTables = sync.OnceValue(func() *tables {
	var lengths [maxLitCodes]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	t := &tables{fixed: true}
	var c code
	c.init(lengths[:])
	c.build(t.lit[:], litBits, litMeaning[:])
	var dist [maxDistCodes]uint8
	for i := range dist {
		dist[i] = 5
	}
	c.init(dist[:])
	c.build(t.dist[:], distBits, distMeaning[:])
	return t
})

// setFixed makes these the tables of a fixed block. Their codes are short, so they have no subtables.
func (t *tables) setFixed() {
	if t.fixed {
		return
	}
	f := fixedTables()
	copy(t.lit[:1<<litBits], f.lit[:])
	copy(t.dist[:1<<distBits], f.dist[:])
	t.fixed = true
}
