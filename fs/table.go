package fs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Subtype is the file system's name behind "fuse." in the mount table.
const Subtype = "imgfs"

// fsType is the type of our mounts in the mount table.
const fsType = "fuse." + Subtype

// An Info is a mount of ours in this process's mount table, whichever process serves it: a file system of this package, or an
// overlay over one.
type Info struct {
	Dir     string // where, an absolute path without symlinks
	Name    string // Options.Name
	overlay bool
}

// ours tells whether a mount is an Info.
func ours(m *mountinfo.Info) bool {
	return m.FSType == fsType || m.FSType == overlayType && strings.HasPrefix(m.Source, overlaySource)
}

// Mounts lists the imgfs mounts of this process's mount table, in its order. It asks no server, so it works with dead
// and stuck ones. A directory that is mounted on several times is listed as often.
func Mounts() ([]Info, error) {
	table, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !ours(m), false })
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	infos := make([]Info, len(table))
	for i, m := range table {
		infos[i] = infoOf(m)
	}
	return infos, nil
}

// MountAt returns the imgfs mount on dir, and false where there is none, where another file system is on top, or where
// there is no such directory (any more).
func MountAt(dir string) (Info, bool, error) {
	dir, err := canonical(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, err
	}
	m, err := topmost(dir)
	if err != nil || m == nil || !ours(m) {
		return Info{}, false, err
	}
	return infoOf(m), true, nil
}

func infoOf(m *mountinfo.Info) Info {
	return Info{Dir: m.Mountpoint, Name: strings.TrimPrefix(m.Source, overlaySource), overlay: m.FSType == overlayType}
}

// patience is how long a server is given to show that it lives.
const patience = time.Second

// Dead reports whether the mount's server is gone, as far as the caller may know: of a mount that is another user's
// own, nobody else is told. A server that is stuck is not dead, and is given a second to answer.
func (i Info) Dead() bool {
	dead := make(chan bool, 1)
	go func() {
		err := ignoringEINTR(i.ask)
		dead <- err == unix.ENOTCONN || err == unix.ECONNABORTED || err == unix.ECONNREFUSED
	}()
	select {
	case d := <-dead:
		return d
	case <-time.After(patience):
		return false
	}
}

// ask asks the server for something that the kernel has not in its cache. An overlay answers much by itself, but not whether
// there is a name that nobody has asked for yet.
func (i Info) ask() error {
	if i.overlay {
		var s unix.Stat_t
		return unix.Lstat(fmt.Sprintf("%s/.imgfs-%x", i.Dir, rand.Uint64()), &s)
	}
	var s unix.Statfs_t
	return unix.Statfs(i.Dir, &s)
}

// mountsAt returns the mounts on a canonical path, each over the one before.
func mountsAt(dir string) ([]*mountinfo.Info, error) {
	table, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	return table, nil
}

// topmost returns the mount one gets to at a canonical path, or nil if nothing is mounted there.
func topmost(dir string) (*mountinfo.Info, error) {
	table, err := mountsAt(dir)
	if err != nil || len(table) == 0 {
		return nil, err
	}
	return table[len(table)-1], nil
}

// A superblock is the identity of a mounted file system: its device number, which no other has as long as it lives.
type superblock struct{ major, minor int }

func superblockOf(m *mountinfo.Info) superblock { return superblock{m.Major, m.Minor} }

// maxLinks is how many symlinks are followed at the end of a path: as many as the kernel follows.
const maxLinks = 40

// canonical returns a path as the mount table has it: absolute and without symlinks. It does not look at what is
// mounted on the path itself: a dead mount would give an error, and one that is stuck nothing, ever.
func canonical(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		if path, err = resolveParent(path); err != nil {
			return "", err
		}
		if m, err := topmost(path); err != nil || m != nil {
			return path, err
		}
		target, err := os.Readlink(path)
		if errors.Is(err, unix.EINVAL) { // no link
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Dir(path) + "/" + target // not joined: ".." after a link is the parent of its target
		}
		path = target
	}
	return "", &os.PathError{Op: "readlink", Path: dir, Err: unix.ELOOP}
}

// resolveParent resolves the symlinks of an absolute path, but for the last name in it.
func resolveParent(path string) (string, error) {
	parent, name := filepath.Split(strings.TrimRight(path, "/"))
	if name == "." || name == ".." {
		parent, name = path, ""
	}
	parent, err := filepath.EvalSymlinks("/" + parent)
	return filepath.Join(parent, name), err
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
