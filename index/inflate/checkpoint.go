package inflate

// WindowSize is how far back DEFLATE can refer, in bytes (RFC 1951, section 2).
const WindowSize = 32 << 10

// DefaultSpan is the span that Options without one ask for.
const DefaultSpan = 1 << 20

// A Checkpoint is a place in a gzip file from which decoding can start.
type Checkpoint struct {
	In       int64  // bit offset in the file of the next bit to decode
	Out      int64  // bytes decoded before it
	Member   bool   // a member's header comes next: In is a multiple of 8, and there is no window
	Block    []byte // not nil: inside a fixed or dynamic block; these bytes hold the block's header
	BlockBit uint8  // first bit of the block's header in Block[0], 0 to 7
	Window   []byte // the last bytes decoded before Out in this member, WindowSize at most
}

// Options say how often a Reader tells of checkpoints, and to whom. Nil means never.
type Options struct {
	// Span is the number of bytes, decoded or compressed, after which the next end of a block or a member becomes a
	// checkpoint. Where none comes for twice as much, the next symbol does. Zero or less means DefaultSpan.
	Span int64

	// Checkpoint is called with each checkpoint in turn, from within Read and WriteTo; the first is the start of the
	// file. Block and Window are valid during the call only. Checkpoints come before the bytes around them are read.
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
