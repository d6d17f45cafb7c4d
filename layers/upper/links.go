package upper

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// linkGroups are the names of the inodes of a tree that have several, by the inode.
func linkGroups(t *layers.Tree) map[layers.Node][]layers.Node {
	groups := make(map[layers.Node][]layers.Node)
	for n := layers.Node(0); int(n) < t.Len(); n++ {
		if first := t.Inode(n); first != n {
			if groups[first] == nil {
				groups[first] = []layers.Node{first}
			}
			groups[first] = append(groups[first], n)
		}
	}
	return groups
}

// namesOf are the names of a lower inode, seen or not.
func (f *FS) namesOf(inode layers.Node) []layers.Node {
	if names := f.groups[inode]; names != nil {
		return names
	}
	return []layers.Node{inode}
}

// A lowerName is a name of the lower that is seen: in dir, which has no entry for it.
type lowerName struct {
	dir  *inode
	node layers.Node
}

// visibleNames are the names of a lower inode that are seen as the lower has them. FS.topo is held, and no lock of an inode.
func (f *FS) visibleNames(inode layers.Node) ([]lowerName, error) {
	var visible []lowerName
	for _, n := range f.namesOf(inode) {
		dir, err := f.lowerDir(f.tree.Parent(n))
		if err != nil {
			return nil, err
		}
		if dir == nil {
			continue
		}
		hidden, err := f.hides(dir, n)
		if err != nil {
			return nil, err
		}
		if !hidden {
			visible = append(visible, lowerName{dir, n})
		}
	}
	return visible, nil
}

// hides tells whether a directory does not show an entry of the lower as the lower has it.
func (f *FS) hides(dir *inode, n layers.Node) (bool, error) {
	if !dir.inUpper.Load() {
		return false, nil
	}
	if err := f.load(dir); err != nil {
		return false, err
	}
	dir.mu.RLock()
	defer dir.mu.RUnlock()
	return !dir.dir.merged || dir.dir.names[f.tree.Name(n)] != nil, nil
}

// lowerDir returns the inode of a directory of the lower, which is made if there is none; nil if the directory is not seen any
// more. FS.topo is held, and no lock of an inode.
func (f *FS) lowerDir(n layers.Node) (*inode, error) {
	s := &f.lower[n]
	if i := s.inode.Load(); i != nil {
		if i.isRemoved() {
			i = nil
		}
		return i, nil
	}
	parent, err := f.lowerDir(f.tree.Parent(n))
	if err != nil || parent == nil {
		return nil, err
	}
	name := f.tree.Name(n)
	if hidden, err := f.hides(parent, n); err != nil {
		return nil, err
	} else if hidden {
		return f.lowerDirOf(parent, name, n)
	}
	i := &inode{
		id: uint64(n) + 1, ino: uint64(n) + 1, kind: unix.S_IFDIR, lower: n, hasLower: true,
		names: []link{{parent, name}}, dir: &directory{merged: true},
	}
	s.inode.CompareAndSwap(nil, i) // somebody else may have been faster
	return s.inode.Load(), nil
}

// lowerDirOf is lowerDir for a name that the upper has, too: what is there may be the directory merged.
func (f *FS) lowerDirOf(parent *inode, name string, n layers.Node) (*inode, error) {
	child, _, err := f.child(parent, name)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f.unknown(child)
	if child.hasLower && child.dir != nil && child.lower == n {
		return child, nil
	}
	return nil, nil
}

// linksName is the name in the work directory of a copy of a lower inode with several names, until all of them are links to it.
const linksName = "links-"

// finishLinks makes the links that a crash kept from being made: of the names that are still the lower's.
func (f *FS) finishLinks() error {
	names, err := namesIn(f.dir.Work)
	if err != nil {
		return err
	}
	for _, name := range names {
		number, image, _ := strings.Cut(strings.TrimPrefix(name, linksName), "-")
		ino, err := strconv.ParseUint(number, 10, 32)
		n := layers.Node(ino - 1)
		if !strings.HasPrefix(name, linksName) || err != nil || image != f.imageName() || ino-1 >= uint64(f.tree.Len()) || f.groups[n] == nil {
			continue
		}
		if err := f.linkAll(name, n); err != nil {
			return err
		}
	}
	return nil
}

// linkAll gives a file in the work directory all names that its lower inode has and which are seen, and takes it out of there. If that
// fails all is as it was.
func (f *FS) linkAll(temp string, n layers.Node) error {
	visible, err := f.visibleNames(n)
	if err != nil {
		return err
	}
	for done, v := range visible {
		if err := f.linkOne(temp, v); err != nil {
			f.unlinkAll(visible[:done])
			return err
		}
	}
	for _, v := range visible {
		name := f.tree.Name(v.node)
		f.put(v.dir, name, &entry{name: name, kind: isOther})
	}
	for _, v := range visible {
		if err := f.syncDir(v.dir); err != nil {
			return err
		}
	}
	return unix.Unlinkat(f.dir.Work, temp, 0)
}

// syncDir is changed for a directory that is not open.
func (f *FS) syncDir(i *inode) error {
	d, err := f.open(i)
	if err != nil {
		return err
	}
	defer d.release()
	return f.changed(d)
}

// linkOne gives a file in the work directory one of its names.
func (f *FS) linkOne(temp string, v lowerName) error {
	if err := f.copyUpDir(v.dir); err != nil {
		return err
	}
	d, err := f.open(v.dir)
	if err != nil {
		return err
	}
	defer d.release()
	return keepingTimes(d, func() error { return unix.Linkat(f.dir.Work, temp, d.fd, f.tree.Name(v.node), 0) })
}

// unlinkAll takes names away again, so that the lower's are seen.
func (f *FS) unlinkAll(names []lowerName) {
	for _, v := range names {
		if d, err := f.open(v.dir); err == nil {
			_ = keepingTimes(d, func() error { return unix.Unlinkat(d.fd, f.tree.Name(v.node), 0) })
			d.release()
		}
	}
}

// keepingTimes changes a directory without it showing in its times.
func keepingTimes(d *descriptor, change func() error) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return setTimes(location{d, ""}, st.Atim, st.Mtim)
}

func setTimes(l location, atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(l.fd, l.name, []unix.Timespec{atime, mtime}, l.at())
}
