package upper

import (
	"golang.org/x/sys/unix"
)

// A Change is what is to be changed of what stat(2) tells. What is nil stays.
type Change struct {
	Mode         *uint32 // 12 bits
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *unix.Timespec // Nsec may be UTIME_NOW
	KillPriv     bool           // set-uid and set-gid bits go with a change of the size
}

// SetAttr changes what stat(2) tells of an inode, in the order of Change's fields, and returns it.
func (f *FS) SetAttr(id uint64, c *Change) (Attr, error) {
	size := int64(maxSize)
	if c.Size != nil {
		size = *c.Size
	}
	i, err := f.inUpper(id, size)
	if err != nil {
		return Attr{}, err
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	if i.dir != nil {
		if err := f.load(i); err != nil {
			return Attr{}, err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	l, err := f.locate(i)
	if err != nil {
		return Attr{}, err
	}
	defer l.release()
	if err := f.setAttr(i, l, c); err != nil {
		return Attr{}, err
	}
	return f.attrLocked(i)
}

// setAttr is SetAttr where FS.topo and i.mu are held.
func (f *FS) setAttr(i *inode, l location, c *Change) error {
	if i.dir != nil {
		i.dir.inherits.known = false
	}
	if c.Size != nil {
		if err := f.truncate(i, *c.Size); err != nil {
			return err
		}
	}
	if c.Mode != nil || c.UID != nil || c.GID != nil || c.Size != nil && c.KillPriv {
		if err := f.setOwnerAndMode(i, l, c); err != nil {
			return err
		}
	}
	if c.Atime == nil && c.Mtime == nil {
		return nil
	}
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if c.Atime != nil {
		times[0] = *c.Atime
	}
	if c.Mtime != nil {
		times[1] = *c.Mtime
	}
	return setTimes(l, times[0], times[1])
}

func (f *FS) truncate(i *inode, size int64) error {
	switch i.kind {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.EINVAL
	}
	d, err := f.holdFileLocked(i, true)
	if err != nil {
		return err
	}
	defer d.release()
	return unix.Ftruncate(d.fd, size)
}

// setOwnerAndMode changes owner and mode. A change of the owner takes the set-uid and set-gid bits of what is no directory,
// and its capabilities, as chown(2) does.
func (f *FS) setOwnerAndMode(i *inode, l location, c *Change) error {
	if f.user != nil {
		return f.recordOwnerAndMode(i, l, c)
	}
	if c.UID != nil || c.GID != nil {
		uid, gid := -1, -1
		if c.UID != nil {
			uid = int(*c.UID)
		}
		if c.GID != nil {
			gid = int(*c.GID)
		}
		if err := unix.Fchownat(l.fd, l.name, uid, gid, l.at()); err != nil {
			return err
		}
	}
	switch {
	case i.kind == unix.S_IFLNK:
		return nil
	case c.Mode != nil:
		return l.chmod(*c.Mode & 0o7777)
	case c.Size != nil && c.KillPriv:
		return f.dropPriv(i, l)
	}
	return nil
}

// recordOwnerAndMode is setOwnerAndMode in Recorded mode.
func (f *FS) recordOwnerAndMode(i *inode, l location, c *Change) error {
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, l.name, &st, l.at()); err != nil {
		return err
	}
	want := f.meant(i.recorded, &st)
	if c.UID != nil {
		want.UID, _ = f.stored(*c.UID, 0)
	}
	if c.GID != nil {
		_, want.GID = f.stored(0, *c.GID)
	}
	chowned := (c.UID != nil || c.GID != nil) && i.dir == nil
	if chowned && i.kind == unix.S_IFREG {
		name, _ := f.dir.Mode.Stored(capability)
		if err := unix.Removexattr(l.path(), name); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return err
		}
	}
	if chowned || c.Size != nil && c.KillPriv {
		want.Mode = withoutPriv(want.Mode)
	}
	if c.Mode != nil {
		want.Mode = i.kind | *c.Mode&0o7777
	}
	var err error
	i.recorded, err = f.give(l, &st, i.recorded, want)
	return err
}

// capability is the attribute that Linux takes away when a file is changed or its owner is.
const capability = "security.capability"
