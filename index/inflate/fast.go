package inflate

import "encoding/binary"

const (
	// maxMatch is the longest match (RFC 1951, section 3.2.5).
	maxMatch = 258

	// maxDistExtra is the most extra bits that a distance has (RFC 1951, section 3.2.5).
	maxDistExtra = 13

	// A round of the fast loop loads no byte that is fastIn or more beyond the first it has not taken, and gives at
	// most fastOut bytes.
	fastIn  = 32
	fastOut = 2 + maxMatch

	wordSize = 8

	// matchWords is how many bytes the fast loop copies for a match, whatever its length. Few matches are longer.
	matchWords = 5 * wordSize
)

// A word is what is copied at once. (The compiler turns an assignment of such arrays into a load and a store; with
// functions like binary.LittleEndian.Uint64 it puts no-ops in between, for tracebacks.)
type word = [wordSize]byte

// fast decodes symbols of a block, one round at least, until the input or the output passes its limit. There have to
// be fastIn bytes in buf from the first limit on, and room for fastOut bytes from the second. It is the loop in which
// all the time goes: it looks at its limits once a round, and no access in it needs a check, as their indexes are
// masked.
//
// The bit buffer holds the next bits of the input, the first one lowest; see refill. A round takes at most two
// literals (11 bits each), a length (15+5) and a look at the distance's code (8), which is 50; then the distance
// (15+13) and a look at the next symbol's code (11), before which it may have to refill.
//
// What decides the speed is how soon the processor knows the next symbol's entry: from one to the next lead a shift, a
// mask and a load, and nothing else should come between. So the next entry is loaded as soon as there are bits for it,
// before the refill, which changes none of them, and before the match is copied. What is rare is left to others, so
// that the loop's variables stay in registers.
func (d *decoder) fast(inLimit, outLimit uint) outcome {
	buf, at, count := refill(&d.buf, 0, d.bit>>3, 0)
	buf >>= d.bit & 7
	count -= uint64(d.bit & 7)
	out := d.wr
	result := limit

	e := d.lit[buf&litMask]
	for at < inLimit && out < outLimit {
		saved := buf
		buf >>= e & 63
		count -= uint64(e)
		if e >= literal {
			d.out[out&outMask] = byte(e >> 16)
			out++
			e = d.lit[buf&litMask]
			saved = buf
			buf >>= e & 63
			count -= uint64(e)
			if e >= literal {
				d.out[out&outMask] = byte(e >> 16)
				out++
				e = d.lit[buf&litMask]
				saved = buf
				buf >>= e & 63
				count -= uint64(e)
				if e >= literal {
					d.out[out&outMask] = byte(e >> 16)
					out++
					e = d.lit[buf&litMask]
					buf, at, count = refill(&d.buf, buf, at, count)
					continue
				}
			}
		}
		if e&special != 0 {
			if e&subtable == 0 {
				result = exceptional(e)
				break
			}
			e = d.lit[(uint64(e>>16)+buf&(1<<(e>>8&15)-1))&(litSize-1)]
			saved = buf
			buf >>= e & 63
			count -= uint64(e)
			if e >= literal {
				d.out[out&outMask] = byte(e >> 16)
				out++
				e = d.lit[buf&litMask]
				buf, at, count = refill(&d.buf, buf, at, count)
				continue
			}
			if e&special != 0 {
				result = exceptional(e)
				break
			}
		}
		length := value(e, saved, buf)

		e = d.dist[buf&distMask]
		if e&special != 0 {
			if e&subtable == 0 {
				result = badCode
				break
			}
			if uint8(count) < maxCode+maxDistExtra+litBits {
				buf, at, count = refill(&d.buf, buf, at, count)
			}
			// Only a complete code has subtables, and their entries are all distances.
			buf >>= distBits
			count -= distBits
			e = d.dist[(uint64(e>>16)+buf&(1<<(e>>8&15)-1))&(distSize-1)]
		} else if uint8(count) < distBits+maxDistExtra+litBits {
			buf, at, count = refill(&d.buf, buf, at, count)
		}
		saved = buf
		buf >>= e & 63
		count -= uint64(e)
		dist := value(e, saved, buf)

		e = d.lit[buf&litMask]
		buf, at, count = refill(&d.buf, buf, at, count)

		if dist < wordSize || length > matchWords || dist > out-d.near {
			if !d.match(out, dist, length) {
				result = tooFar
				break
			}
		} else {
			to, from := out&outMask, (out-dist)&outMask
			dst, src := d.out[to:to+matchWords], d.out[from:from+matchWords]
			*(*word)(dst) = *(*word)(src)
			*(*word)(dst[8:]) = *(*word)(src[8:])
			*(*word)(dst[16:]) = *(*word)(src[16:])
			*(*word)(dst[24:]) = *(*word)(src[24:])
			*(*word)(dst[32:]) = *(*word)(src[32:])
		}
		out += length
	}
	d.bit = at<<3 - uint(uint8(count))
	d.wr = out
	return result
}

// refill loads 8 bytes above the bits that buf holds. The low 8 bits of count say how many those are; what is above
// is left over from subtracting whole entries. It counts only the whole bytes that fit, and comes to 56 bits or more
// without a branch. Bits beyond the count are right as well, and loading them again changes nothing.
func refill(in *[inSize + inPad]byte, buf uint64, at uint, count uint64) (uint64, uint, uint64) {
	buf |= load64(in, at) << (count & 63)
	at += 7 - uint(count>>3&7)
	count |= 56
	return buf, at, count
}

// value returns what the symbol of an entry stands for: its base, and its extra bits. They come after its code in
// saved, which after both is buf.
func value(e entry, saved, buf uint64) uint {
	return uint(e>>16) + uint((saved^buf<<(e&63))>>(e>>8&63))
}

// exceptional says what an entry that is neither a symbol nor a subtable stands for.
func exceptional(e entry) outcome {
	if e&endOfBlock != 0 {
		return blockEnd
	}
	return badCode
}

var le = binary.LittleEndian

// match gives a match of any kind at out[wr], if it begins where there is something. It may change bytes behind it.
func (d *decoder) match(wr, dist, length uint) (ok bool) {
	if dist > wr-d.near && !d.reaches(wr, dist, length) {
		return false
	}
	end := wr + length
	switch {
	case dist >= wordSize: // no word overlaps the one it is copied to
		for ; wr < end; wr += 2 * wordSize {
			d.store64(wr, d.load64(wr-dist))
			d.store64(wr+wordSize, d.load64(wr+wordSize-dist))
		}
	case dist == 1:
		run := uint64(d.out[(wr-1)&outMask]) * 0x0101010101010101
		for ; wr < end; wr += 2 * wordSize {
			d.store64(wr, run)
			d.store64(wr+wordSize, run)
		}
	default: // of each word, the first dist bytes are right
		for from := wr - dist; wr < end; from += dist {
			d.store64(wr, d.load64(from))
			wr += dist
		}
	}
	return true
}

// store64 stores 8 bytes of the output from i on.
func (d *decoder) store64(i uint, v uint64) {
	i &= outMask
	le.PutUint64(d.out[i:i+8], v)
}

// load64 loads 8 bytes of the output from i on.
func (d *decoder) load64(i uint) uint64 {
	i &= outMask
	return le.Uint64(d.out[i : i+8])
}
