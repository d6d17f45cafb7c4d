package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A root is the directory of a cache. One that could not be made holds
// nothing, and takes nothing, for the reason why.
type root struct {
	*os.Root       // nil if why is set
	why      error // nil for a directory that is there
}

// unmade returns the root that stands for a directory that could not be made,
// because of a disk that takes nothing. It reports false for other errors.
func unmade(err error) (root, bool) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS} {
		if errors.Is(err, full) {
			return root{why: fmt.Errorf("the cache could not be made: %w", err)}, true
		}
	}
	return root{}, false
}

func absent(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Open is [os.Root.Open].
func (r root) Open(name string) (*os.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

// OpenFile is [os.Root.OpenFile].
func (r root) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	switch {
	case r.why == nil:
		return r.Root.OpenFile(name, flag, perm)
	case flag&os.O_CREATE != 0:
		return nil, r.why
	}
	return nil, absent("open", name)
}

// Remove is [os.Root.Remove].
func (r root) Remove(name string) error {
	if r.why == nil {
		return r.Root.Remove(name)
	}
	return absent("remove", name)
}

// Rename is [os.Root.Rename].
func (r root) Rename(from, to string) error {
	if r.why == nil {
		return r.Root.Rename(from, to)
	}
	return absent("rename", from)
}

// Close is [os.Root.Close].
func (r root) Close() error {
	if r.why == nil {
		return r.Root.Close()
	}
	return nil
}
