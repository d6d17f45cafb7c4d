package upper

import (
	"bytes"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// maxXattrs is XATTR_LIST_MAX: the bytes of all names of a file's attributes, each with a NUL.
const maxXattrs = 64 << 10

// Getxattr copies the value of an extended attribute to dst and returns its size. An empty dst asks for the size alone. A name the
// file does not have is ENODATA, whatever its namespace.
func (f *FS) Getxattr(id uint64, name string, dst []byte) (int, error) {
	i, err := f.find(id)
	if err != nil {
		return 0, err
	}
	if i == nil || !i.inUpper.Load() {
		value, ok := f.tree.Xattr(lowerNode(id), name)
		if !ok {
			return 0, unix.ENODATA
		}
		return fill(dst, value)
	}
	if i.isBareOf(name) {
		return 0, unix.ENODATA
	}
	stored, ok := f.dir.Mode.Stored(name)
	if !ok {
		return 0, unix.ENODATA
	}
	n := 0
	err = f.withXattrs(i, func(l location, follow bool) (err error) {
		if follow {
			n, err = unix.Getxattr(l.path(), stored, dst)
		} else {
			n, err = unix.Lgetxattr(l.path(), stored, dst)
		}
		return err
	})
	if err == unix.ENOTSUP || err == unix.EPERM {
		err = unix.ENODATA // ENOTSUP would tell the kernel that there are no attributes at all
	}
	return max(n, 0), err
}

// isBareOf tells that an inode can't have an attribute, without asking: Linux asks for capabilities before it writes, and
// programs that copy files ask for ACLs. Other attributes in their namespaces it may have from the upper's file system.
func (i *inode) isBareOf(name string) bool {
	return i.bare.Load() && (name == capability || !strings.HasPrefix(name, "security."))
}

// fill answers with a value, by the rule of getxattr(2) and listxattr(2).
func fill(dst []byte, value string) (int, error) {
	if len(dst) > 0 && len(value) > len(dst) {
		return len(value), unix.ERANGE
	}
	copy(dst, value)
	return len(value), nil
}

// withXattrs calls do with where an inode of the upper is reached, and whether its path has to be followed.
func (f *FS) withXattrs(i *inode, do func(l location, follow bool) error) error {
	f.topo.RLock()
	defer f.topo.RUnlock()
	i.mu.RLock()
	defer i.mu.RUnlock()
	l, err := f.locate(i)
	if err != nil {
		return err
	}
	defer l.release()
	return do(l, l.name == "")
}

// Listxattr copies the names of all extended attributes to dst, each with a NUL after it, and returns their size in bytes. An empty
// dst asks for the size alone.
func (f *FS) Listxattr(id uint64, dst []byte) (int, error) {
	i, err := f.find(id)
	if err != nil {
		return 0, err
	}
	if i == nil || !i.inUpper.Load() {
		return fill(dst, f.lowerXattrs(lowerNode(id)))
	}
	if i.bare.Load() {
		return 0, nil
	}
	var names string
	err = f.withXattrs(i, func(l location, follow bool) error {
		names, err = f.shownXattrs(l, follow)
		return err
	})
	if err == unix.ENOTSUP {
		err = nil
	}
	if err != nil {
		return 0, err
	}
	return fill(dst, names)
}

func (f *FS) lowerXattrs(n layers.Node) string {
	var names []byte
	for _, x := range f.tree.Xattrs(n) {
		names = append(append(names, x.Name...), 0)
	}
	return string(names)
}

var xattrBuffers = sync.Pool{New: func() any { return new([maxXattrs]byte) }}

// shownXattrs are the names of a file's attributes as they are seen, each with a NUL after it.
func (f *FS) shownXattrs(l location, follow bool) (string, error) {
	list := unix.Llistxattr
	if follow {
		list = unix.Listxattr
	}
	buf := xattrBuffers.Get().(*[maxXattrs]byte)
	defer xattrBuffers.Put(buf)
	n, err := list(l.path(), buf[:])
	if err != nil {
		return "", err
	}
	var names []byte
	for stored := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(stored) == 0 {
			continue
		}
		if name, ok := f.dir.Mode.Shown(string(stored)); ok {
			names = append(append(names, name...), 0)
		}
	}
	return string(names), nil
}

// Setxattr sets an extended attribute, with the flags of setxattr(2). killSetGID is whether the set-gid bit goes with that.
func (f *FS) Setxattr(id uint64, name string, value []byte, flags uint32, killSetGID bool) error {
	stored, ok := f.dir.Mode.Stored(name)
	if !ok {
		return unix.ERANGE
	}
	i, err := f.find(id)
	if err != nil {
		return err
	}
	if i == nil || !i.inUpper.Load() {
		_, has := f.tree.Xattr(lowerNode(id), name)
		switch {
		case has && flags&unix.XATTR_CREATE != 0:
			return unix.EEXIST
		case !has && flags&unix.XATTR_REPLACE != 0:
			return unix.ENODATA
		}
	}
	err = f.changeXattrs(id, func(l location, follow bool) error {
		if follow {
			return unix.Setxattr(l.path(), stored, value, int(flags))
		}
		return unix.Lsetxattr(l.path(), stored, value, int(flags))
	})
	if err != nil || !killSetGID {
		return err
	}
	a, err := f.GetAttr(id)
	if err != nil || a.Mode&unix.S_ISGID == 0 {
		return err
	}
	mode := a.Mode &^ unix.S_ISGID
	_, err = f.SetAttr(id, &Change{Mode: &mode})
	return err
}

// Removexattr removes an extended attribute.
func (f *FS) Removexattr(id uint64, name string) error {
	stored, ok := f.dir.Mode.Stored(name)
	if !ok {
		return unix.ENODATA
	}
	i, err := f.find(id)
	if err != nil {
		return err
	}
	if i == nil || !i.inUpper.Load() {
		if _, has := f.tree.Xattr(lowerNode(id), name); !has {
			return unix.ENODATA
		}
	}
	return f.changeXattrs(id, func(l location, follow bool) error {
		if follow {
			return unix.Removexattr(l.path(), stored)
		}
		return unix.Lremovexattr(l.path(), stored)
	})
}

// changeXattrs is withXattrs for a change, before which the inode is copied up.
func (f *FS) changeXattrs(id uint64, do func(l location, follow bool) error) error {
	i, err := f.inUpper(id, maxSize)
	if err != nil {
		return err
	}
	i.bare.Store(false)
	if i.dir != nil {
		i.mu.Lock()
		i.dir.inherits.known = false
		i.mu.Unlock()
	}
	return f.withXattrs(i, do)
}
