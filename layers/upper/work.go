package upper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// probe is the name in the work directory that is used to try things out.
const probe = "imgfs-probe"

// tryOut opens the place to work in and finds out what may be done there.
func (d *Dir) tryOut() (err error) {
	fail := func(what string, err error, fix string) error {
		return &Error{Dir: d.WorkPath, Problem: what + ": " + err.Error(), Fix: fix, Err: err}
	}
	if d.Work, err = subdirectory(d.workTop, workName); err != nil {
		return fail("there can't be a directory "+workName+" in it", err, "choose an empty work directory")
	}
	if err := d.removeProbe(); err != nil {
		return fail("can't be cleaned", err, "choose an empty work directory")
	}
	if d.Mode, err = d.tryXattrs(); err != nil {
		return fail("its file system, "+fileSystem(d.Work)+", has no extended attributes as an upper needs them", err,
			"choose directories on another file system")
	}
	err = unix.Mknodat(d.Work, probe, unix.S_IFCHR, 0)
	if d.DeviceWhiteouts = err == nil; d.DeviceWhiteouts {
		err = unix.Unlinkat(d.Work, probe, 0)
	} else if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL) {
		err = nil
	}
	if err != nil {
		return fail("can't be written to", err, "")
	}
	return nil
}

// removeProbe removes what a process that was killed left behind.
func (d *Dir) removeProbe() error {
	err := unix.Unlinkat(d.Work, probe, 0)
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// tryXattrs finds out which private attributes can be set.
func (d *Dir) tryXattrs() (Mode, error) {
	fd, err := unix.Openat(d.Work, probe, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	defer unix.Unlinkat(d.Work, probe, 0)
	modes := []Mode{Trusted, Namespaced}
	if os.Geteuid() != 0 {
		modes = []Mode{Recorded}
	}
	for _, m := range modes {
		if err = unix.Fsetxattr(fd, m.Prefix()+own+"probe", []byte{'y'}, 0); err == nil {
			return m, nil
		}
	}
	return 0, err
}

// fileSystem names the type of a file system, as far as it matters here.
func fileSystem(fd int) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err.Error()
	}
	names := map[int64]string{
		unix.TMPFS_MAGIC: "tmpfs", unix.NFS_SUPER_MAGIC: "nfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.FUSE_SUPER_MAGIC: "fuse",
		unix.MSDOS_SUPER_MAGIC: "vfat", unix.RAMFS_MAGIC: "ramfs", unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs",
		unix.V9FS_MAGIC: "9p",
	}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}

// subdirectory opens a directory in another one, and makes it if it is not there. The kernel leaves its own without any
// permission.
func subdirectory(dir int, name string) (int, error) {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return openToEmpty(dir, name)
}

// openToEmpty opens a directory, so that it can be read and written.
func openToEmpty(dir int, name string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if unix.Faccessat(dir, name, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS) != nil {
		fd, err := unix.Openat(dir, name, flags|unix.O_PATH, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		if err := unix.Chmod(self(fd), 0o700); err != nil {
			return -1, err
		}
	}
	return unix.Openat(dir, name, flags|unix.O_RDONLY, 0)
}

// Clean removes what is left in the place to work in. It is of no use to anybody, once what can be finished of it has been.
func (d *Dir) Clean() error {
	if err := d.clean(); err != nil {
		return &Error{Dir: d.WorkPath, Problem: "can't be cleaned: " + err.Error(), Fix: "choose an empty work directory", Err: err}
	}
	return nil
}

// clean goes on until nothing is left: to remove a directory puts what is in it beside it.
func (d *Dir) clean() error {
	for moved := 0; ; {
		names, err := namesIn(d.Work)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := d.remove(name, &moved); err != nil {
				return err
			}
		}
	}
}

// remove removes a name in the place to work in. Of a directory that has directories with something in them, these are moved
// to where it was, so that it does not matter how deep it is.
func (d *Dir) remove(name string, moved *int) error {
	if done, err := removeAt(d.Work, name); done || err != nil {
		return err
	}
	dir, err := openToEmpty(d.Work, name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := d.takeOut(dir, child, moved); err != nil {
			return err
		}
	}
	return unix.Unlinkat(d.Work, name, unix.AT_REMOVEDIR)
}

// takeOut removes a name in a directory, or moves it into the place to work in, under a name that is not there.
func (d *Dir) takeOut(dir int, name string, moved *int) error {
	if done, err := removeAt(dir, name); done || err != nil {
		return err
	}
	child, err := openToEmpty(dir, name) // to move a directory takes the permission to write it
	if err != nil {
		return err
	}
	unix.Close(child)
	for {
		*moved++
		err := unix.Renameat2(dir, name, d.Work, fmt.Sprintf("imgfs-%d", *moved), unix.RENAME_NOREPLACE)
		if err != unix.EEXIST {
			return err
		}
	}
}

// removeAt removes a name in a directory, unless it is a directory that is not empty.
func removeAt(dir int, name string) (done bool, err error) {
	if err := unix.Unlinkat(dir, name, 0); err != unix.EISDIR {
		return err == nil, err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if err == unix.ENOTEMPTY || err == unix.EEXIST {
		return false, nil
	}
	return err == nil, err
}

// namesIn lists a directory.
func namesIn(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}
