package fs

import "errors"

// ErrMount is what every *MountError is.
var ErrMount = errors.New("mount error")

// A MountError says why a directory could not be mounted or unmounted, and what to do about it.
type MountError struct {
	Op      string // "mount" or "unmount"
	Dir     string
	Problem string // what is wrong, in full
	Fix     string // what to do; "" where nothing is known to help
	Err     error  // the cause, which Problem tells, for callers that branch on it; often a syscall.Errno
}

func (e *MountError) Error() string {
	s := e.Op + " " + e.Dir + ": " + e.Problem
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}

// Unwrap returns the cause: errors.Is(err, syscall.EBUSY) tells a mount that is in use.
func (e *MountError) Unwrap() error { return e.Err }

// Is makes every MountError an ErrMount.
func (e *MountError) Is(target error) bool { return target == ErrMount }
