package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Subtype is the file system's name behind "fuse." in the mount table.
const Subtype = "imgfs"

// fsType is the type of our mounts in the mount table.
const fsType = "fuse." + Subtype

// An Info is a mount of ours in this process's mount table, whichever process serves it.
type Info struct {
	Dir  string // where, an absolute path without symlinks
	Name string // Options.Name
}

// Mounts lists the imgfs mounts of this process's mount table, in the order in which they were made. It asks no
// server, so it works with dead and stuck ones. A directory that is mounted over is listed once for each.
func Mounts() ([]Info, error) {
	table, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(fsType))
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	infos := make([]Info, len(table))
	for i, m := range table {
		infos[i] = infoOf(m)
	}
	return infos, nil
}

// MountAt returns the imgfs mount on dir, and false where there is none, or where another file system is on top.
func MountAt(dir string) (Info, bool, error) {
	dir, err := canonical(dir)
	if err != nil {
		return Info{}, false, err
	}
	m, err := topmost(dir)
	if err != nil || m == nil || m.FSType != fsType {
		return Info{}, false, err
	}
	return infoOf(m), true, nil
}

func infoOf(m *mountinfo.Info) Info { return Info{Dir: m.Mountpoint, Name: m.Source} }

// Dead reports whether the mount's server is gone, as far as the caller may know: of a mount that is another user's
// own, nobody else is told. It asks the server; one that is stuck does not answer, and neither does Dead.
func (i Info) Dead() bool {
	// Not stat(2): the kernel would answer it from its cache.
	var s unix.Statfs_t
	err := ignoringEINTR(func() error { return unix.Statfs(i.Dir, &s) })
	return err == unix.ENOTCONN || err == unix.ECONNABORTED || err == unix.ECONNREFUSED
}

// topmost returns the mount one gets to at a canonical path, or nil if nothing is mounted there.
func topmost(dir string) (*mountinfo.Info, error) {
	table, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	if len(table) == 0 {
		return nil, nil
	}
	return table[len(table)-1], nil
}

// canonical returns a path as the mount table has it: absolute and without symlinks. The last component may be a
// mount that does not answer: then it is no symlink, and is taken as it is.
func canonical(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		return resolved, nil
	} else if !answersNot(err) {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}

// answersNot reports whether err is what a path in a mount gives whose server is dead, or that is not for us.
func answersNot(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, os.ErrPermission)
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
