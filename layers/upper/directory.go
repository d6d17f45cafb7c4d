package upper

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// load reads a directory that is in the upper, once. FS.topo is held, and not i.mu.
func (f *FS) load(i *inode) error {
	i.mu.RLock()
	done := i.dir.loaded || i.dir.removed
	i.mu.RUnlock()
	if done {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return f.loadLocked(i)
}

// loadLocked is load where i.mu is held alone.
func (f *FS) loadLocked(i *inode) error {
	if i.dir.loaded || i.dir.removed {
		return nil
	}
	d, err := f.open(i)
	if err != nil {
		return err
	}
	defer d.release()
	opacity, err := f.dir.Mode.opacityOf(d.fd)
	if err != nil {
		return err
	}
	i.dir.marked = opacity == marked
	f.begin(i)
	names, err := readDirectory(d.fd)
	if err != nil {
		return err
	}
	for _, e := range names {
		if e.kind, err = f.kindOf(d.fd, opacity, e); err != nil {
			return err
		}
		f.put(i, e.name, &entry{name: e.name, kind: e.kind.entry()})
	}
	i.dir.loaded = true
	return nil
}

// begin makes a directory one with nothing in the upper.
func (f *FS) begin(i *inode) {
	d := i.dir
	d.names, d.added, d.gone, d.subdirs, d.whiteouts = make(map[string]*entry), nil, 0, 0, 0
	d.next = d.firstAdded(f, i)
	if d.merged {
		d.subdirs = int(f.tree.Attr(i.lower).Nlink) - 2
	}
}

// A direntType is a type as getdents64(2) has it, or typeWhiteout.
type direntType uint8

const typeWhiteout direntType = 255

// entry is what an entry of that type is.
func (t direntType) entry() entryKind {
	switch t {
	case typeWhiteout:
		return isWhiteout
	case unix.DT_DIR:
		return isDirectory
	}
	return isOther
}

// A dirent is an entry as getdents64(2) has it.
type dirent struct {
	name string
	kind direntType
}

// kindOf finds out the type of an entry where the entry alone does not tell.
func (f *FS) kindOf(dir int, in opacity, e dirent) (direntType, error) {
	ask := e.kind == unix.DT_UNKNOWN || e.kind == unix.DT_CHR || e.kind == unix.DT_REG && in == marked
	if !ask {
		return e.kind, nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	switch white, err := f.dir.Mode.isWhiteout(dir, in, e.name, &st); {
	case err != nil:
		return 0, err
	case white:
		return typeWhiteout, nil
	}
	return direntType(st.Mode & unix.S_IFMT >> 12), nil
}

var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readDirectory lists a directory. Its descriptor may have been read before, and by nobody else now.
func readDirectory(fd int) ([]dirent, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	buf := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buf)
	var list []dirent
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err != nil || n == 0 {
			return list, err
		}
		list = appendDirents(list, buf[:n])
	}
}

// appendDirents reads struct linux_dirent64: inode, offset, length, type, name.
func appendDirents(list []dirent, buf []byte) []dirent {
	for len(buf) > 19 {
		length := int(binary.NativeEndian.Uint16(buf[16:]))
		name := buf[19:length]
		if end := slices.Index(name, 0); end >= 0 {
			name = name[:end]
		}
		if s := string(name); s != "." && s != ".." {
			list = append(list, dirent{s, direntType(buf[18])})
		}
		buf = buf[length:]
	}
	return list
}

// A Listed is an entry of a directory's listing. Its position is its own as long as it has that name, whatever happens to the
// others.
type Listed struct {
	Name string
	Next uint64 // the position after it
	Mode uint32 // S_IFDIR, or 0: a lookup tells
	Dot  bool   // "." or "..", which are not looked up
	ID   uint64 // of "." and ".."
}

// End is where a directory's listing ends now. Who reads it goes no further than that, so that he comes to an end even if he
// makes new names as he goes.
func (f *FS) End(dir uint64) (uint64, error) {
	i, err := f.find(dir)
	if err != nil {
		return 0, err
	}
	if i == nil || !i.inUpper.Load() {
		lo, hi := f.tree.Children(lowerNode(dir))
		return firstChild + uint64(hi-lo), nil
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	if i.dir == nil {
		return 0, unix.ENOTDIR
	}
	if err := f.load(i); err != nil {
		return 0, err
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.dir.next, nil
}

// List returns the first entry of a directory at or after a position and before end; false where there is none.
func (f *FS) List(dir, pos, end uint64) (Listed, bool, error) {
	i, err := f.find(dir)
	if err != nil {
		return Listed{}, false, err
	}
	if pos < firstChild {
		return f.dot(dir, i, pos), true, nil
	}
	if i == nil || !i.inUpper.Load() {
		l, ok := f.listLower(lowerNode(dir), pos)
		return l, ok && (i == nil || !i.isRemoved()), nil
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	if err := f.load(i); err != nil {
		return Listed{}, false, err
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	l, ok := f.list(i, pos)
	return l, ok && l.Next <= end, nil
}

// dot is the entry "." or "..".
func (f *FS) dot(dir uint64, i *inode, pos uint64) Listed {
	if pos == 0 {
		return Listed{Name: ".", Next: 1, Mode: unix.S_IFDIR, Dot: true, ID: dir}
	}
	l := Listed{Name: "..", Next: firstChild, Mode: unix.S_IFDIR, Dot: true}
	switch {
	case i == nil:
		l.ID = uint64(f.tree.Parent(lowerNode(dir))) + 1
	case i == f.root:
		l.ID = 1
	default:
		f.topo.RLock()
		defer f.topo.RUnlock()
		i.mu.RLock()
		defer i.mu.RUnlock()
		l.ID = dir
		if len(i.names) > 0 {
			l.ID = i.names[0].dir.id
		}
	}
	return l
}

// listLower is List in a directory of the lower.
func (f *FS) listLower(dir layers.Node, pos uint64) (Listed, bool) {
	lo, hi := f.tree.Children(dir)
	if pos-firstChild >= uint64(hi-lo) {
		return Listed{}, false
	}
	n := lo + layers.Node(pos-firstChild)
	l := Listed{Name: f.tree.Name(n), Next: pos + 1}
	if f.isLowerDir(n) {
		l.Mode = unix.S_IFDIR
	}
	return l, true
}

// list is List in a directory of the upper, which is loaded and locked.
func (f *FS) list(i *inode, pos uint64) (Listed, bool) {
	d := i.dir
	if d.removed {
		return Listed{}, false
	}
	for first := d.firstAdded(f, i); pos < first; pos++ {
		l, _ := f.listLower(i.lower, pos)
		switch e := d.names[l.Name]; {
		case e == nil:
			return l, true
		case e.kind != isWhiteout:
			return e.listed(pos), true
		}
	}
	k, _ := slices.BinarySearchFunc(d.added, pos, func(e *entry, pos uint64) int { return cmp.Compare(e.pos, pos) })
	for ; k < len(d.added); k++ {
		if e := d.added[k]; !e.gone {
			return e.listed(e.pos), true
		}
	}
	return Listed{}, false
}

func (e *entry) listed(pos uint64) Listed {
	l := Listed{Name: e.name, Next: pos + 1}
	if e.kind == isDirectory {
		l.Mode = unix.S_IFDIR
	}
	return l
}
