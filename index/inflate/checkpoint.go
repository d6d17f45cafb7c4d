package inflate

// WindowSize is how far back DEFLATE can refer, in bytes (RFC 1951, section 2).
const WindowSize = 32 << 10

// DefaultSpan is the span that Options without one ask for.
const DefaultSpan = 1 << 20

// A Checkpoint is a place in a gzip file from which decoding can start.
//
// What follows can refer to the WindowSize bytes decoded before it in the same member, but it refers to few of them: a
// tenth, on real data. Window holds the bytes from the first one that is referred to up to Out, so it may be
// shorter than WindowSize, or empty. Those of them that are referred to are in Used, as runs that are sorted and do not
// touch each other; the others are zero, and may be anything when the checkpoint is given to Decode.
type Checkpoint struct {
	In       int64  // bit offset in the file of the next bit to decode
	Out      int64  // bytes decoded before it
	Member   bool   // a member's header comes next: In is a multiple of 8, and there is no window
	Block    []byte // not nil: inside a fixed or dynamic block; these bytes hold the block's header
	BlockBit uint8  // first bit of the block's header in Block[0], 0 to 7
	Window   []byte // what is needed of the bytes decoded before Out; see Used
	Used     []Run  // the bytes of Window that are needed; Decode does not ask for it
}

// A Run is a row of bytes of a window.
type Run struct{ Off, Len int }

// Options say how often a Reader tells of checkpoints, and to whom. Nil means never.
type Options struct {
	// Span is the number of bytes, decoded or compressed, after which the next end of a block or a member becomes a
	// checkpoint. Where none comes for twice as much, the next symbol does. Zero or less means DefaultSpan.
	Span int64

	// Checkpoint is called with each checkpoint in turn, from within Read and WriteTo; the first is the start of the
	// file. It is called when it is known what of the window is used: when WindowSize bytes more have been decoded, or
	// the next checkpoint is due, or the member has ended, whichever is first. By then Read may have given the bytes
	// around it; the last call comes before Read returns io.EOF. Block, Window and Used are valid during the call only.
	// An error ends the reading.
	Checkpoint func(Checkpoint) error
}

// MaxSpan returns the most bytes that a span can have, compressed and decoded, if Options asked for the given Span.
//
// Up to one span goes by before a checkpoint is due, and then at most the longest thing that has no boundary inside:
// a member's header and trailer in the file, a stored block in the output. Inside other blocks it is two spans, and
// what one round of the decoder takes or gives beyond.
func MaxSpan(span int64) (in, out int64) {
	span = clampSpan(span)
	in = max(span+trailerSize+maxMemberHeader+maxBlockHeader, span+maxBlockHeader+maxStored, 2*span+maxBlockHeader+fastIn)
	out = max(span+maxStored, 2*span+fastOut)
	return in, out
}
