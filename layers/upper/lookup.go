package upper

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// maxName is the longest name, in bytes: NAME_MAX.
const maxName = 255

// Lookup finds a name in a directory, and counts that the kernel knows the inode. "." and ".." are not names.
func (f *FS) Lookup(dir uint64, name string) (Attr, error) {
	if len(name) > maxName {
		return Attr{}, unix.ENAMETOOLONG
	}
	i, err := f.find(dir)
	if err != nil {
		return Attr{}, err
	}
	if i == nil || !i.inUpper.Load() {
		n, ok := f.tree.Lookup(lowerNode(dir), name)
		if !ok || i != nil && i.isRemoved() {
			return Attr{}, unix.ENOENT
		}
		return f.foundLower(n)
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	child, n, err := f.child(i, name)
	switch {
	case err != nil:
		return Attr{}, err
	case child == nil:
		return f.foundLowerLocked(n)
	}
	a, err := f.attr(child)
	if err != nil {
		f.unknown(child)
	}
	return a, err
}

func (i *inode) isRemoved() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.dir != nil && i.dir.removed
}

// child finds a name in a directory that is in the upper: an inode, which is counted as known, or a node of the lower where that is
// nil. FS.topo is held.
func (f *FS) child(i *inode, name string) (*inode, layers.Node, error) {
	if i.dir == nil {
		return nil, 0, unix.ENOTDIR
	}
	if err := f.load(i); err != nil {
		return nil, 0, err
	}
	i.mu.RLock()
	e := i.dir.names[name]
	if e == nil || e.kind == isWhiteout || e.inode != nil {
		defer i.mu.RUnlock()
		return f.childOf(i, e, name)
	}
	i.mu.RUnlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	e = i.dir.names[name]
	if e != nil && e.kind != isWhiteout && e.inode == nil {
		if err := f.loadEntry(i, e); err != nil {
			return nil, 0, err
		}
	}
	return f.childOf(i, e, name)
}

// childOf is child with the name's entry, whose inode is loaded. i.mu is held.
func (f *FS) childOf(i *inode, e *entry, name string) (*inode, layers.Node, error) {
	if e == nil {
		n, ok := f.lowerChild(i, name)
		if !ok {
			return nil, 0, unix.ENOENT
		}
		return nil, n, nil
	}
	if e.kind == isWhiteout {
		return nil, 0, unix.ENOENT
	}
	f.known(e.inode)
	return e.inode, 0, nil
}

// foundLower answers a lookup that led to a name of the lower.
func (f *FS) foundLower(n layers.Node) (Attr, error) {
	if f.isPlain(n) {
		f.lower[f.tree.Inode(n)].lookups.Add(1)
		return f.lowerAttr(n), nil
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	return f.foundLowerLocked(n)
}

// isPlain tells whether a name of the lower is of an inode that is as in the tree, and not one of several.
func (f *FS) isPlain(n layers.Node) bool {
	inode := f.tree.Inode(n)
	return f.lower[inode].inode.Load() == nil && f.groups[inode] == nil
}

// foundLowerLocked is foundLower where FS.topo is held.
func (f *FS) foundLowerLocked(n layers.Node) (Attr, error) {
	s := &f.lower[f.tree.Inode(n)]
	s.lookups.Add(1)
	if f.isPlain(n) {
		return f.lowerAttr(n), nil
	}
	i := s.inode.Load()
	if i == nil {
		var err error
		if i, err = f.lowerInode(n); err != nil {
			s.lookups.Add(-1)
			return Attr{}, err
		}
	}
	return f.attr(i)
}

// lowerInode returns the inode of a file of the lower, which is made if there is none. FS.topo is held, and no lock of
// an inode.
func (f *FS) lowerInode(n layers.Node) (*inode, error) {
	n = f.tree.Inode(n)
	s := &f.lower[n]
	if i := s.inode.Load(); i != nil {
		return i, nil
	}
	f.groupsMu.Lock()
	defer f.groupsMu.Unlock()
	if i := s.inode.Load(); i != nil {
		return i, nil
	}
	names, err := f.visibleNames(n)
	if err != nil {
		return nil, err
	}
	i := &inode{
		id: uint64(n) + 1, ino: uint64(n) + 1, kind: f.tree.Attr(n).Mode & unix.S_IFMT, lower: n, hasLower: true,
		nlink: uint32(len(names)), orphan: len(names) == 0,
	}
	s.inode.Store(i)
	return i, nil
}

// loadEntry makes the inode of an entry which is in the upper. FS.topo and i.mu are held, the latter alone.
func (f *FS) loadEntry(i *inode, e *entry) error {
	d, err := f.open(i)
	if err != nil {
		return err
	}
	defer d.release()
	l := location{d, e.name}
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	attrs, err := attrNames(l)
	if err != nil {
		return err
	}
	if err := f.understood(i, e, attrs); err != nil {
		return err
	}
	if isDir(st.Mode) {
		return f.loadDir(i, e, l, &st)
	}
	return f.loadFile(i, e, l, &st, attrs)
}

// attrNames are the names of a file's attributes, each between two NULs; "" where there are none, as is usual.
func attrNames(l location) (string, error) {
	var room [512]byte
	buf := room[:]
	for {
		n, err := unix.Llistxattr(l.path(), buf)
		switch {
		case err == unix.ERANGE && len(buf) < maxXattrs:
			buf = make([]byte, maxXattrs)
			continue
		case err == unix.ENOTSUP || err == nil && n == 0:
			return "", nil
		case err != nil:
			return "", err
		}
		return "\x00" + string(buf[:n]), nil
	}
}

// hasAttr tells whether a private attribute is among names that attrNames returned.
func (f *FS) hasAttr(names, attr string) bool {
	return names != "" && strings.Contains(names, "\x00"+f.dir.Mode.Prefix()+attr+"\x00")
}

// pathOf is the path of a name in a directory, fit to be printed. FS.topo is held.
func (f *FS) pathOf(i *inode, name string) string {
	for ; i != f.root && len(i.names) > 0; i = i.names[0].dir {
		name = i.names[0].name + "/" + name
	}
	return fmt.Sprintf("%.1000q", "/"+name)
}

// understood is an error for what the kernel may write into an upper, but we don't read.
func (f *FS) understood(i *inode, e *entry, attrs string) error {
	for _, attr := range []string{"redirect", "metacopy"} {
		if f.hasAttr(attrs, attr) {
			return fmt.Errorf("%s in the upper has attribute %s, which is not supported: %w", f.pathOf(i, e.name), attr, unix.EOPNOTSUPP)
		}
	}
	return nil
}

// loadDir is loadEntry for a directory.
func (f *FS) loadDir(i *inode, e *entry, l location, st *unix.Stat_t) error {
	child := &inode{kind: unix.S_IFDIR, backing: st.Ino, names: []link{{i, e.name}}, dir: new(directory)}
	n, below := f.lowerChild(i, e.name)
	if below && f.isLowerDir(n) {
		opaque, err := f.isOpaque(l)
		if err != nil {
			return err
		}
		child.dir.merged, child.hasLower = !opaque, !opaque
	}
	var err error
	if child.recorded, err = f.recordedStat(l, unix.S_IFDIR); err != nil {
		return err
	}
	child.inUpper.Store(true)
	if !child.dir.merged {
		child.ino = f.upperIno(st.Ino)
		f.register(child)
	} else {
		child.lower, child.id, child.ino = n, uint64(n)+1, uint64(n)+1
		f.lower[n].inode.Store(child)
	}
	e.inode = child
	return nil
}

// isOpaque tells whether a directory is opaque.
func (f *FS) isOpaque(l location) (bool, error) {
	d, err := l.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer d.release()
	opacity, err := f.dir.Mode.opacityOf(d.fd)
	return opacity == opaqueDir, err
}

// loadFile is loadEntry for what is no directory.
func (f *FS) loadFile(i *inode, e *entry, l location, st *unix.Stat_t, attrs string) error {
	at := link{i, e.name}
	recorded, err := f.recordedStat(l, st.Mode)
	if err != nil {
		return err
	}
	child := &inode{kind: f.meant(recorded, st).Mode & unix.S_IFMT, backing: st.Ino, names: []link{at}, recorded: recorded}
	child.ino = f.upperIno(st.Ino)
	child.bare.Store(attrs == "")
	if f.hasAttr(attrs, originAttr) {
		value, ok, err := xattrAt(l.fd, l.name, f.dir.Mode.Prefix()+originAttr)
		if err != nil {
			return err
		}
		if ino, valid := f.parseOrigin(value, child.kind); ok && valid {
			child.ino = ino
		}
	}
	child.inUpper.Store(true)
	e.inode = child
	if st.Nlink == 1 {
		f.register(child)
	} else if known := f.registerLinked(child); known != child {
		known.mu.Lock()
		known.addName(at)
		known.mu.Unlock()
		f.unknown(known)
		e.inode = known
	}
	return nil
}

// registerLinked registers an inode that has several names, unless it is registered already: then it returns that one,
// counted as known.
func (f *FS) registerLinked(i *inode) *inode {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	if known := f.table.byFile[i.backing]; known != nil {
		f.known(known)
		return known
	}
	f.registerLocked(i)
	f.table.byFile[i.backing] = i
	return i
}

// addName gives an inode one more name, in the upper. i.mu is held.
func (i *inode) addName(at link) {
	i.names = append(i.names, at)
	if i.orphan {
		i.orphan = false
		i.letGo()
	}
}

// upperIno is the st_ino of a file that is in the upper alone. It can't be one of the lower's.
func (f *FS) upperIno(backing uint64) uint64 { return uint64(f.tree.Len()) + backing }

// register gives an inode its node ID.
func (f *FS) register(i *inode) {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	f.registerLocked(i)
}

func (f *FS) registerLocked(i *inode) {
	f.table.last++
	i.id = f.table.last
	f.table.byID[i.id] = i
}

// Readlink is a symbolic link's target.
func (f *FS) Readlink(id uint64) (string, error) {
	i, err := f.find(id)
	if err != nil {
		return "", err
	}
	if i == nil || !i.inUpper.Load() {
		n := lowerNode(id)
		if f.tree.Attr(n).Mode&unix.S_IFMT != unix.S_IFLNK {
			return "", unix.EINVAL
		}
		return f.tree.Readlink(n), nil
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	i.mu.RLock()
	defer i.mu.RUnlock()
	l, err := f.locate(i)
	if err != nil {
		return "", err
	}
	defer l.release()
	buf := make([]byte, maxTarget+1)
	if i.recorded != nil && i.recorded.Mode&unix.S_IFMT == unix.S_IFLNK {
		return recordedLink(l, buf)
	}
	n, err := unix.Readlinkat(l.fd, l.name, buf)
	return string(buf[:max(n, 0)]), err
}

// recordedLink reads a symbolic link that is recorded of a file: its content is the target.
func recordedLink(l location, buf []byte) (string, error) {
	d, err := l.open(unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer d.release()
	n, err := unix.Pread(d.fd, buf, 0)
	return string(buf[:max(n, 0)]), err
}

// maxTarget is the longest target of a symbolic link: PATH_MAX without its NUL.
const maxTarget = 4095
