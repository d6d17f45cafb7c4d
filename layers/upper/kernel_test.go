package upper

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// A world is a file system of a test, with what is below it.
type world struct {
	t    testing.TB
	tree *layers.Tree
	path string // of the upper
	dir  *Dir
	*kernel
}

// newWorld makes a file system over a tree, with an empty upper. When the test is over its state has to be what is on the disk.
func newWorld(t testing.TB, tree *layers.Tree) *world {
	t.Helper()
	w := &world{t: t, tree: tree, path: t.TempDir()}
	w.mount()
	t.Cleanup(func() {
		w.check()
		w.unmount()
	})
	return w
}

func (w *world) mount() {
	w.t.Helper()
	d, err := Open(w.path+"/upper", &Options{Image: oneImage, Work: w.path + "/work"})
	must(w.t, err)
	f, err := New(d, w.tree, nil)
	must(w.t, err)
	w.dir, w.kernel = d, &kernel{fs: f, refs: make(map[uint64]uint64)}
}

func (w *world) unmount() {
	w.fs.Close()
	w.dir.Close()
}

// check compares what is seen with what a new mount of the upper shows, and wants nothing to be left in the work directory.
func (w *world) check() {
	w.t.Helper()
	before, err := w.dump()
	must(w.t, err)
	w.unmount()
	w.mount()
	after, err := w.dump()
	must(w.t, err)
	compareDumps(w.t, "before a new mount", before, "after it", after)
	names, err := namesIn(w.dir.Work)
	must(w.t, err)
	if len(names) > 0 {
		w.t.Errorf("left in the work directory: %q", names)
	}
}

func compareDumps(t testing.TB, a string, one map[string]string, b string, other map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(one)) {
		if one[name] != other[name] {
			t.Errorf("%s\n\t%s: %s\n\t%s: %s", name, a, one[name], b, other[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if _, ok := one[name]; !ok {
			t.Errorf("%s is there %s only: %s", name, b, other[name])
		}
	}
}

// A kernel asks a file system as Linux does: it looks up what it names, counts that, and forgets.
type kernel struct {
	fs *FS
	mu sync.Mutex
	// refs is how often each inode was looked up.
	refs map[uint64]uint64
}

func (k *kernel) got(a Attr, err error) (Attr, error) {
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.refs[a.ID]++
	}
	return a, err
}

// forget forgets a part of all inodes: one in n.
func (k *kernel) forget(r *rand.Rand, n int, but ...uint64) {
	for id, count := range k.refs {
		if r.IntN(n) == 0 && !slices.Contains(but, id) {
			k.fs.Forget(id, count)
			delete(k.refs, id)
		}
	}
}

// walk looks a path up, without following links.
func (k *kernel) walk(p string) (Attr, error) {
	a, err := k.fs.GetAttr(1)
	for _, name := range strings.FieldsFunc(p, func(r rune) bool { return r == '/' }) {
		if err != nil {
			return a, err
		}
		if !isDir(a.Mode) {
			return a, unix.ENOTDIR
		}
		a, err = k.got(k.fs.Lookup(a.ID, name))
	}
	return a, err
}

// parent looks up the directory of a path.
func (k *kernel) parent(p string) (id uint64, name string, err error) {
	a, err := k.walk(path.Dir(p))
	if err == nil && !isDir(a.Mode) {
		err = unix.ENOTDIR
	}
	return a.ID, path.Base(p), err
}

// me is who makes files.
func (k *kernel) me(mode uint32) *Creation {
	uid, gid := k.fs.shown(0, 0)
	return &Creation{Mode: mode, Umask: 0o022, UID: uid, GID: gid}
}

// unprivileged tells whether set-uid bits go when this process changes a file.
func (k *kernel) unprivileged() bool { return k.fs.Mode() == Recorded }

// make makes something at a path.
func (k *kernel) make(p string, how func(dir uint64, name string) (Attr, error)) error {
	dir, name, err := k.parent(p)
	if err != nil {
		return err
	}
	if _, err := k.got(k.fs.Lookup(dir, name)); err != unix.ENOENT {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	_, err = k.got(how(dir, name))
	return err
}

// write makes a file if it is not there, and writes text at off, after truncating it if truncate is set.
func (k *kernel) write(p, text string, off int64, truncate bool) error {
	var h *Handle
	err := k.make(p, func(dir uint64, name string) (a Attr, err error) {
		a, h, err = k.fs.Create(dir, name, k.me(unix.S_IFREG|0o666))
		return a, err
	})
	if err == unix.EEXIST {
		h, err = k.open(p, truncate)
	}
	if err != nil {
		return err
	}
	defer h.Release()
	_, err = h.Write([]byte(text), off, k.unprivileged())
	return err
}

// open opens a file that is there to read and write.
func (k *kernel) open(p string, truncate bool) (*Handle, error) {
	a, err := k.walk(p)
	switch {
	case err != nil:
		return nil, err
	case isDir(a.Mode):
		return nil, unix.EISDIR
	case a.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, unix.ELOOP
	}
	flags := uint32(unix.O_RDWR)
	if truncate {
		flags |= unix.O_TRUNC
	}
	return k.fs.Open(a.ID, flags, k.unprivileged())
}

// read reads a whole file.
func (k *kernel) read(id uint64) (string, error) {
	h, err := k.fs.Open(id, unix.O_RDONLY, false)
	if err != nil {
		return "", err
	}
	defer h.Release()
	a, err := k.fs.GetAttr(id)
	if err != nil || a.Size > 1<<24 {
		return "", err
	}
	buf := make([]byte, a.Size+1)
	n, err := h.Read(buf, 0)
	return string(buf[:n]), err
}

func (k *kernel) mkdir(p string, mode uint32) error {
	return k.make(p, func(dir uint64, name string) (Attr, error) { return k.fs.Mkdir(dir, name, k.me(unix.S_IFDIR|mode)) })
}

func (k *kernel) mknod(p string, mode uint32) error {
	return k.make(p, func(dir uint64, name string) (Attr, error) { return k.fs.Mknod(dir, name, k.me(mode)) })
}

func (k *kernel) symlink(target, p string) error {
	return k.make(p, func(dir uint64, name string) (Attr, error) {
		c := k.me(0)
		c.Target = target
		return k.fs.Symlink(dir, name, c)
	})
}

func (k *kernel) link(from, to string) error {
	a, err := k.walk(from)
	if err != nil {
		return err
	}
	return k.make(to, func(dir uint64, name string) (Attr, error) {
		if isDir(a.Mode) {
			return a, unix.EPERM
		}
		return k.fs.Link(a.ID, dir, name)
	})
}

func (k *kernel) unlink(p string) error {
	dir, name, err := k.parent(p)
	if err != nil {
		return err
	}
	if _, err := k.walk(p); err != nil {
		return err
	}
	return k.fs.Unlink(dir, name)
}

func (k *kernel) rmdir(p string) error {
	dir, name, err := k.parent(p)
	if err != nil {
		return err
	}
	if _, err := k.walk(p); err != nil {
		return err
	}
	return k.fs.Rmdir(dir, name)
}

// rename checks what Linux does before it asks.
func (k *kernel) rename(from, to string, flags uint32) error {
	fromDir, fromName, err := k.parent(from)
	if err != nil {
		return err
	}
	toDir, toName, err := k.parent(to)
	if err != nil {
		return err
	}
	a, err := k.walk(from)
	if err != nil {
		return err
	}
	b, err := k.walk(to)
	exchange := flags&unix.RENAME_EXCHANGE != 0
	switch {
	case err != nil && (exchange || err != unix.ENOENT):
		return err
	case err == nil && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case strings.HasPrefix(to, from+"/"):
		return unix.EINVAL
	case strings.HasPrefix(from, to+"/") && exchange:
		return unix.EINVAL
	case strings.HasPrefix(from, to+"/"):
		return unix.ENOTEMPTY
	case err == nil && a.ID == b.ID:
		return nil
	case err == nil && !exchange && isDir(a.Mode) && !isDir(b.Mode):
		return unix.ENOTDIR
	case err == nil && !exchange && !isDir(a.Mode) && isDir(b.Mode):
		return unix.EISDIR
	}
	return k.fs.Rename(fromDir, fromName, toDir, toName, flags)
}

func (k *kernel) change(p string, c *Change) error {
	a, err := k.walk(p)
	if err != nil {
		return err
	}
	_, err = k.fs.SetAttr(a.ID, c)
	return err
}

func (k *kernel) truncate(p string, size int64) error {
	h, err := k.open(p, false)
	if err != nil {
		return err
	}
	defer h.Release()
	return k.change(p, &Change{Size: &size, KillPriv: k.unprivileged()})
}

func (k *kernel) chmod(p string, mode uint32) error { return k.change(p, &Change{Mode: &mode}) }

func (k *kernel) setxattr(p, name, value string, flags uint32) error {
	a, err := k.walk(p)
	if err != nil {
		return err
	}
	return k.fs.Setxattr(a.ID, name, []byte(value), flags, false)
}

func (k *kernel) removexattr(p, name string) error {
	a, err := k.walk(p)
	if err != nil {
		return err
	}
	return k.fs.Removexattr(a.ID, name)
}

// list lists a directory.
func (k *kernel) list(id uint64) ([]string, error) {
	end, err := k.fs.End(id)
	if err != nil {
		return nil, err
	}
	var names []string
	for pos := uint64(0); ; {
		l, ok, err := k.fs.List(id, pos, end)
		if err != nil || !ok {
			return names, err
		}
		if !l.Dot {
			names = append(names, l.Name)
		}
		pos = l.Next
	}
}

// recent is when the time of tests began: what was changed since is said to be new, since no two clocks agree.
const recent = 1_600_000_000

// dump tells of everything that is seen, by its path.
func (k *kernel) dump() (map[string]string, error) {
	all := make(map[string]string)
	root, err := k.fs.GetAttr(1)
	if err != nil {
		return nil, err
	}
	return all, k.dumpInto(all, "/", root)
}

func (k *kernel) dumpInto(all map[string]string, p string, a Attr) error {
	line, err := k.describe(a)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	all[p] = line
	if !isDir(a.Mode) {
		return nil
	}
	names, err := k.list(a.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	for _, name := range names {
		child, err := k.got(k.fs.Lookup(a.ID, name))
		if err == nil {
			if _, twice := all[path.Join(p, name)]; twice {
				err = unix.EEXIST
			} else {
				err = k.dumpInto(all, path.Join(p, name), child)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path.Join(p, name), err)
		}
	}
	return nil
}

// describe tells of one inode, and checks what is told in two ways.
func (k *kernel) describe(a Attr) (string, error) {
	if again, err := k.fs.GetAttr(a.ID); err != nil || again != a {
		return "", fmt.Errorf("looked up as %+v, but %+v, %w", a, again, err)
	}
	content, err := "", error(nil)
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		content, err = k.fs.Readlink(a.ID)
	case unix.S_IFREG:
		content, err = k.read(a.ID)
	}
	if err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	n, err := k.fs.Listxattr(a.ID, buf)
	if err != nil {
		return "", err
	}
	xattrs, err := describeXattrs(string(buf[:n]), func(name string, dst []byte) (int, error) { return k.fs.Getxattr(a.ID, name, dst) })
	return describe(&a, content, xattrs), err
}

// describe is a line about a file. Sizes of directories are their file system's.
func describe(a *Attr, content, xattrs string) string {
	mtime := fmt.Sprint(a.Mtime.Nano())
	if a.Mtime.Sec > recent {
		mtime = "new"
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content = fmt.Sprintf("%d bytes %x", a.Size, sha256.Sum256([]byte(content)))[:24]
	case unix.S_IFCHR, unix.S_IFBLK:
		content = fmt.Sprintf("%d:%d", a.Major, a.Minor)
	}
	return fmt.Sprintf("%o %d:%d nlink %d mtime %s %q%s", a.Mode, a.UID, a.GID, a.Nlink, mtime, content, xattrs)
}

// describeXattrs tells of attributes, whose names are in list.
func describeXattrs(list string, get func(name string, dst []byte) (int, error)) (string, error) {
	names := strings.Split(list, "\x00")
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if name == "" || name == selinux {
			continue
		}
		var value [1 << 10]byte
		n, err := get(name, value[:])
		if err != nil {
			return "", fmt.Errorf("attribute %s: %w", name, err)
		}
		text += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return text, nil
}
