package inflate

import "math/bits"

// A recording is a checkpoint that has not been told of yet: its window is being found out. Nearly nine tenths of what
// stands before a checkpoint are never referred to again, and need not be kept for it.
//
// A match refers to the window only within the WindowSize bytes that follow the checkpoint. What it copies it copies
// into the span, so that what later matches take from there needs nothing more: the bytes used are those that matches
// reach directly.
type recording struct {
	cp     Checkpoint
	active bool
	block  [maxBlockHeader]byte
	window [WindowSize]byte        // ends at the checkpoint; what there is less than this stands at its end
	used   [WindowSize / 64]uint64 // a bit for each byte of window
	runs   []Run
}

// start starts to record for a checkpoint in the middle of a member. Its block and window are copied.
func (r *recording) start(cp Checkpoint, window []byte) {
	r.active = true
	r.used = [WindowSize / 64]uint64{}
	copy(r.window[WindowSize-len(window):], window)
	if cp.Block != nil {
		cp.Block = r.block[:copy(r.block[:], cp.Block)]
	}
	r.cp = cp
}

// refer notes a match of n bytes that begins the given number of bytes before the checkpoint.
func (r *recording) refer(back, n uint) {
	n = min(n, back)
	for i := WindowSize - back; n > 0; {
		bit := i & 63
		k := min(n, 64-bit)
		r.used[i>>6] |= (1<<k - 1) << bit
		i += k
		n -= k
	}
}

// finish ends the recording, and returns the checkpoint with its window. They share r's memory.
func (r *recording) finish() Checkpoint {
	r.active = false
	r.findRuns()
	r.cp.Window, r.cp.Used = nil, r.runs
	if len(r.runs) == 0 {
		return r.cp
	}
	first, end := r.runs[0].Off, r.runs[0].Off
	for i := range r.runs {
		run := &r.runs[i]
		clear(r.window[end:run.Off])
		end = run.Off + run.Len
		run.Off -= first
	}
	clear(r.window[end:])
	r.cp.Window = r.window[first:]
	return r.cp
}

// findRuns sets runs to those of the bits in used.
func (r *recording) findRuns() {
	r.runs = r.runs[:0]
	for at := 0; ; {
		off := r.scan(at, 0)
		if off == WindowSize {
			return
		}
		at = r.scan(off, ^uint64(0))
		r.runs = append(r.runs, Run{off, at - off})
	}
}

// scan returns where the next bit is, from bit at on, that is not as those of same: WindowSize if there is none.
func (r *recording) scan(at int, same uint64) int {
	for ; at < WindowSize; at = at&^63 + 64 {
		if n := bits.TrailingZeros64((r.used[at>>6] ^ same) >> (at & 63)); n < 64 {
			return at + n
		}
	}
	return WindowSize
}
