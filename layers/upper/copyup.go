package upper

import (
	"sync"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// inUpper returns the inode of a node ID, which is copied up if it is not in the upper. Of a file no more than the first
// size bytes of content are copied. FS.topo is not held.
func (f *FS) inUpper(id uint64, size int64) (*inode, error) {
	i, err := f.find(id)
	if err != nil || i != nil && i.inUpper.Load() {
		return i, err
	}
	f.topo.RLock()
	n := lowerNode(id)
	if f.isLowerDir(n) {
		defer f.topo.RUnlock()
		return f.dirInUpper(id)
	}
	i, err = f.lowerInode(n)
	f.topo.RUnlock()
	if err != nil {
		return nil, err
	}
	return i, f.copyUp(i, size)
}

// dirInUpper returns the inode of a directory, which is copied up if it is not in the upper, and loaded. FS.topo is held.
func (f *FS) dirInUpper(id uint64) (*inode, error) {
	i, err := f.find(id)
	if err == nil && i == nil {
		if i, err = f.lowerDir(lowerNode(id)); err == nil && i == nil {
			err = unix.ENOENT
		}
	}
	switch {
	case err != nil:
		return nil, err
	case i.dir == nil:
		return nil, unix.ENOTDIR
	case i.isRemoved():
		return nil, unix.ENOENT
	}
	if err := f.copyUpDir(i); err != nil {
		return nil, err
	}
	return i, f.load(i)
}

// copyUpDir makes a directory in the upper, and those that it is in, without what is in them. FS.topo is held.
func (f *FS) copyUpDir(i *inode) error {
	if i.inUpper.Load() {
		return nil
	}
	at := i.names[0]
	if err := f.copyUpDir(at.dir); err != nil {
		return err
	}
	if err := f.load(at.dir); err != nil {
		return err
	}
	at.dir.mu.Lock()
	defer at.dir.mu.Unlock()
	if i.inUpper.Load() {
		return nil
	}
	parent, err := f.open(at.dir)
	if err != nil {
		return err
	}
	defer parent.release()
	temp := f.tempName()
	if err := unix.Mkdirat(f.dir.Work, temp, 0o700); err != nil {
		return err
	}
	recorded, err := f.moveUpDir(i, at.name, parent, temp)
	if err != nil {
		_ = unix.Unlinkat(f.dir.Work, temp, unix.AT_REMOVEDIR)
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.recorded = recorded
	f.begin(i)
	i.dir.loaded = true
	i.inUpper.Store(true)
	f.put(at.dir, at.name, &entry{name: at.name, kind: isDirectory, inode: i})
	return f.changed(parent)
}

// moveUpDir makes a directory in the work directory what the lower's is, and gives it its place.
func (f *FS) moveUpDir(i *inode, name string, parent *descriptor, temp string) (*Stat, error) {
	fd, err := unix.Openat(f.dir.Work, temp, unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	d := newDescriptor(fd)
	defer d.release()
	recorded, err := f.copyMeta(location{d, ""}, i.lower)
	if err != nil {
		return nil, err
	}
	return recorded, keepingTimes(parent, func() error {
		return unix.Renameat2(f.dir.Work, temp, parent.fd, name, unix.RENAME_NOREPLACE)
	})
}

// changed makes a change of a directory durable, if that is wanted of each.
func (f *FS) changed(d *descriptor) error {
	if f.sync != SyncAlways {
		return nil
	}
	return unix.Fsync(d.fd)
}

// copyUp copies a file of the lower into the upper, unless it is there. Who comes second waits for it. FS.topo is not held: other
// operations go on while content is copied.
func (f *FS) copyUp(i *inode, size int64) error {
	i.copying.Lock()
	defer i.copying.Unlock()
	if i.inUpper.Load() {
		return nil
	}
	temp := f.tempName()
	l, err := f.makeCopy(i.lower, temp)
	if err != nil {
		return err
	}
	defer l.release()
	if err := f.fillCopy(i, l, temp, size); err != nil {
		_ = unix.Unlinkat(f.dir.Work, temp, 0)
		return err
	}
	return nil
}

// makeCopy makes what is to become a copy of a lower inode in the work directory: a file, which is opened, or something else.
func (f *FS) makeCopy(n layers.Node, temp string) (location, error) {
	a := f.tree.Attr(n)
	kind := a.Mode & unix.S_IFMT
	if kind == unix.S_IFREG || f.user != nil && isDevice(kind) {
		fd, err := unix.Openat(f.dir.Work, temp, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|openFlags, 0o600)
		if err != nil {
			return location{}, err
		}
		return location{newDescriptor(fd), ""}, nil
	}
	return location{borrowed(f.dir.Work), temp}, f.makeNode(f.dir.Work, temp, Stat{Mode: kind | 0o600, Major: a.Major, Minor: a.Minor}, f.tree.Readlink(n))
}

// makeNode makes what is neither a directory nor to be opened.
func (f *FS) makeNode(dir int, name string, s Stat, target string) error {
	if s.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.Symlinkat(target, dir, name)
	}
	if s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Major == 0 && s.Minor == 0 {
		return unix.EPERM // it would be a whiteout
	}
	mode := s.Mode
	if f.user != nil && isDevice(mode) {
		mode = unix.S_IFREG | 0o600 // its type is recorded
	}
	return unix.Mknodat(dir, name, mode, int(unix.Mkdev(s.Major, s.Minor)))
}

// fillCopy makes a copy whole and gives it its names.
func (f *FS) fillCopy(i *inode, l location, temp string, size int64) error {
	if i.kind == unix.S_IFREG {
		if err := f.copyContent(i.lower, l.fd, size); err != nil {
			return err
		}
	}
	recorded, err := f.copyMeta(l, i.lower)
	if err != nil {
		return err
	}
	// An origin that can't be written costs the file its number at the next mount, and nothing else.
	_ = f.setPrivate(l, originAttr, f.origin(i.lower))
	if i.kind == unix.S_IFREG && f.sync != SyncNever && f.tree.Attr(i.lower).Size > 0 {
		if err := unix.Fsync(l.fd); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, l.name, &st, l.at()); err != nil {
		return err
	}
	if f.groups[i.lower] != nil {
		return f.nameAll(i, temp, recorded, &st)
	}
	return f.nameOne(i, temp, recorded, &st)
}

// setPrivate sets a private attribute.
func (f *FS) setPrivate(l location, attr, value string) error {
	set := unix.Lsetxattr
	if l.name == "" {
		set = unix.Setxattr
	}
	return set(l.path(), f.dir.Mode.Prefix()+attr, []byte(value), 0)
}

// nameOne gives a copy the one name that the lower's inode has, if that is still seen.
func (f *FS) nameOne(i *inode, temp string, recorded *Stat, st *unix.Stat_t) error {
	f.topo.RLock()
	defer f.topo.RUnlock()
	dir, err := f.lowerDir(f.tree.Parent(i.lower))
	if err != nil {
		return err
	}
	if dir == nil {
		return f.nameNone(i, temp, recorded, st)
	}
	if err := f.copyUpDir(dir); err != nil {
		return err
	}
	if err := f.load(dir); err != nil {
		return err
	}
	dir.mu.Lock()
	defer dir.mu.Unlock()
	name := f.tree.Name(i.lower)
	if dir.dir.names[name] != nil {
		return f.nameNone(i, temp, recorded, st)
	}
	d, err := f.open(dir)
	if err != nil {
		return err
	}
	defer d.release()
	err = keepingTimes(d, func() error {
		return unix.Renameat2(f.dir.Work, temp, d.fd, name, unix.RENAME_NOREPLACE)
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.isCopied(recorded, st, link{dir, name})
	f.put(dir, name, &entry{name: name, kind: isOther, inode: i})
	return f.changed(d)
}

// isCopied is called when a lower inode has its names in the upper. i.mu is held.
func (i *inode) isCopied(recorded *Stat, st *unix.Stat_t, names ...link) {
	i.names, i.recorded, i.backing = names, recorded, st.Ino
	i.inUpper.Store(true)
}

// nameNone takes a copy of an inode that has no name any more: it lives as long as the kernel knows it.
func (f *FS) nameNone(i *inode, temp string, recorded *Stat, st *unix.Stat_t) error {
	d, err := location{borrowed(f.dir.Work), temp}.open(unix.O_PATH)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(f.dir.Work, temp, 0); err != nil {
		d.release()
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.orphan, i.anchor = true, d
	i.isCopied(recorded, st)
	return nil
}

// nameAll gives a copy all names of its inode that are seen.
func (f *FS) nameAll(i *inode, temp string, recorded *Stat, st *unix.Stat_t) error {
	links := linksName + itoa(uint64(i.lower)+1) + "-" + f.imageName()
	if err := unix.Renameat(f.dir.Work, temp, f.dir.Work, links); err != nil {
		return err
	}
	f.topo.Lock()
	defer f.topo.Unlock()
	visible, err := f.visibleNames(i.lower)
	if err == nil && len(visible) == 0 {
		return f.nameNone(i, links, recorded, st)
	}
	if err == nil {
		err = f.linkAll(links, i.lower)
	}
	if err != nil {
		_ = unix.Unlinkat(f.dir.Work, links, 0)
		return err
	}
	var names []link
	for _, v := range visible {
		name := f.tree.Name(v.node)
		names = append(names, link{v.dir, name})
		v.dir.dir.names[name].inode = i
	}
	f.table.mu.Lock()
	f.table.byFile[st.Ino] = i
	f.table.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.isCopied(recorded, st, names...)
	return nil
}

var copyBuffers = sync.Pool{New: func() any { return new([512 << 10]byte) }}

// copyContent copies the first size bytes of a file of the lower, and its holes as holes.
func (f *FS) copyContent(n layers.Node, fd int, size int64) error {
	size = int64(min(uint64(size), f.tree.Attr(n).Size, maxSize))
	buf := copyBuffers.Get().(*[512 << 10]byte)
	defer copyBuffers.Put(buf)
	for off := int64(0); off < size; {
		begin, end := f.tree.Data(n, off)
		for off, end = begin, min(end, size); off < end; {
			part := buf[:min(int64(len(buf)), end-off)]
			if got, err := f.tree.ReadAt(n, part, off); got < len(part) {
				return err
			}
			if err := writeAll(fd, part, off); err != nil {
				return err
			}
			off += int64(len(part))
		}
	}
	return unix.Ftruncate(fd, size)
}

func writeAll(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// copyMeta gives a copy the owner, mode, attributes and time of a node. To change the owner takes away capabilities, and to
// change an ACL the mode, so they come in this order.
func (f *FS) copyMeta(l location, n layers.Node) (*Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, l.name, &st, l.at()); err != nil {
		return nil, err
	}
	a := f.tree.Attr(n)
	want := Stat{Mode: a.Mode, UID: a.UID, GID: a.GID, Major: a.Major, Minor: a.Minor}
	if f.user == nil && (st.Uid != a.UID || st.Gid != a.GID) {
		if err := unix.Fchownat(l.fd, l.name, int(a.UID), int(a.GID), l.at()); err != nil {
			return nil, err
		}
	}
	for _, x := range f.tree.Xattrs(n) {
		if err := f.copyXattr(l, a.Mode, x.Name, x.Value); err != nil {
			return nil, err
		}
	}
	if err := unix.Fstatat(l.fd, l.name, &st, l.at()); err != nil {
		return nil, err
	}
	recorded, err := f.give(l, &st, nil, want)
	if err != nil {
		return nil, err
	}
	t := unix.Timespec{Sec: a.MtimeSec, Nsec: int64(a.MtimeNsec)}
	return recorded, setTimes(l, t, t)
}

// copyXattr sets an attribute of the lower on its copy, of a mode. In a user namespace nobody may set a label, and of what is
// neither file nor directory a user can record none: the copy goes without, as it would on a file system that knows none.
func (f *FS) copyXattr(l location, mode uint32, attr, value string) error {
	name, ok := f.dir.Mode.Stored(attr)
	if !ok {
		return unix.ENOTSUP
	}
	set := unix.Lsetxattr
	if l.name == "" {
		set = unix.Setxattr
	}
	err := set(l.path(), name, []byte(value), 0)
	special := mode&unix.S_IFMT != unix.S_IFREG && !isDir(mode)
	if err == unix.EPERM && (f.dir.Mode == Namespaced && attr != capability || f.dir.Mode == Recorded && special) {
		return nil
	}
	return err
}
