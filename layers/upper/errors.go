package upper

import "errors"

// ErrUnusable is what every *Error is.
var ErrUnusable = errors.New("upper directory can't be used")

// An Error says why a directory can't be an upper, and what to do about it.
type Error struct {
	Dir     string // the upper or the work directory
	Problem string // what is wrong, in full
	Fix     string // what to do; "" where nothing is known to help
	Err     error  // the cause, for callers that branch on it; nil where there is none but what Problem says
}

func (e *Error) Error() string {
	s := e.Dir + ": " + e.Problem
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}

// Unwrap returns the cause: errors.Is(err, syscall.EBUSY) tells an upper that is in use.
func (e *Error) Unwrap() error { return e.Err }

// Is makes every Error an ErrUnusable.
func (e *Error) Is(target error) bool { return target == ErrUnusable }
