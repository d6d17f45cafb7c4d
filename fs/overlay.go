package fs

import (
	"errors"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/layers"
	"imgfs/layers/upper"
)

// overlayType is the type of the kernel's overlayfs in the mount table, and overlaySource what the sources of ours begin with.
const (
	overlayType   = "overlay"
	overlaySource = Subtype + ":"
)

// An Overlay is what the kernel's overlayfs needs besides a tree. All of it has to be given.
type Overlay struct {
	Upper *upper.Dir
	// Volatile has overlayfs sync nothing: it is fast, and after a crash of the machine the upper may be damaged.
	Volatile bool
	// Private is a directory of the caller's own, in which the tree is mounted for a moment.
	Private string
}

// MountOverlay mounts the kernel's overlayfs at dir, an empty directory: the tree below, an upper above. The caller has to be
// root, if need be of a user namespace. Errors are as Mount's; errors.Is(err, ErrNoOverlay) tells that the kernel can't do it
// here. The Server serves the tree: it ends when the overlay does, and Unmount and Detach are about the overlay.
func MountOverlay(dir string, t *layers.Tree, u *Overlay, o *Options) (*Server, error) {
	return thisHost().mountOverlay(dir, t, u, o)
}

// ErrNoOverlay is what a *MountError is that says that the kernel refused an overlay: there is no overlayfs, the process has
// not the privilege, or the upper's file system is not one that overlayfs writes to.
var ErrNoOverlay = errors.New("overlayfs refused")

func (h host) mountOverlay(dir string, t *layers.Tree, u *Overlay, o *Options) (_ *Server, err error) {
	o = o.withDefaults()
	if dir, err = h.check(dir, o); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(u.Private, "lower-")
	if err != nil {
		return nil, &MountError{Op: "mount", Dir: dir, Problem: "no place for the lower: " + err.Error(), Err: err}
	}
	defer os.Remove(private)
	s, err := h.mount(private, t, o)
	if err != nil {
		return nil, err
	}
	// The overlay has a mount of the lower of its own, which nobody else finds. With the overlay it ends, and so does the
	// kernel's side of our connection.
	err = overlay(dir, private, u, o)
	err = errors.Join(err, s.Detach())
	if err == nil {
		err = s.becomeOverlay(dir)
	}
	if err != nil {
		s.Wait()
		return nil, err
	}
	return s, nil
}

// overlay mounts overlayfs. What could be configured to be otherwise is said: an upper has to mean the same to all that mount it.
func overlay(dir, lower string, u *Overlay, o *Options) error {
	options := []string{
		"lowerdir=" + escapeLower(lower), "upperdir=" + escapeOption(u.Upper.Path), "workdir=" + escapeOption(u.Upper.WorkPath),
		"redirect_dir=nofollow", "index=off", "metacopy=off", "xino=on",
	}
	if u.Upper.Mode != upper.Trusted {
		options = append(options, "userxattr")
	}
	if u.Volatile {
		options = append(options, "volatile")
	}
	err := withoutHandles(func() error {
		return unix.Mount(overlaySource+o.Name, dir, overlayType, directFlags(o)&^unix.MS_RDONLY, strings.Join(options, ","))
	})
	if err == nil {
		return nil
	}
	return &MountError{
		Op: "mount", Dir: dir, Problem: "overlayfs refuses it: " + err.Error() + "; the kernel's log may say why", Err: errors.Join(ErrNoOverlay, err),
		Fix: "mount with --upper-driver fuse",
	}
}

// withoutHandles runs f without the capability to find files by their handles, without which overlayfs doesn't do that. It
// would look for the lower file that one was copied from, for its inode number, but what it finds in a FUSE file system that way is
// stale to Linux 6.16 and later (fuse_get_dentry sets no d_time), and so becomes the copy.
func withoutHandles(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with what was taken from it
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		err := unix.Capget(&header, &sets[0])
		if err == nil {
			sets[0].Effective &^= 1 << unix.CAP_DAC_READ_SEARCH
			err = unix.Capset(&header, &sets[0])
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// escapeLower escapes what has a meaning in a list of lower directories.
func escapeLower(path string) string {
	return strings.ReplaceAll(escapeOption(path), ":", `\:`)
}

// becomeOverlay makes s the server of the overlay at dir.
func (s *Server) becomeOverlay(dir string) error {
	m, err := topmost(dir)
	if err == nil && (m == nil || m.FSType != overlayType) {
		err = errNotMounted // any more
	}
	if err != nil {
		return &MountError{Op: "mount", Dir: dir, Problem: err.Error(), Err: err}
	}
	s.dir, s.fsType, s.mount = dir, overlayType, superblockOf(m)
	return nil
}
