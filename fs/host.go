package fs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A host is what mounting takes: the device, the helper, and whether we need it.
type host struct {
	device  string   // of FUSE
	helper  string   // fusermount3
	configs []string // of the helper, which reads one of them: where depends on who built it
	root    bool     // may mount without the helper
}

func thisHost() host {
	return host{
		device: "/dev/fuse", helper: "fusermount3", root: os.Geteuid() == 0,
		configs: []string{"/etc/fuse.conf", "/usr/local/etc/fuse.conf"},
	}
}

// An attachment is what kind of mount it is.
type attachment struct {
	writable bool
	// serverDecides leaves it to the server who may do what: the kernel checks nothing but that it is the mounting user.
	serverDecides bool
}

var readOnlyMount attachment

// attach mounts on dir and returns the descriptor of the device on which the kernel then asks.
func (h host) attach(dir string, a *attachment, o *Options) (int, error) {
	if !h.root {
		return h.attachByHelper(dir, a, o)
	}
	device, err := h.attachDirectly(dir, a, o)
	if !errors.Is(err, unix.EPERM) {
		return device, err
	}
	// Root without CAP_SYS_ADMIN: the helper may have it. If not, the first error says more.
	if device, helperErr := h.attachByHelper(dir, a, o); helperErr == nil {
		return device, nil
	}
	return -1, err
}

// attachDirectly mounts with mount(2).
func (h host) attachDirectly(dir string, a *attachment, o *Options) (int, error) {
	device, err := h.openDevice(dir)
	if err != nil {
		return -1, err
	}
	// rootmode is checked against the mountpoint; the kernel asks for the real mode later.
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other",
		device, unix.S_IFDIR, os.Geteuid(), os.Getegid())
	flags := directFlags(o)
	if a.writable {
		flags &^= unix.MS_RDONLY
	}
	if err := unix.Mount(o.Name, dir, fsType, flags, data); err != nil {
		unix.Close(device)
		return -1, mountFailed(dir, err)
	}
	return device, nil
}

func directFlags(o *Options) uintptr {
	flags := uintptr(unix.MS_RDONLY)
	if !o.Suid {
		flags |= unix.MS_NOSUID
	}
	if !o.Dev {
		flags |= unix.MS_NODEV
	}
	if o.NoExec {
		flags |= unix.MS_NOEXEC
	}
	return flags
}

// detach unmounts whatever is on dir. A lazy detach takes it out of the way at once, and ends it when it is no
// longer in use.
func (h host) detach(dir string, lazy bool) error {
	if !h.root {
		return h.detachByHelper(dir, lazy)
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	return unix.Unmount(dir, flags)
}

// openDevice opens the device for a mount on dir.
func (h host) openDevice(dir string) (int, error) {
	device, err := unix.Open(h.device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		return device, nil
	}
	e := &MountError{
		Op: "mount", Dir: dir, Problem: h.device + " can't be opened: " + err.Error(), Err: err,
		Fix: "start a container with --device " + h.device,
	}
	switch {
	case err == unix.ENOENT || err == unix.ENODEV || err == unix.ENXIO:
		e.Problem = "there is no " + h.device
		e.Fix = "load the module with modprobe fuse; " + e.Fix
	case err == unix.EACCES && !h.root:
		e.Fix = "have root let users open it: chmod 666 " + h.device
	}
	return -1, e
}

// PermitsOthers reports whether users may mount with AllowOther on this machine.
func PermitsOthers() bool { return thisHost().permitsOthers() }

// permitsOthers reports whether the helper may let users mount with allow_other: whether a line of its configuration
// says so, as its parser reads it.
func (h host) permitsOthers() bool {
	for _, name := range h.configs {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // nor does the helper take more than a warning from it
		}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			if strings.TrimSpace(line) == "user_allow_other" {
				return true
			}
		}
	}
	return false
}

func mountFailed(dir string, err error) error {
	e := &MountError{Op: "mount", Dir: dir, Problem: "mount(2): " + err.Error(), Err: err}
	switch err {
	case unix.EPERM:
		e.Fix = "start a container with --cap-add SYS_ADMIN --device /dev/fuse, or run as a user with fuse3 installed"
	case unix.ENODEV:
		e.Fix = "load the module with modprobe fuse"
	}
	return e
}
