package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers/upper"
)

// MountUpper is Mount for a tree with an upper: everything in it can be written. In a mount of a user (upper.Recorded) he may do
// all that root may in an image, and nobody else reaches it, so Options.AllowOther is refused. Who calls it closes u when the
// Server is gone.
func MountUpper(dir string, u *upper.FS, o *Options) (*Server, error) {
	return thisHost().mountUpper(dir, u, o)
}

func (h host) mountUpper(dir string, u *upper.FS, o *Options) (*Server, error) {
	o = o.withDefaults()
	kind := &attachment{writable: true, serverDecides: u.Mode() == upper.Recorded}
	if kind.serverDecides && o.AllowOther {
		return nil, &MountError{
			Op: "mount", Dir: dir, Problem: "a user's writable mount is his alone", Fix: "leave out --allow-other", Err: syscall.EPERM,
		}
	}
	dir, err := h.check(dir, o)
	if err != nil {
		return nil, err
	}
	w := newWritable(u, o.Log)
	return h.attachAndServe(dir, kind, o, w, &w.stats, writableOptions(kind, o))
}

// writableOptions are go-fuse's for a writable mount.
func writableOptions(kind *attachment, o *Options) *fuse.MountOptions {
	f := fuseOptions(o)
	// The server takes away set-uid bits, truncates at an open, and applies umasks where there is no default ACL. There are no
	// file handles that last: a node ID is of one mount.
	f.ExtraCapabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT
	// A mount whose owners can be mapped does not tell who asks: but fallocate(2) takes set-uid bits for some.
	f.IDMappedMount, f.DisabledCapabilities = false, fuse.CAP_ALLOW_IDMAP
	f.EnableAcl = !kind.serverDecides // or else the kernel would check permissions
	return f
}
