package fs

import (
	"errors"
	"slices"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// A Server answers the kernel for one mount. Its methods are safe for concurrent use.
type Server struct {
	host   host
	dir    string
	fsType string
	mount  superblock
	stats  *counters
	done   chan struct{} // closed when the kernel asks no more
}

// Stats count what a Server did since the mount. What the kernel has in its caches it does not ask for.
type Stats struct {
	Reads  uint64 // read requests, at most 512 KiB each, read-ahead included
	Bytes  uint64 // bytes they were answered with
	Errors uint64 // requests that failed for a reason of ours, answered with EIO
}

// Dir is the mountpoint, as an absolute path without symlinks.
func (s *Server) Dir() string { return s.dir }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	c := s.stats
	return Stats{Reads: c.reads.Load(), Bytes: c.bytes.Load(), Errors: c.errors.Load()}
}

// Wait returns when the file system is gone: unmounted, by whomever, and no longer in use by anyone, or its
// connection aborted (the mount is then in the table still, as a dead one, for Unmount to clear).
func (s *Server) Wait() { <-s.done }

// Unmount takes the mount out of the mount table. If it is in use, or another file system is mounted over it, it
// stays, and the error is syscall.EBUSY. One that is gone already is no error, whatever is in its place. Another mount
// namespace may have a copy that lives on: Wait tells when all are gone.
func (s *Server) Unmount() error { return s.unmount(false) }

// Detach is Unmount for a mount that is in use: nobody finds it any more, and it ends with its last user.
func (s *Server) Detach() error { return s.unmount(true) }

func (s *Server) unmount(lazy bool) error {
	stack, err := mountsAt(s.dir)
	if err != nil {
		return unmountFailed(s.dir, err)
	}
	if !slices.ContainsFunc(stack, s.owns) {
		return nil
	}
	top := stack[len(stack)-1]
	if !s.owns(top) {
		return &MountError{
			Op: "unmount", Dir: s.dir, Problem: "a " + top.FSType + " file system is mounted over it",
			Fix: "unmount that first", Err: syscall.EBUSY,
		}
	}
	select {
	case <-s.done:
		// Our device number may be another's by now: what is there is ours only if it is dead. To ask is safe: we
		// have nothing to answer any more.
		if !infoOf(top).Dead() {
			return nil
		}
		lazy = true
	default:
	}
	return unmountFailed(s.dir, s.host.detach(s.dir, lazy))
}

// owns reports whether a mount is of the file system that s serves.
func (s *Server) owns(m *mountinfo.Info) bool {
	return m.FSType == s.fsType && superblockOf(m) == s.mount
}

// Unmount unmounts the imgfs mount at dir, whichever process serves it. If it is in use it stays, and the error is
// syscall.EBUSY, unless lazy asks to detach it at once and end it with its last user. A mount whose server is gone
// is of no use to anyone, and is cleared even so. Errors are *MountError.
//
// Root may unmount all mounts, a user his own.
func Unmount(dir string, lazy bool) error {
	m, ok, err := MountAt(dir)
	if err == nil && !ok {
		err = errNotMounted
	}
	if err != nil {
		return unmountFailed(dir, err)
	}
	h := thisHost()
	err = h.detach(m.Dir, lazy)
	if errors.Is(err, syscall.EBUSY) && !lazy && m.Dead() {
		err = h.detach(m.Dir, true)
	}
	return unmountFailed(dir, err)
}

var errNotMounted = errors.New("no imgfs image is mounted there")

// unmountFailed makes err, if it is one, a *MountError.
func unmountFailed(dir string, err error) error {
	if err == nil {
		return nil
	}
	e := &MountError{Op: "unmount", Dir: dir, Problem: err.Error(), Err: err}
	if errors.Is(err, syscall.EBUSY) {
		e.Problem, e.Fix = "in use", "unmount what is mounted inside (findmnt -R "+dir+"), end who works in it (fuser -vm "+dir+"), or detach it with --lazy"
	}
	return e
}
