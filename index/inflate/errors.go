package inflate

import (
	"errors"
	"fmt"
	"io"
)

// ErrCorrupt is what every [CorruptError] is, by errors.Is.
var ErrCorrupt = errors.New("corrupt gzip data")

// A CorruptError says where and why a file is not valid gzip, or a checkpoint not one of its file. Where the file ends
// too early, it is an io.ErrUnexpectedEOF too.
type CorruptError struct {
	Offset int64  // byte of the file at which the decoder stood
	Reason string // what is wrong with it
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt gzip data at byte %d: %s", e.Offset, e.Reason)
}

// Is makes errors.Is(e, ErrCorrupt) true, and errors.Is(e, io.ErrUnexpectedEOF) where it applies.
func (e *CorruptError) Is(target error) bool {
	return target == ErrCorrupt || e.Reason == truncated && target == io.ErrUnexpectedEOF
}

// truncated is the reason given wherever the data ends too early.
const truncated = "data ends too early"
