package inflate

import "hash/crc32"

const (
	outSize = 128 << 10
	outMask = outSize - 1
	outPad  = 64 // so that words can be stored from any byte

	// outEnd is where the output is full. Copying stores whole words past the end of a match; they must not wrap
	// round to the front.
	outEnd = outSize - outPad
)

// A state is what a decoder expects next.
type state uint8

const (
	atMember  state = iota // a member's header, or the end of the file
	atBlock                // a block's header
	inStored               // bytes of a stored block
	inCoded                // symbols of a fixed or dynamic block
	atTrailer              // a member's trailer
)

// A decoder decodes from its input to its output. It serves a whole file and a single span alike: where it starts is
// set by reset, and where it stops by stop.
//
// Its output is an array with room behind its end, so that a match is never split; when it is full, the last
// WindowSize bytes move to its front. Input, output and tables are arrays of fixed size and all indexes are masked:
// no input, however hostile, can make it touch another byte, and the compiler need not check.
type decoder struct {
	tables
	input
	out [outSize + outPad]byte

	wr      uint  // bytes in out
	rd      uint  // of these, taken by the caller
	first   uint  // where in out the member begins; 0 if it began before out
	near    uint  // as far back as matches reach unnoticed: first, or a checkpoint whose window is being recorded
	outBase int64 // decoded bytes before out[0]
	stop    int64 // decoded bytes after which to stop

	state  state
	final  bool // the block is the member's last
	stored uint // bytes of the stored block still to come
	header headerReader

	check     bool   // members' trailers are checked
	crc       uint32 // of the member's bytes up to out[summed]
	summed    uint
	memberOut int64 // decoded bytes before the member
	ended     bool  // a member has ended
	endOffset int64 // where in the file it did

	marks *marks // nil if nobody wants checkpoints
}

// produced returns how many bytes were decoded, from the start of the file.
func (d *decoder) produced() int64 { return d.outBase + int64(d.wr) }

// window returns the bytes that the next match may refer to.
func (d *decoder) window() []byte {
	from := d.first
	if d.wr-from > WindowSize {
		from = d.wr - WindowSize
	}
	return d.out[from:d.wr]
}

// full reports whether the output is to be taken before more is decoded, or is all that is wanted.
func (d *decoder) full() bool { return d.wr > outEnd-fastOut || d.produced() >= d.stop }

// room returns how many bytes may be given.
func (d *decoder) room() uint {
	return uint(min(d.stop-d.produced(), int64(outEnd-d.wr)))
}

// more decodes until the output is full. All that was decoded before has been taken. It returns io.EOF at the end of
// the file. There may be output with any error.
func (d *decoder) more() (err error) {
	d.slide()
	for err == nil && !d.full() {
		if err = d.marks.settleIfRecorded(d); err == nil {
			err = d.advance()
		}
	}
	d.sum()
	return err
}

// slide makes room in the output.
func (d *decoder) slide() {
	if d.wr <= outEnd-fastOut {
		return
	}
	n := d.wr - WindowSize
	copy(d.out[:WindowSize], d.out[n:d.wr])
	d.outBase += int64(n)
	d.wr, d.rd, d.summed = WindowSize, WindowSize, WindowSize
	d.first -= min(n, d.first)
	d.near -= min(n, d.near)
}

// sum takes the new output into the member's CRC.
func (d *decoder) sum() {
	if d.check {
		d.crc = crc32.Update(d.crc, crc32.IEEETable, d.out[d.summed:d.wr])
		d.summed = d.wr
	}
}

// advance takes one thing from the input, or as much as there is room for.
func (d *decoder) advance() error {
	switch d.state {
	case atMember:
		return d.member()
	case atBlock:
		return d.block()
	case inStored:
		return d.copyStored()
	case inCoded:
		return d.symbols()
	default:
		return d.trailer()
	}
}

// block reads a block's header.
func (d *decoder) block() error {
	if err := d.marks.atBlock(d); err != nil {
		return err
	}
	if err := d.ensure(maxBlockHeader); err != nil {
		return err
	}
	from := d.bit
	if reason := d.readHeader(); reason != "" {
		return d.corrupt(reason)
	}
	d.marks.keepHeader(&d.input, from)
	return nil
}

// readHeader reads a block's header from the input, and sets the decoder to decode the block.
func (d *decoder) readHeader() (reason string) {
	head, reason := d.header.read(&d.input, &d.tables)
	d.final = head.final
	d.state = inCoded
	if head.stored {
		d.state, d.stored = inStored, head.size
	}
	return reason
}

// endBlock goes on to what follows a block.
func (d *decoder) endBlock() {
	d.state = atBlock
	if d.final {
		d.state = atTrailer
	}
}

// copyStored gives bytes of a stored block (RFC 1951, section 3.2.4).
func (d *decoder) copyStored() error {
	if d.stored == 0 {
		d.endBlock()
		return nil
	}
	if err := d.ensure(1); err != nil {
		return err
	}
	n := min(d.stored, d.available(), d.room())
	if n == 0 {
		return d.corrupt(truncated)
	}
	copy(d.out[d.wr:d.wr+n], d.buf[d.bit>>3:])
	d.bit += n << 3
	d.wr += n
	d.stored -= n
	return nil
}

// symbols decodes symbols of a block, as many as there is room and input for.
func (d *decoder) symbols() error {
	if err := d.marks.inBlock(d); err != nil {
		return err
	}
	if err := d.ensure(2 * fastIn); err != nil {
		return err
	}
	var result outcome
	if room := d.room(); d.available() < 2*fastIn || room < fastOut {
		result = d.step(room)
	} else {
		result = d.fast(d.limits(room))
	}
	switch result {
	case limit:
		return nil
	case blockEnd:
		d.endBlock()
		return nil
	default:
		return d.corrupt(reasons[result])
	}
}

// reaches takes notice of a match that begins at out[wr], and reports whether its distance is one that there can be.
// It is asked about those that begin before near.
func (d *decoder) reaches(wr, dist, length uint) bool {
	if dist > wr-d.first {
		return false
	}
	d.marks.recording.refer(dist-(wr-d.near), length)
	return true
}

// limits returns the limits of the fast loop: the ends of the input and of the room, or where a checkpoint is overdue.
func (d *decoder) limits(room uint) (inLimit, outLimit uint) {
	inLimit, outLimit = d.end-fastIn, d.wr+room-fastOut+1
	if d.marks != nil {
		in, out := d.marks.left(d)
		inLimit, outLimit = min(inLimit, d.bit>>3+8+in), min(outLimit, d.wr+out)
	}
	return inLimit, outLimit
}

// corrupt returns an error about the place where the decoder stands.
func (d *decoder) corrupt(reason string) error {
	return &CorruptError{Offset: min(d.offset(), d.base+int64(d.end)), Reason: reason}
}
