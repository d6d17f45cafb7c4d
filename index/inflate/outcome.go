package inflate

// An outcome says why the decoding of symbols has stopped.
type outcome uint8

const (
	limit    outcome = iota // the block goes on
	blockEnd                // that was its last symbol
	badCode
	tooFar
	cutShort
	tooMuch
)

// reasons are what the outcomes that are errors mean.
var reasons = [...]string{
	badCode:  "bits that are not a code",
	tooFar:   "match that begins before its member",
	cutShort: truncated,
	tooMuch:  "match that goes on after the end of the span",
}
