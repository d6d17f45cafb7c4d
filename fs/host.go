package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

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
	if _, err := os.Stat(h.device); err != nil {
		return -1, noDevice(dir, h.device, err)
	}
	if !h.root {
		return h.attachByHelper(dir, o)
	}
	device, err := h.attachDirectly(dir, o)
	if errors.Is(err, unix.EPERM) && h.helperPath() != "" {
		// Root of a container without CAP_SYS_ADMIN: a helper may stand in for the host (as in some CI systems).
		if device, errHelper := h.attachByHelper(dir, o); errHelper == nil {
			return device, nil
		}
	}
	return device, err
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

// helperPath finds the helper, also where PATH is none, or returns "".
func (h host) helperPath() string {
	for _, dir := range []string{"", "/usr/bin/", "/bin/"} {
		if path, err := exec.LookPath(dir + h.helper); err == nil {
			return path
		}
	}
	return ""
}

// runHelper runs the helper and returns an error with what it had to say.
func (h host) runHelper(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return &helperError{said: strings.TrimSpace(said.String()), err: err}
}

// A helperError is what the helper said as it failed. It is the errno that it named, where a caller branches on it.
type helperError struct {
	said string
	err  error // how it ended
}

func (e *helperError) Error() string {
	if e.said == "" {
		return "fusermount3: " + e.err.Error()
	}
	return e.said
}

func (e *helperError) Is(target error) bool {
	errno, ok := target.(syscall.Errno)
	return ok && strings.HasSuffix(strings.ToLower(e.said), strings.ToLower(errno.Error()))
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
