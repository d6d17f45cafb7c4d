package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Device checks the device of FUSE: that it is there, and that it opens.
func (m *Machine) Device() Finding {
	const path = "/dev/fuse"
	f := Finding{Check: "device"}
	info, err := os.Stat(m.at(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.As(Missing, "there is no "+path+"; a container has to be started with --device "+path, m.AsRoot("modprobe", "fuse"))
	case err != nil:
		return f.As(Missing, err.Error(), "")
	case info.Mode()&fs.ModeCharDevice == 0:
		return f.As(Missing, path+" is not a device", m.AsRoot("sh", "-c", "rm "+path+" && mknod -m 666 "+path+" c 10 229"))
	}
	device, err := os.OpenFile(m.at(path), os.O_RDWR, 0)
	if err == nil {
		device.Close()
	}
	mode := fmt.Sprintf("%s, mode %#o", path, info.Mode().Perm())
	open := m.AsRoot("chmod", "666", path)
	switch {
	case errors.Is(err, syscall.EACCES):
		return f.As(Missing, mode+", is not for you to open", open)
	case errors.Is(err, syscall.EPERM):
		return f.As(Missing, path+" may not be opened in this container, which has to be started with --device "+path, "")
	case err != nil:
		return f.As(Missing, err.Error(), m.AsRoot("modprobe", "fuse"))
	case info.Mode().Perm()&0o006 != 0o006:
		return f.As(Warning, mode+": other users can't open it", open)
	}
	return f.As(OK, mode, "")
}

// Helper checks the program that mounts for users, fusermount3. Root does without.
func (m *Machine) Helper() Finding {
	f := Finding{Check: "fusermount3"}
	without := Missing
	if m.UID == 0 {
		without = Warning
	}
	path := m.program("fusermount3")
	if path == "" {
		return f.As(without, "there is no fusermount3, which users mount by", m.install("fuse3"))
	}
	info, err := os.Stat(m.at(path))
	switch {
	case err != nil:
		return f.As(without, err.Error(), "")
	case info.Mode()&fs.ModeSetuid == 0:
		return f.As(without, path+" is not set-user-ID", m.AsRoot("sh", "-c", "chown root "+path+" && chmod u+s "+path))
	case m.fields("/proc/self/status", ":")["NoNewPrivs"] == "1":
		return f.As(without, path+" has no effect here: this process may not gain privileges (no_new_privs)", "")
	}
	return f.As(OK, path+", set-user-ID", "")
}

// MountHelpers checks the links by which mount(8) finds the program.
func (m *Machine) MountHelpers(program string) Finding {
	f := Finding{Check: "mount.imgfs"}
	var make []string
	for _, link := range []string{"/sbin/mount.imgfs", "/sbin/mount.fuse.imgfs"} {
		if _, err := os.Stat(m.at(link)); err != nil {
			make = append(make, m.AsRoot("ln", "-sf", program, link))
		}
	}
	if len(make) > 0 {
		return f.As(Warning, "mount(8) and fstab do not find imgfs", strings.Join(make, " && "))
	}
	return f.As(OK, "mount(8) and fstab know the types imgfs and fuse.imgfs", "")
}
