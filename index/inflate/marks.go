package inflate

// marks decide where checkpoints are, and tell of them.
type marks struct {
	span    int64
	tell    func(Checkpoint) error
	in, out int64 // the last checkpoint: bytes of the file, decoded bytes
	begun   bool  // there has been one

	block    [maxBlockHeader]byte // header of the block that is being decoded
	blockLen uint
	blockBit uint8

	recording recording // of the last checkpoint
}

// maxAsked keeps sums of spans from overflowing.
const maxAsked = 1 << 40

// newMarks returns what o asks for, or nil if it asks for nothing.
func newMarks(o *Options) *marks {
	if o == nil || o.Checkpoint == nil {
		return nil
	}
	return &marks{span: clampSpan(o.Span), tell: o.Checkpoint}
}

func clampSpan(span int64) int64 {
	if span <= 0 {
		return DefaultSpan
	}
	return min(span, maxAsked)
}

// due reports whether n spans' worth of bytes went by since the last checkpoint.
func (m *marks) due(d *decoder, n int64) bool {
	return !m.begun || d.position()>>3-m.in >= n*m.span || d.produced()-m.out >= n*m.span
}

// left returns how many bytes of the file and decoded bytes there are until a checkpoint is due inside a block: at
// least one of each.
func (m *marks) left(d *decoder) (in, out uint) {
	return uint(max(1, 2*m.span-(d.position()>>3-m.in))), uint(max(1, 2*m.span-(d.produced()-m.out)))
}

// mark makes a checkpoint of where the decoder stands. It tells of the one before, if that has not been done.
func (m *marks) mark(d *decoder, cp Checkpoint) error {
	if err := m.settle(d); err != nil {
		return err
	}
	cp.In, cp.Out = d.position(), d.produced()
	m.begun = true
	m.in, m.out = cp.In>>3, cp.Out
	if cp.Member {
		return m.tell(cp)
	}
	m.recording.start(cp, d.window())
	d.near = d.wr
	return nil
}

// settle tells of the last checkpoint, if that has not been done: nothing that follows refers to its window.
func (m *marks) settle(d *decoder) error {
	if m == nil || !m.recording.active {
		return nil
	}
	d.near = d.first
	return m.tell(m.recording.finish())
}

// settleIfRecorded settles once all bytes that can refer to the last checkpoint's window have been decoded.
func (m *marks) settleIfRecorded(d *decoder) error {
	if m == nil || d.produced()-m.out < WindowSize {
		return nil
	}
	return m.settle(d)
}

// atMember makes a checkpoint of the start of a member, if one is due.
func (m *marks) atMember(d *decoder) error {
	if m == nil || !m.due(d, 1) {
		return nil
	}
	return m.mark(d, Checkpoint{Member: true})
}

// atBlock makes a checkpoint of the start of a block, if one is due.
func (m *marks) atBlock(d *decoder) error {
	if m == nil || !m.due(d, 1) {
		return nil
	}
	return m.mark(d, Checkpoint{})
}

// keepHeader keeps the header of a block, which began at the given bit of buf and ends at the next.
func (m *marks) keepHeader(in *input, from uint) {
	if m == nil {
		return
	}
	m.blockLen = uint(copy(m.block[:], in.buf[from>>3:(in.bit+7)>>3]))
	m.blockBit = uint8(from & 7)
}

// inBlock makes a checkpoint of a place between two symbols of a block, if one is overdue.
func (m *marks) inBlock(d *decoder) error {
	if m == nil || !m.due(d, 2) {
		return nil
	}
	return m.mark(d, Checkpoint{Block: m.block[:m.blockLen], BlockBit: m.blockBit})
}
