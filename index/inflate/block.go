package inflate

const (
	maxLit     = 286 // literal and length codes a dynamic block may have (RFC 1951, section 3.2.7; 286 and 287 never occur)
	maxDist    = 30
	lengthSyms = 19 // symbols of the code that the codes' lengths are written in
	lengthBits = 7  // longest code of these

	// maxBlockHeader is the most bytes of a block's header, wherever in its first byte it begins: 7 bits of what
	// comes before it; 17 bits, the 19 lengths of 3 bits, and 316 lengths of at most 7 bits and 7 extra bits.
	maxBlockHeader = (7 + 17 + lengthSyms*3 + (maxLit+maxDist)*(lengthBits+7) + 7) / 8

	// maxStored is the most bytes of a stored block.
	maxStored = 1<<16 - 1
)

// Types of blocks (RFC 1951, section 3.2.3).
const (
	storedBlock = iota
	fixedBlock
	dynamicBlock
)

// lengthOrder is the order in which the lengths of the code for lengths are written (RFC 1951, section 3.2.7).
var lengthOrder = [lengthSyms]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// A header is what stands at the start of a block.
type header struct {
	final  bool
	stored bool
	size   uint // bytes of a stored block
}

// A headerReader reads the headers of blocks.
type headerReader struct {
	code    code
	table   [1 << lengthBits]entry
	lengths [maxLit + maxDist + 8]uint8 // with room for a word behind the last
}

// read reads a block's header (RFC 1951, sections 3.2.3, 3.2.4 and 3.2.7), which in holds whole, or else to the end
// of the file. The tables are those of the block after it. A reason why the header is not valid is returned, or "".
func (h *headerReader) read(in *input, t *tables) (head header, reason string) {
	head.final = in.take(1) == 1
	switch in.take(2) {
	case storedBlock:
		head.stored = true
		head.size, reason = readStored(in)
	case fixedBlock:
		t.setFixed()
	case dynamicBlock:
		reason = h.readDynamic(in, t)
	default:
		reason = "block of a type that does not exist"
	}
	if in.overrun() {
		reason = truncated
	}
	return head, reason
}

// readStored reads the size of a stored block, and its check.
func readStored(in *input) (size uint, reason string) {
	in.align()
	size = in.take(16)
	if in.take(16) != size^0xffff {
		reason = "stored block's size and its check differ"
	}
	return size, reason
}

// readDynamic reads the codes of a dynamic block.
func (h *headerReader) readDynamic(in *input, t *tables) (reason string) {
	t.fixed = false
	lits := in.take(5) + 257
	dists := in.take(5) + 1
	if lits > maxLit || dists > maxDist {
		return "block with too many codes"
	}
	if reason := h.readLengthCode(in, in.take(4)+4); reason != "" {
		return reason
	}
	if reason := h.readLengths(in, lits+dists); reason != "" {
		return reason
	}
	lengths := h.lengths[:lits+dists]
	if lengths[endSymbol] == 0 {
		return "block without a code for its end"
	}
	if !h.build(t.lit[:], litBits, lengths[:lits], litMeaning[:]) {
		return "block whose literal code is not one"
	}
	if !h.build(t.dist[:], distBits, lengths[lits:], distMeaning[:]) {
		return "block whose distance code is not one"
	}
	return ""
}

// readLengthCode reads the code in which the lengths of the other codes are written. It has to be complete.
func (h *headerReader) readLengthCode(in *input, n uint) (reason string) {
	var lengths [lengthSyms]uint8
	for _, symbol := range lengthOrder[:n] {
		lengths[symbol] = uint8(in.take(3))
	}
	if _, complete := h.code.init(lengths[:]); !complete {
		return incompleteLengths
	}
	h.code.build(h.table[:], lengthBits, lengthMeaning[:])
	return ""
}

// incompleteLengths is the reason for a refusal in which we follow zlib, where compress/flate is more lenient.
const incompleteLengths = "block whose code for lengths is not complete"

// readLengths reads the lengths of both codes; a run may go on from the first into the second. Runs of zeros are but
// skipped, and a run of others is written at once, with zeros behind it.
func (h *headerReader) readLengths(in *input, n uint) (reason string) {
	clear(h.lengths[:])
	buf, at, count := refill(&in.buf, 0, in.bit>>3, 0)
	buf >>= in.bit & 7
	count -= uint64(in.bit & 7)
	i := uint(0)
	for i < n {
		e := h.table[buf&(1<<lengthBits-1)]
		buf, at, count = refill(&in.buf, buf, at, count)
		saved := buf
		buf >>= e & 63
		count -= uint64(e)
		if e >= literal {
			h.lengths[i] = uint8(e >> 16)
			i++
			continue
		}
		run := value(e&^special, saved, buf)
		if e&special != 0 {
			if i == 0 {
				reason = "block whose first length repeats one before it"
				break
			}
			again := uint64(h.lengths[i-1]) * 0x0101010101010101
			le.PutUint64(h.lengths[i:], again&(1<<(8*run)-1))
		}
		i += run
	}
	in.bit = at<<3 - uint(uint8(count))
	if i > n {
		reason = "block with more lengths than codes"
	}
	return reason
}

// build builds the table of a literal or distance code, and reports whether the code is good: complete, or, as zlib
// has it, a single code of one bit, or no code at all.
func (h *headerReader) build(table []entry, tableBits uint, lengths []uint8, meaning []entry) bool {
	ok, complete := h.code.init(lengths)
	if !ok || !complete && h.code.max > 1 {
		return false
	}
	h.code.build(table, tableBits, meaning)
	return true
}
