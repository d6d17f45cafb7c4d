package upper

import (
	"sync"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// whiteouts makes whiteouts: links to one, as the kernel's overlayfs does it.
type whiteouts struct {
	mu   sync.Mutex
	name string // of the one, in the work directory; "" before there is one, and after it has had as many links as it can have
}

// whiteOut makes a whiteout of a name that is not there in a directory, which is the work directory or marked if need be.
func (f *FS) whiteOut(dir int, name string) error {
	f.whiteouts.mu.Lock()
	defer f.whiteouts.mu.Unlock()
	for range 2 {
		if f.whiteouts.name == "" {
			fresh := f.tempName()
			if err := f.dir.makeWhiteout(f.dir.Work, fresh); err != nil {
				return err
			}
			f.whiteouts.name = fresh
		}
		err := unix.Linkat(f.dir.Work, f.whiteouts.name, dir, name, 0)
		if err != unix.EMLINK {
			return err
		}
		_ = unix.Unlinkat(f.dir.Work, f.whiteouts.name, 0)
		f.whiteouts.name = ""
	}
	return unix.EMLINK
}

// mark lets attributes of files make whiteouts in a directory, where that is what whiteouts are. i.mu is held alone.
func (f *FS) mark(i *inode, d *descriptor) error {
	if f.dir.DeviceWhiteouts || i.dir.marked {
		return nil
	}
	if err := f.dir.Mode.setOpaque(d.fd, opaqueMaybe); err != nil {
		return err
	}
	i.dir.marked = true
	return nil
}

// Unlink takes a name from what is no directory.
func (f *FS) Unlink(dir uint64, name string) error {
	f.topo.RLock()
	defer f.topo.RUnlock()
	lower, err := f.lowerOf(dir, name)
	if err != nil {
		return err
	}
	p, err := f.dirInUpper(dir)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := f.open(p)
	if err != nil {
		return err
	}
	defer d.release()
	e := p.dir.names[name]
	switch {
	case e == nil && lower == nil || e != nil && e.kind == isWhiteout:
		return unix.ENOENT
	case e != nil && e.kind == isDirectory:
		return unix.EISDIR
	case e != nil:
		err = f.unlinkUpper(p, d, e)
	default:
		err = f.unlinkLower(p, d, name, lower)
	}
	if err != nil {
		return err
	}
	return f.changed(d)
}

// lowerOf returns the inode behind a name of the lower which no entry of the upper covers; nil if there is none. FS.topo is held, and no lock
// of an inode.
func (f *FS) lowerOf(dir uint64, name string) (*inode, error) {
	i, err := f.find(dir)
	if err != nil {
		return nil, err
	}
	var n layers.Node
	var ok bool
	switch {
	case i == nil:
		n, ok = f.tree.Lookup(lowerNode(dir), name)
	case i.dir == nil:
		return nil, unix.ENOTDIR
	default:
		if i.inUpper.Load() {
			if err := f.load(i); err != nil {
				return nil, err
			}
		}
		i.mu.RLock()
		if i.dir.names[name] == nil {
			n, ok = f.lowerChild(i, name)
		}
		i.mu.RUnlock()
	}
	switch {
	case !ok:
		return nil, nil
	case f.isLowerDir(n):
		return nil, unix.EISDIR
	}
	return f.lowerInode(n)
}

// unlinkLower hides a name of the lower. p.mu is held alone.
func (f *FS) unlinkLower(p *inode, d *descriptor, name string, lower *inode) error {
	if err := f.mark(p, d); err != nil {
		return err
	}
	if err := f.whiteOut(d.fd, name); err != nil {
		return err
	}
	f.put(p, name, &entry{name: name, kind: isWhiteout})
	lower.hidden()
	return nil
}

// hidden is called when a name of a lower inode is no longer seen.
func (i *inode) hidden() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.nlink--; i.nlink == 0 {
		i.orphan = true
	}
}

// unlinkUpper removes a name in the upper, and hides the lower's of that name. p.mu is held alone.
func (f *FS) unlinkUpper(p *inode, d *descriptor, e *entry) error {
	if e.inode == nil {
		if err := f.loadEntry(p, e); err != nil {
			return err
		}
	}
	i := e.inode
	i.mu.Lock()
	defer i.mu.Unlock()
	anchor, err := f.beforeLastName(i)
	if err != nil {
		return err
	}
	if err := f.removeName(p, d, e.name); err != nil {
		if anchor != nil {
			anchor.release()
		}
		return err
	}
	i.lost(link{p, e.name}, anchor)
	return nil
}

// beforeLastName returns what an inode will be reached by when it loses the one name that is known of it. FS.topo and i.mu are held.
func (f *FS) beforeLastName(i *inode) (*descriptor, error) {
	switch {
	case len(i.names) > 1:
		return nil, nil
	case i.file != nil:
		return i.file.hold(), nil
	}
	l, err := f.locate(i)
	if err != nil {
		return nil, err
	}
	defer l.release()
	return l.open(unix.O_PATH)
}

// lost takes a name from an inode; anchor is what it is reached by when it was the last one that is known. i.mu is held.
func (i *inode) lost(at link, anchor *descriptor) {
	i.moved(at, link{})
	if len(i.names) == 0 {
		i.orphan, i.anchor = true, anchor
	}
}

// removeName removes a name of what is no directory in the upper, and puts a whiteout there if the lower has something of that
// name. p.mu is held alone.
func (f *FS) removeName(p *inode, d *descriptor, name string) error {
	if _, below := f.lowerChild(p, name); !below {
		if err := unix.Unlinkat(d.fd, name, 0); err != nil {
			return err
		}
		f.put(p, name, nil)
		return nil
	}
	if err := f.mark(p, d); err != nil {
		return err
	}
	temp := f.tempName()
	if err := f.whiteOut(f.dir.Work, temp); err != nil {
		return err
	}
	if err := unix.Renameat(f.dir.Work, temp, d.fd, name); err != nil {
		_ = unix.Unlinkat(f.dir.Work, temp, 0)
		return err
	}
	f.put(p, name, &entry{name: name, kind: isWhiteout})
	return nil
}

// Rmdir removes a directory in which nothing is seen.
func (f *FS) Rmdir(dir uint64, name string) error {
	f.topo.Lock()
	defer f.topo.Unlock()
	p, err := f.dirInUpper(dir)
	if err != nil {
		return err
	}
	i, err := f.directory(p, name)
	if err != nil {
		return err
	}
	if empty, err := f.isEmpty(i); err != nil || !empty {
		if err == nil {
			err = unix.ENOTEMPTY
		}
		return err
	}
	d, err := f.open(p)
	if err != nil {
		return err
	}
	defer d.release()
	if err := f.removeDir(p, d, i, name); err != nil {
		return err
	}
	return f.changed(d)
}

// directory finds a directory in one that is in the upper. FS.topo is held alone.
func (f *FS) directory(p *inode, name string) (*inode, error) {
	i, n, err := f.child(p, name)
	if err != nil {
		return nil, err
	}
	if i == nil {
		if !f.isLowerDir(n) {
			return nil, unix.ENOTDIR
		}
		return f.lowerDir(n)
	}
	f.unknown(i)
	if i.dir == nil {
		return nil, unix.ENOTDIR
	}
	return i, nil
}

// isEmpty tells whether nothing is seen in a directory. FS.topo is held alone.
func (f *FS) isEmpty(i *inode) (bool, error) {
	if !i.inUpper.Load() {
		lo, hi := f.tree.Children(i.lower)
		return lo == hi, nil
	}
	if err := f.load(i); err != nil {
		return false, err
	}
	_, more := f.list(i, firstChild)
	return !more, nil
}

// removeDir removes an empty directory, and puts a whiteout there if the lower has something of that name. FS.topo is held alone.
func (f *FS) removeDir(p *inode, d *descriptor, i *inode, name string) error {
	_, below := f.lowerChild(p, name)
	if below {
		if err := f.mark(p, d); err != nil {
			return err
		}
	}
	if !i.inUpper.Load() {
		if err := f.whiteOut(d.fd, name); err != nil {
			return err
		}
		f.put(p, name, &entry{name: name, kind: isWhiteout})
		i.removed(nil)
		return nil
	}
	anchor, err := f.open(i)
	if err != nil {
		return err
	}
	if err := f.takeDirAway(d, i, anchor, name, below); err != nil {
		anchor.release()
		return err
	}
	f.descriptors.forget(i)
	if below {
		f.put(p, name, &entry{name: name, kind: isWhiteout})
	} else {
		f.put(p, name, nil)
	}
	i.removed(anchor)
	return nil
}

// removed is called when a directory has been removed; anchor is what it is reached by, if it is in the upper.
func (i *inode) removed(anchor *descriptor) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.names, i.orphan, i.anchor = nil, true, anchor
	*i.dir = directory{removed: true}
}

// takeDirAway removes a directory that has at most whiteouts in it. It goes at once, by a rename into the work directory, from where
// what is left of it is removed at the next mount if it can't be now.
func (f *FS) takeDirAway(d *descriptor, i *inode, self *descriptor, name string, below bool) error {
	if !below && i.dir.whiteouts == 0 {
		return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	}
	temp := f.tempName()
	if below {
		if err := f.whiteOut(f.dir.Work, temp); err != nil {
			return err
		}
		if err := unix.Renameat2(f.dir.Work, temp, d.fd, name, unix.RENAME_EXCHANGE); err != nil {
			_ = unix.Unlinkat(f.dir.Work, temp, 0)
			return err
		}
	} else if err := unix.Renameat2(d.fd, name, f.dir.Work, temp, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	for _, e := range i.dir.names {
		_ = unix.Unlinkat(self.fd, e.name, 0)
	}
	_ = unix.Unlinkat(f.dir.Work, temp, unix.AT_REMOVEDIR)
	return nil
}
