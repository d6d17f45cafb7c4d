package upper

import (
	"errors"
	"golang.org/x/sys/unix"
)

// errNotYet is what changing names needs before it can hold FS.topo alone.
var errNotYet = errors.New("has to be copied up first")

// Rename is renameat2(2), with RENAME_NOREPLACE and RENAME_EXCHANGE. A directory that the lower has something in is not renamed, but
// EXDEV: a program copies it then.
func (f *FS) Rename(fromDir uint64, from string, toDir uint64, to string, flags uint32) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	if len(to) > maxName {
		return unix.ENAMETOOLONG
	}
	for {
		if err := f.copyUpName(fromDir, from); err != nil {
			return err
		}
		if flags&unix.RENAME_EXCHANGE != 0 {
			if err := f.copyUpName(toDir, to); err != nil {
				return err
			}
		}
		if err := f.rename(fromDir, from, toDir, to, flags); err != errNotYet {
			return err
		}
	}
}

// copyUpName copies up what is behind a name, if that is no directory.
func (f *FS) copyUpName(dir uint64, name string) error {
	f.topo.RLock()
	i, err := f.lowerOf(dir, name)
	f.topo.RUnlock()
	if err == unix.EISDIR {
		return nil
	}
	if err != nil || i == nil {
		return err
	}
	return f.copyUp(i, maxSize)
}

// A side is one of the two names of a rename.
type side struct {
	p     *inode
	d     *descriptor // of p
	name  string
	e     *entry // in the upper; nil where nothing is
	i     *inode // what is seen; nil where nothing is
	below bool   // the lower has this name, seen or not
}

// side looks at a name. FS.topo is held alone.
func (f *FS) side(dir uint64, name string) (*side, error) {
	p, err := f.dirInUpper(dir)
	if err != nil {
		return nil, err
	}
	s := &side{p: p, name: name, e: p.dir.names[name]}
	n, below := f.lowerChild(p, name)
	s.below = below
	switch {
	case s.e == nil && !below || s.e != nil && s.e.kind == isWhiteout:
	case s.e == nil && f.isLowerDir(n):
		s.i, err = f.lowerDir(n)
	case s.e == nil:
		s.i, err = f.lowerInode(n)
	default:
		if s.e.inode == nil {
			err = f.loadEntry(p, s.e)
		}
		s.i = s.e.inode
	}
	if err != nil {
		return nil, err
	}
	s.d, err = f.open(p)
	return s, err
}

// inUpper tells whether what is seen is in the upper.
func (s *side) inUpper() bool { return s.i != nil && s.i.inUpper.Load() }

// place is the name.
func (s *side) link() link { return link{s.p, s.name} }

// kind is what an entry for what is seen is.
func (s *side) kind() entryKind { return kindOfMode(s.i.kind) }

func (f *FS) rename(fromDir uint64, from string, toDir uint64, to string, flags uint32) error {
	f.topo.Lock()
	defer f.topo.Unlock()
	a, err := f.side(fromDir, from)
	if err != nil {
		return err
	}
	defer a.d.release()
	b, err := f.side(toDir, to)
	if err != nil {
		return err
	}
	defer b.d.release()
	if err := mayRename(a, b, flags); err != nil || a.i == b.i {
		return err
	}
	if err := f.makeOpaque(a, b); err != nil {
		return err
	}
	if flags&unix.RENAME_EXCHANGE != 0 {
		err = f.exchange(a, b)
	} else {
		err = f.replace(a, b)
	}
	if err != nil {
		return err
	}
	if err := f.changed(a.d); err != nil {
		return err
	}
	return f.changed(b.d)
}

// mayRename tells what is in the way of a rename.
func mayRename(a, b *side, flags uint32) error {
	exchange := flags&unix.RENAME_EXCHANGE != 0
	switch {
	case a.i == nil || exchange && b.i == nil:
		return unix.ENOENT
	case flags&unix.RENAME_NOREPLACE != 0 && b.i != nil:
		return unix.EEXIST
	case a.isStuck() || exchange && b.isStuck():
		return unix.EXDEV
	case !a.inUpper() || exchange && !b.inUpper():
		return errNotYet
	case exchange || b.i == nil:
		return nil
	case a.i.dir != nil && b.i.dir == nil:
		return unix.ENOTDIR
	case a.i.dir == nil && b.i.dir != nil:
		return unix.EISDIR
	}
	return nil
}

// isStuck tells whether it is a directory that the lower has something in.
func (s *side) isStuck() bool {
	return s.i.dir != nil && (!s.i.inUpper.Load() || s.i.dir.merged)
}

// makeOpaque makes a directory opaque that is about to cover one of the lower, and in an exchange the other one too.
func (f *FS) makeOpaque(a, b *side) error {
	for _, s := range [][2]*side{{a, b}, {b, a}} {
		if s[0].inUpper() && s[0].i.dir != nil && s[1].below && !s[0].i.dir.merged {
			if err := f.setPrivate(location{s[0].d, s[0].name}, opaque, opaqueYes); err != nil {
				return err
			}
		}
	}
	return nil
}

// exchange puts each in the other's place.
func (f *FS) exchange(a, b *side) error {
	if err := unix.Renameat2(a.d.fd, a.name, b.d.fd, b.name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	f.put(a.p, a.name, &entry{name: a.name, kind: b.kind(), inode: b.i})
	f.put(b.p, b.name, &entry{name: b.name, kind: a.kind(), inode: a.i})
	a.i.rename(a.link(), b.link())
	b.i.rename(b.link(), a.link())
	return nil
}

// rename replaces a name of an inode.
func (i *inode) rename(from, to link) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.moved(from, to)
}

// replace puts a in b's place, and a whiteout in a's if the lower has something there.
func (f *FS) replace(a, b *side) error {
	gone, err := f.makeRoom(b)
	if err != nil {
		return err
	}
	if a.i.dir != nil && b.e != nil && b.e.kind == isWhiteout {
		err = f.swapWhiteout(a, b)
	} else {
		err = f.renameLeaving(a, b)
	}
	if err != nil {
		gone(false)
		return err
	}
	if a.below {
		f.put(a.p, a.name, &entry{name: a.name, kind: isWhiteout})
	} else {
		f.put(a.p, a.name, nil)
	}
	f.put(b.p, b.name, &entry{name: b.name, kind: a.kind(), inode: a.i})
	a.i.rename(a.link(), b.link())
	gone(true)
	return nil
}

// makeRoom prepares what is seen at b to be replaced. It returns what is to be called after that, and told whether it was.
func (f *FS) makeRoom(b *side) (gone func(bool), err error) {
	i := b.i
	switch {
	case i == nil:
		return func(bool) {}, nil
	case i.dir != nil:
		return f.makeRoomOfDir(b)
	case !i.inUpper.Load():
		return func(replaced bool) {
			if replaced {
				i.hidden()
			}
		}, nil
	}
	anchor, err := f.beforeLastName(i)
	return func(replaced bool) {
		if replaced {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.lost(b.link(), anchor)
		} else if anchor != nil {
			anchor.release()
		}
	}, err
}

// makeRoomOfDir is makeRoom for a directory: no whiteouts may be left in it.
func (f *FS) makeRoomOfDir(b *side) (gone func(bool), err error) {
	i := b.i
	switch empty, err := f.isEmpty(i); {
	case err != nil:
		return nil, err
	case !empty:
		return nil, unix.ENOTEMPTY
	case !i.inUpper.Load():
		return func(replaced bool) {
			if replaced {
				i.removed(nil)
			}
		}, nil
	}
	anchor, err := f.open(i)
	if err != nil {
		return nil, err
	}
	if err := f.clear(b, anchor); err != nil {
		anchor.release()
		return nil, err
	}
	return func(replaced bool) {
		if !replaced {
			anchor.release()
			return
		}
		f.descriptors.forget(i)
		i.removed(anchor)
	}, nil
}

// clear removes the whiteouts from a directory in which nothing is seen, which it makes opaque first: so nothing is seen in between.
func (f *FS) clear(b *side, d *descriptor) error {
	dir := b.i.dir
	if dir.whiteouts == 0 {
		return nil
	}
	if dir.merged {
		if err := f.dir.Mode.setOpaque(d.fd, opaqueYes); err != nil {
			return err
		}
		dir.merged = false
	}
	for name := range dir.names {
		if err := unix.Unlinkat(d.fd, name, 0); err != nil {
			return err
		}
	}
	f.begin(b.i)
	return nil
}

// swapWhiteout puts a directory in the place of a whiteout, which no rename replaces with one, and the whiteout in its place.
func (f *FS) swapWhiteout(a, b *side) error {
	if a.below {
		if err := f.mark(a.p, a.d); err != nil {
			return err
		}
	}
	if err := unix.Renameat2(a.d.fd, a.name, b.d.fd, b.name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	if !a.below {
		_ = unix.Unlinkat(a.d.fd, a.name, 0) // or else it hides nothing
	}
	return nil
}

// renameLeaving renames, and leaves a whiteout if need be: at once where the file system can do that.
func (f *FS) renameLeaving(a, b *side) error {
	if !a.below {
		return unix.Renameat(a.d.fd, a.name, b.d.fd, b.name)
	}
	if f.dir.DeviceWhiteouts {
		err := unix.Renameat2(a.d.fd, a.name, b.d.fd, b.name, unix.RENAME_WHITEOUT)
		if err != unix.EINVAL {
			return err
		}
	}
	if err := f.mark(a.p, a.d); err != nil {
		return err
	}
	if err := unix.Renameat(a.d.fd, a.name, b.d.fd, b.name); err != nil {
		return err
	}
	return f.whiteOut(a.d.fd, a.name)
}

// Link gives an inode that is no directory another name, and counts it as known.
func (f *FS) Link(id, dir uint64, name string) (Attr, error) {
	i, err := f.inUpper(id, maxSize)
	if err != nil {
		return Attr{}, err
	}
	if i.dir != nil {
		return Attr{}, unix.EPERM
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	p, err := f.dirInUpper(dir)
	if err != nil {
		return Attr{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e, err := f.vacant(p, name)
	if err != nil {
		return Attr{}, err
	}
	d, err := f.open(p)
	if err != nil {
		return Attr{}, err
	}
	defer d.release()
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := f.link(i, d, name, e != nil); err != nil {
		return Attr{}, err
	}
	f.table.mu.Lock()
	f.table.byFile[i.backing] = i
	f.table.mu.Unlock()
	i.addName(link{p, name})
	f.put(p, name, &entry{name: name, kind: isOther, inode: i})
	f.known(i)
	if err := f.changed(d); err != nil {
		return Attr{}, err
	}
	return f.attrLocked(i)
}

// link makes the link, over a whiteout if there is one.
func (f *FS) link(i *inode, d *descriptor, name string, over bool) error {
	l, err := f.locate(i)
	if err != nil {
		return err
	}
	defer l.release()
	if !over {
		return l.link(d.fd, name)
	}
	temp := f.tempName()
	if err := l.link(f.dir.Work, temp); err != nil {
		return err
	}
	if err := unix.Renameat(f.dir.Work, temp, d.fd, name); err != nil {
		_ = unix.Unlinkat(f.dir.Work, temp, 0)
		return err
	}
	return nil
}

func (l location) link(dir int, name string) error {
	if l.name == "" {
		return unix.Linkat(unix.AT_FDCWD, l.path(), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	return unix.Linkat(l.fd, l.name, dir, name, 0)
}
