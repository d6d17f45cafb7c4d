package upper

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// maxDepth is how many directories may be in each other: as many as a path can tell.
const maxDepth = 2048

// selinux is an attribute that the machine gives to each file.
const selinux = "security.selinux"

// Diff calls yield with each change that the upper at path, written in mode m, makes to a tree: as layers.Diff does. What was
// copied and is the same still is no change. The upper may be mounted, and be written to: then each file is told of as it
// is at some moment. Errors are *Error and yield's.
func Diff(path string, m Mode, tree *layers.Tree, yield func(layers.Change) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{Dir: path, Problem: "can't be opened: " + err.Error(), Err: err}
	}
	defer unix.Close(fd)
	var listener error
	d := &differ{mode: m, tree: tree, Changes: layers.NewChanges(func(c layers.Change) error {
		listener = yield(c)
		return listener
	})}
	root := layers.Root
	err = d.root(fd, &root)
	if err == nil || err == listener {
		return err
	}
	return &Error{Dir: path, Problem: "can't be compared: " + err.Error(), Err: err}
}

type differ struct {
	*layers.Changes
	mode  Mode
	tree  *layers.Tree
	depth int
}

// root compares the upper's own attributes, and what is in it.
func (d *differ) root(dir int, lower *layers.Node) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	f, err := d.file(dir, "", &st)
	if err != nil {
		return err
	}
	was := d.tree.File(*lower)
	if err := d.Enter("/", was.Differs(&f)); err != nil {
		return err
	}
	defer d.Leave()
	return d.dir(dir, "", lower)
}

// dir tells of the changes in a directory: of all in it, if it has no lower.
func (d *differ) dir(dir int, path string, lower *layers.Node) error {
	if d.depth++; d.depth > maxDepth {
		return fmt.Errorf("%.100s…: %w", path, unix.ENAMETOOLONG)
	}
	defer func() { d.depth-- }()
	in, err := d.mode.opacityOf(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	upper, err := namesIn(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	all := make(map[string]bool, len(upper))
	for _, name := range upper {
		all[name] = true
	}
	if lower != nil && in == opaqueDir {
		for n, end := d.tree.Children(*lower); n < end; n++ {
			if name := d.tree.Name(n); !all[name] {
				all[name] = false
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var below *layers.Node
		if lower != nil {
			if n, ok := d.tree.Lookup(*lower, name); ok {
				below = &n
			}
		}
		if err := d.name(dir, in, path+"/"+name, all[name], below); err != nil {
			return err
		}
	}
	return nil
}

// name tells of the changes at a name of the upper or, if it is not there, of an opaque directory's lower.
func (d *differ) name(dir int, in opacity, path string, there bool, lower *layers.Node) error {
	name := path[strings.LastIndexByte(path, '/')+1:]
	var st unix.Stat_t
	hidden := !there
	if there {
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			return nil // gone just now
		}
		if err == nil {
			hidden, err = d.mode.isWhiteout(dir, in, name, &st)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	switch {
	case hidden && lower != nil:
		return d.Tell(layers.Change{Kind: layers.Deleted, Path: path})
	case hidden:
		return nil
	case lower == nil:
		if err := d.Tell(layers.Change{Kind: layers.Added, Path: path}); err != nil {
			return err
		}
		return d.below(dir, path, name, &st, nil)
	}
	what, err := d.differs(dir, name, &st, *lower)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := d.Enter(path, what); err != nil {
		return err
	}
	defer d.Leave()
	return d.below(dir, path, name, &st, lower)
}

// below tells of the changes in a name, if it is a directory or was one.
func (d *differ) below(dir int, path, name string, st *unix.Stat_t, lower *layers.Node) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if lower == nil {
			return nil
		}
		for n, end := d.tree.Children(*lower); n < end; n++ {
			if err := d.Tell(layers.Change{Kind: layers.Deleted, Path: path + "/" + d.tree.Name(n)}); err != nil {
				return err
			}
		}
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	return d.dir(fd, path, lower)
}

// differs compares a file of the upper with the lower's.
func (d *differ) differs(dir int, name string, st *unix.Stat_t, lower layers.Node) ([]string, error) {
	f, err := d.file(dir, name, st)
	if err != nil {
		return nil, err
	}
	was := d.tree.File(lower)
	what := was.Differs(&f)
	if f.Attr.Mode&unix.S_IFMT != unix.S_IFREG || slices.Contains(what, "type") || slices.Contains(what, "content") {
		return what, nil
	}
	// A file of which only the attributes were copied has none of the content.
	_, metacopy, err := xattrAt(dir, name, d.mode.Prefix()+"metacopy")
	if metacopy || err != nil {
		return what, err
	}
	same, err := d.sameContent(dir, name, lower)
	if err == nil && !same {
		what = append(what, "content")
	}
	return what, err
}

// sameContent compares the content of files of the same size.
func (d *differ) sameContent(dir int, name string, lower layers.Node) (bool, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for _, e := range d.tree.Extents(lower) {
		if same, err := layers.EqualContent(f, d.tree.Reader(lower), e.Logical, e.Length); !same || err != nil {
			return false, err
		}
	}
	// What is a hole in the lower is one in the upper, or zeros.
	size := int64(d.tree.Attr(lower).Size)
	for off := int64(0); ; {
		begin, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if off, err = unix.Seek(fd, begin, unix.SEEK_HOLE); err != nil {
			return false, err
		}
		end := min(off, size)
		if same, err := layers.EqualContent(f, d.tree.Reader(lower), begin, end-begin); !same || err != nil {
			return false, err
		}
	}
}

// file is what there is to know of a name in a directory, or of the directory itself if the name is empty, as it is through
// a mount.
func (d *differ) file(dir int, name string, st *unix.Stat_t) (layers.File, error) {
	f := layers.File{Attr: layers.Attr{
		Size: uint64(st.Size), Mode: st.Mode, UID: st.Uid, GID: st.Gid, MtimeSec: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec),
	}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		f.Attr.Major, f.Attr.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return f, err
		}
		f.Target = string(target[:n])
	}
	var err error
	if d.mode == Recorded {
		if err := d.recorded(dir, name, &f.Attr); err != nil {
			return f, err
		}
	}
	f.Xattrs, err = d.xattrs(dir, name)
	return f, err
}

// recorded puts what is recorded of a file into its attributes. What is not recorded is the user's own, who is root in his mount.
func (d *differ) recorded(dir int, name string, a *layers.Attr) error {
	if int(a.UID) == os.Geteuid() {
		a.UID = 0
	}
	if int(a.GID) == os.Getegid() {
		a.GID = 0
	}
	value, ok, err := xattrAt(dir, name, statAttr)
	if !ok || err != nil {
		return err
	}
	s, err := ParseStat(value, a.Mode&unix.S_IFMT)
	a.Mode, a.UID, a.GID, a.Major, a.Minor = s.Mode, s.UID, s.GID, s.Major, s.Minor
	return err
}

// xattrs lists the attributes that are seen through a mount, sorted by name.
func (d *differ) xattrs(dir int, name string) ([]layers.Xattr, error) {
	list, path := unix.Listxattr, self(dir)
	if name != "" {
		list, path = unix.Llistxattr, path+"/"+name
	}
	buf := make([]byte, 1<<16) // XATTR_LIST_MAX, and XATTR_SIZE_MAX
	n, err := list(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []layers.Xattr
	for stored := range strings.SplitSeq(string(buf[:n]), "\x00") {
		shown, visible := d.mode.Shown(stored)
		if stored == "" || !visible || shown == selinux {
			continue
		}
		value, ok, err := readXattr(dir, name, stored, buf)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, layers.Xattr{Name: shown, Value: value})
		}
	}
	slices.SortFunc(all, func(a, b layers.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
