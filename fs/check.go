package fs

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Check finds out what Mount would find wrong with a mountpoint, the options and this machine, without mounting: for
// callers who have a long way to go before they have a tree. It returns dir's absolute path without symlinks. Errors
// are *MountError.
func Check(dir string, o *Options) (string, error) { return thisHost().check(dir, o.withDefaults()) }

func (h host) check(dir string, o *Options) (string, error) {
	if !h.root {
		if err := h.checkUser(dir, o); err != nil {
			return "", err
		}
	}
	path, err := h.mountpoint(dir)
	if err != nil {
		return "", err
	}
	device, err := h.openDevice(dir) // the helper opens it as the user that we are
	if err != nil {
		return "", err
	}
	unix.Close(device)
	return path, nil
}

// checkUser checks what a user needs who is not root.
func (h host) checkUser(dir string, o *Options) error {
	forbidden := func(problem, fix string) error {
		return &MountError{Op: "mount", Dir: dir, Problem: problem, Fix: fix, Err: syscall.EPERM}
	}
	switch {
	case o.Suid || o.Dev:
		return forbidden("only root can mount with set-uid programs or devices", "leave out --suid and --dev, or run as root")
	case h.helperPath() == "":
		return noHelper(dir, h.helper)
	case o.AllowOther && !h.permitsOthers():
		return forbidden("users may not let others use their mounts", allowOtherFix)
	}
	return nil
}

func noHelper(dir, helper string) error {
	return &MountError{
		Op: "mount", Dir: dir, Problem: "there is no " + helper, Fix: "install fuse3", Err: exec.ErrNotFound,
	}
}

// mountpoint checks that dir can be mounted on, and returns its canonical path.
func (h host) mountpoint(dir string) (string, error) {
	fail := func(problem, fix string, err error) (string, error) {
		return "", &MountError{Op: "mount", Dir: dir, Problem: problem, Fix: fix, Err: err}
	}
	const choose = "choose a directory that you can read and write"
	path, err := canonical(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail("no such directory", "make it with mkdir -p", syscall.ENOENT)
	case errors.Is(err, os.ErrPermission):
		return fail("no permission", choose, syscall.EACCES)
	case err != nil:
		return fail("can't be reached: "+err.Error(), "", err)
	}
	// The table comes first: a look at a dead mount would fail.
	switch m, err := topmost(path); {
	case err != nil:
		return fail("is it mounted on already? "+err.Error(), "", err)
	case m != nil && ours(m):
		return fail(infoOf(m).Name+" is mounted there", "unmount it with imgfs umount", syscall.EBUSY)
	case m != nil:
		return fail("a "+m.FSType+" file system is mounted there", "choose another directory", syscall.EBUSY)
	}
	switch err := h.usable(path); {
	case errors.Is(err, syscall.ENOTDIR):
		return fail("not a directory", "choose a directory", syscall.ENOTDIR)
	case errors.Is(err, syscall.ENOTEMPTY):
		return fail("not empty", "choose an empty directory", syscall.ENOTEMPTY)
	case errors.Is(err, os.ErrPermission):
		return fail("no permission", choose, syscall.EACCES)
	case err != nil:
		return fail("can't be used: "+err.Error(), "", err)
	}
	return path, nil
}

// usable tells why a directory on which nothing is mounted can't be a mountpoint.
func (h host) usable(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err == nil {
		return syscall.ENOTEMPTY
	} else if err != io.EOF {
		return err
	}
	if h.root {
		return nil
	}
	return unix.Access(dir, unix.W_OK) // fusermount3 asks for it
}
