package inflate

import "encoding/binary"

var le = binary.LittleEndian

const (
	// maxMatch is the longest match (RFC 1951, section 3.2.5).
	maxMatch = 258

	// A round of the fast loop loads no byte that is fastIn or more beyond the first it has not taken, and gives at most fastOut bytes.
	fastIn  = 32
	fastOut = 2 + maxMatch
)

// fast decodes symbols of a block, one round at least, until the input or the output passes its limit. There have to be fastIn bytes in buf
// from the first limit on, and room for fastOut bytes from the second. It is the loop in which all the time goes.
//
// The bit buffer holds the next bits of the input, the first one lowest; the low 8 bits of count say how many it holds for sure. What is
// above them is left over from subtracting whole entries. A refill makes that 56 or more and has no branch: it loads 8
// bytes above the bits that are there, and counts as many whole bytes as fit. Bits beyond the count are right as well, and loading them
// again changes nothing.
//
// A round takes at most two literals (11 bits each), a length (15+5) and a look at the distance's code (8), which is 50; then the
// distance (15+13) and a look at the next symbol's code (11), before which it may have to refill. The next symbol's entry is
// loaded before the match is copied, so that the processor does both at once.
func (d *decoder) fast(inLimit, outLimit uint) outcome {
	at := d.bit >> 3
	buf := load64(&d.buf, at) >> (d.bit & 7)
	count := 56 - uint64(d.bit&7)
	at += 7
	out := d.wr
	result := limit

	e := d.lit[buf&litMask]
	for {
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
					goto next
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
				goto next
			}
			if e&special != 0 {
				result = exceptional(e)
				break
			}
		}
		{
			length := uint(e>>16) + uint((saved^buf<<(e&63))>>(e>>8&15))

			e = d.dist[buf&distMask]
			if e&special != 0 {
				if e&subtable == 0 {
					result = badCode
					break
				}
				if uint8(count) < maxCode+13+litBits {
					buf |= load64(&d.buf, at) << (count & 63)
					at += 7 - uint(count>>3&7)
					count |= 56
				}
				buf >>= distBits
				count -= distBits
				e = d.dist[(uint64(e>>16)+buf&(1<<(e>>8&15)-1))&(distSize-1)]
			} else if uint8(count) < distBits+13+litBits {
				buf |= load64(&d.buf, at) << (count & 63)
				at += 7 - uint(count>>3&7)
				count |= 56
			}
			saved = buf
			buf >>= e & 63
			count -= uint64(e)
			dist := uint(e>>16) + uint((saved^buf<<(e&63))>>(e>>8&15))
			if dist > out-d.first {
				result = tooFar
				break
			}

			buf |= load64(&d.buf, at) << (count & 63)
			at += 7 - uint(count>>3&7)
			count |= 56
			e = d.lit[buf&litMask]

			end := out + length
			from := out - dist
			switch {
			case dist >= 8:
				to, fr := out&outMask, from&outMask
				into, of := d.out[to:to+40], d.out[fr:fr+40]
				le.PutUint64(into, le.Uint64(of))
				le.PutUint64(into[8:], le.Uint64(of[8:]))
				le.PutUint64(into[16:], le.Uint64(of[16:]))
				le.PutUint64(into[24:], le.Uint64(of[24:]))
				le.PutUint64(into[32:], le.Uint64(of[32:]))
				for out += 40; out < end; out += 16 {
					d.store64(out, d.loadOut64(out-dist))
					d.store64(out+8, d.loadOut64(out-dist+8))
				}
			case dist == 1:
				v := uint64(d.out[from&outMask]) * 0x0101010101010101
				for {
					d.store64(out, v)
					d.store64(out+8, v)
					out += 16
					if out >= end {
						break
					}
				}
			default:
				for {
					d.store64(out, d.loadOut64(from))
					out += dist
					from += dist
					if out >= end {
						break
					}
				}
			}
			out = end
			if at < inLimit && out < outLimit {
				continue
			}
			break
		}
	next:
		buf |= load64(&d.buf, at) << (count & 63)
		at += 7 - uint(count>>3&7)
		count |= 56
		e = d.lit[buf&litMask]
		if at >= inLimit || out >= outLimit {
			break
		}
	}
	d.bit = at<<3 - uint(uint8(count))
	d.wr = out
	return result
}

// exceptional says what an entry that is neither a symbol nor a subtable stands for.
func exceptional(e entry) outcome {
	if e&endOfBlock != 0 {
		return blockEnd
	}
	return badCode
}

// store64 stores 8 bytes of the output from i on.
func (d *decoder) store64(i uint, v uint64) {
	i &= outMask
	binary.LittleEndian.PutUint64(d.out[i:i+8], v)
}

// loadOut64 loads 8 bytes of the output from i on.
func (d *decoder) loadOut64(i uint) uint64 {
	i &= outMask
	return binary.LittleEndian.Uint64(d.out[i : i+8])
}
