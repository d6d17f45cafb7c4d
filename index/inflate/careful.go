package inflate

// step decodes one symbol, which may give room bytes at most, 1 or more. It takes no bit that is not there and gives
// no byte too many, so it serves where the fast loop cannot go: at the end of the file, and of the bytes that are
// wanted. There are 8 bytes in buf, or all that are left.
func (d *decoder) step(room uint) outcome {
	e, length := d.symbol(d.lit[:], litBits)
	switch {
	case d.overrun():
		return cutShort
	case e >= literal:
		d.out[d.wr&outMask] = byte(e >> 16)
		d.wr++
		return limit
	case e&special != 0:
		return exceptional(e)
	}
	e, dist := d.symbol(d.dist[:], distBits)
	switch {
	case d.overrun():
		return cutShort
	case e&special != 0:
		return badCode
	case length > room:
		return tooMuch
	case !d.match(d.wr, dist, length):
		return tooFar
	}
	d.wr += length
	return limit
}

// symbol takes the next symbol and its extra bits, and returns its entry and what it stands for.
func (d *decoder) symbol(table []entry, tableBits uint) (e entry, number uint) {
	bits := d.peek()
	e = table[bits&(1<<tableBits-1)]
	if e&(literal|special|subtable) == special|subtable {
		bits >>= tableBits
		d.bit += tableBits
		e = table[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
	}
	d.bit += uint(e & 63)
	return e, value(e&^literal, bits, bits>>(e&63))
}
