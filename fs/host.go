package fs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A host is what mounting takes: the device, the helper, and whether we need it.
type host struct {
	device string // of FUSE
	helper string // fusermount3
	root   bool   // may mount without the helper
}

func thisHost() host {
	return host{device: "/dev/fuse", helper: "fusermount3", root: os.Geteuid() == 0}
}

// attach mounts on dir and returns the descriptor of the device on which the kernel then asks.
func (h host) attach(dir string, o *Options) (int, error) {
	if !h.root {
		return h.attachByHelper(dir, o)
	}
	device, err := h.attachDirectly(dir, o)
	if !errors.Is(err, unix.EPERM) {
		return device, err
	}
	// Root without CAP_SYS_ADMIN: the helper may have it. If not, the first error says more.
	if device, helperErr := h.attachByHelper(dir, o); helperErr == nil {
		return device, nil
	}
	return -1, err
}

// attachDirectly mounts with mount(2).
func (h host) attachDirectly(dir string, o *Options) (int, error) {
	device, err := unix.Open(h.device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, noDevice(dir, h.device, err)
	}
	// rootmode is checked against the mountpoint; the kernel asks for the real mode later.
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,allow_other",
		device, unix.S_IFDIR, os.Geteuid(), os.Getegid())
	if err := unix.Mount(o.Name, dir, fsType, directFlags(o), data); err != nil {
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

func noDevice(dir, device string, err error) error {
	e := &MountError{Op: "mount", Dir: dir, Err: err}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		e.Problem = "there is no " + device
		e.Fix = "load the module with modprobe fuse; start a container with --device " + device
	} else {
		e.Problem = device + " can't be opened: " + err.Error()
		e.Fix = "start a container with --device " + device
	}
	return e
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
