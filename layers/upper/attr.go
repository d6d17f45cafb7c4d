package upper

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// An Attr is what stat(2) tells of an inode.
type Attr struct {
	ID                  uint64 // node ID
	Ino                 uint64 // the same in every mount of the upper, with few exceptions: see docs/semantics.md
	Size                uint64
	Blocks              uint64 // units of 512 bytes
	Atime, Mtime, Ctime unix.Timespec
	Mode                uint32 // S_IFMT | 12 bits
	Nlink               uint32
	UID, GID            uint32
	Major, Minor        uint32 // of a device
}

func isDir(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFDIR }

// GetAttr is stat(2).
func (f *FS) GetAttr(id uint64) (Attr, error) {
	i, err := f.find(id)
	if err != nil {
		return Attr{}, err
	}
	if i == nil {
		return f.lowerAttr(lowerNode(id)), nil
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	return f.attr(i)
}

// attr is what stat(2) tells of an inode. FS.topo is held.
func (f *FS) attr(i *inode) (Attr, error) {
	if i.dir != nil && i.inUpper.Load() {
		if err := f.load(i); err != nil {
			return Attr{}, err
		}
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return f.attrLocked(i)
}

// attrLocked is attr where i.mu is held too, and a directory is loaded.
func (f *FS) attrLocked(i *inode) (Attr, error) {
	if !i.inUpper.Load() {
		a := f.lowerAttr(i.lower)
		switch {
		case i.dir == nil:
			a.Nlink = i.nlink
		case i.dir.removed:
			a.Nlink = 0
		}
		return a, nil
	}
	var st unix.Stat_t
	if err := f.stat(i, &st); err != nil {
		return Attr{}, err
	}
	return f.upperAttr(i, &st), nil
}

// stat looks at an inode in the upper. FS.topo and i.mu are held.
func (f *FS) stat(i *inode, st *unix.Stat_t) error {
	l, err := f.locate(i)
	if err != nil {
		return err
	}
	defer l.release()
	return unix.Fstatat(l.fd, l.name, st, l.at())
}

// lowerAttr is what the tree tells of a node, which has no other time than the one.
func (f *FS) lowerAttr(n layers.Node) Attr {
	a := f.tree.Attr(n)
	t := unix.Timespec{Sec: a.MtimeSec, Nsec: int64(a.MtimeNsec)}
	uid, gid := f.shown(a.UID, a.GID)
	return Attr{
		ID: a.Ino, Ino: a.Ino, Size: a.Size, Blocks: a.Blocks, Atime: t, Mtime: t, Ctime: t,
		Mode: a.Mode, Nlink: a.Nlink, UID: uid, GID: gid, Major: a.Major, Minor: a.Minor,
	}
}

// upperAttr is what st, of an inode in the upper, means. i.mu is held.
func (f *FS) upperAttr(i *inode, st *unix.Stat_t) Attr {
	i.told.Store(st.Ctim.Nano())
	s := f.meant(i.recorded, st)
	a := Attr{
		ID: i.id, Ino: i.ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks), Atime: st.Atim, Mtime: st.Mtim, Ctime: st.Ctim,
		Mode: s.Mode, Nlink: uint32(st.Nlink), Major: s.Major, Minor: s.Minor,
	}
	a.UID, a.GID = f.shown(s.UID, s.GID)
	switch {
	case i.dir != nil && i.dir.removed:
		a.Nlink = 0
	case i.dir != nil && i.dir.merged:
		a.Nlink = 2 + uint32(i.dir.subdirs)
	case isDevice(s.Mode):
		a.Size, a.Blocks = 0, 0
	}
	return a
}

func isDevice(mode uint32) bool {
	return mode&unix.S_IFMT == unix.S_IFCHR || mode&unix.S_IFMT == unix.S_IFBLK
}

// meant is the owner, mode and type that a file of the upper stands for: those it has, or those recorded of it.
func (f *FS) meant(recorded *Stat, st *unix.Stat_t) Stat {
	if recorded != nil {
		return *recorded
	}
	s := Stat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
	if f.user != nil {
		s.UID, s.GID = 0, 0
	}
	return s
}

// shown is the owner that the kernel is told: the user is the root of his upper.
func (f *FS) shown(uid, gid uint32) (uint32, uint32) {
	if f.user == nil {
		return uid, gid
	}
	if uid == 0 {
		uid = f.user.uid
	}
	if gid == 0 {
		gid = f.user.gid
	}
	return uid, gid
}

// stored is the owner that is meant by one that the kernel tells: shown, the other way round.
func (f *FS) stored(uid, gid uint32) (uint32, uint32) {
	if f.user == nil {
		return uid, gid
	}
	if uid == f.user.uid {
		uid = 0
	}
	if gid == f.user.gid {
		gid = 0
	}
	return uid, gid
}

// recordedStat reads what is recorded of a file of a type; nil is nothing.
func (f *FS) recordedStat(l location, kind uint32) (*Stat, error) {
	if f.user == nil {
		return nil, nil
	}
	value, ok, err := xattrAt(l.fd, l.name, statAttr)
	if err != nil || !ok {
		return nil, err
	}
	s, err := ParseStat(value, kind)
	if err != nil {
		f.log.Warn("what is recorded of a file in the upper is ignored", "name", l.name, "error", err)
		return nil, nil
	}
	return &s, nil
}

// give makes a file have an owner and a mode: by itself, or in Recorded mode what can't be so by the attribute. have is what it
// has by itself. It returns what is recorded then.
func (f *FS) give(l location, have *unix.Stat_t, recorded *Stat, want Stat) (*Stat, error) {
	if f.user != nil {
		return f.record(l, have, recorded, want)
	}
	changed := have.Uid != want.UID || have.Gid != want.GID
	if changed {
		if err := unix.Fchownat(l.fd, l.name, int(want.UID), int(want.GID), l.at()); err != nil {
			return nil, err
		}
	}
	// To change the owner may have taken bits of the mode.
	if have.Mode&0o7777 == want.Mode&0o7777 && !(changed && want.Mode&0o6000 != 0) || want.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, nil
	}
	return nil, l.chmod(want.Mode & 0o7777)
}

// chmod changes a mode of what is no symbolic link.
func (l location) chmod(mode uint32) error {
	if l.name == "" {
		return unix.Fchmodat(unix.AT_FDCWD, l.path(), mode, 0)
	}
	return unix.Fchmodat(l.fd, l.name, mode, 0)
}

// record is give in Recorded mode. Nothing can be recorded of symbolic links: they are root's.
func (f *FS) record(l location, have *unix.Stat_t, recorded *Stat, want Stat) (*Stat, error) {
	kind := have.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return nil, nil
	}
	real := want.Mode&0o777 | 0o600
	switch kind {
	case unix.S_IFDIR:
		real |= 0o700
	case unix.S_IFIFO, unix.S_IFSOCK:
		real |= want.Mode & 0o7000 // they have no attributes: who could not write them all the same is lost
	}
	if have.Mode&0o7777 != real {
		if err := l.chmod(real); err != nil {
			return recorded, err
		}
	}
	if want.UID == 0 && want.GID == 0 && want.Mode == kind|real {
		if recorded == nil {
			return nil, nil
		}
		return nil, unix.Removexattr(l.path(), statAttr)
	}
	if recorded != nil && *recorded == want {
		return recorded, nil
	}
	err := unix.Setxattr(l.path(), statAttr, []byte(want.String()), 0)
	switch {
	case err == nil:
		return &want, nil
	case (err == unix.EPERM || err == unix.ENOTSUP) && kind != unix.S_IFREG && kind != unix.S_IFDIR:
		return nil, nil // their owner is root, too
	}
	return recorded, err
}

// originAttr is the attribute, behind the private prefix, that has the number of the lower inode that a file is a copy of, and
// of which image that is a number.
const originAttr = own + "ino"

// origin is the value of originAttr.
func (f *FS) origin(n layers.Node) string {
	return itoa(uint64(n)+1) + " " + f.imageName()
}

// imageName is a short name of the image, which takes no room in the inode.
func (f *FS) imageName() string {
	_, hex, _ := strings.Cut(f.dir.Image.String(), ":")
	return hex[:min(len(hex), 16)]
}

// parseOrigin returns the number that a value of originAttr has, if it is one of this image and of a type.
func (f *FS) parseOrigin(value string, kind uint32) (uint64, bool) {
	number, image, _ := strings.Cut(value, " ")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || image != f.imageName() || n == 0 || n > uint64(f.tree.Len()) {
		return 0, false
	}
	return n, f.tree.Attr(layers.Node(n-1)).Mode&unix.S_IFMT == kind
}
