package layers

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
)

// A Kind of change is a letter, as docker diff has them.
type Kind byte

const (
	Added   Kind = 'A'
	Changed Kind = 'C'
	Deleted Kind = 'D'
)

// A Change is a difference of one tree from another. The children of what is added are changes themselves; those of what is
// deleted are not. A directory with changes in it is changed, but for the root.
type Change struct {
	Kind Kind
	Path string
	// What is different about what is changed: "type", or any of "mode", "owner", "mtime", "device", "target", "xattrs", "content".
	// It is empty for a directory that is the same by itself. The times of directories don't count.
	What []string
}

// A File is what there is to know of a file, but for its content.
type File struct {
	Attr   Attr
	Target string  // of a symbolic link
	Xattrs []Xattr // sorted by name
}

// File is what there is to know of n. Its lists belong to the tree.
func (t *Tree) File(n Node) File { return File{t.Attr(n), t.Readlink(n), t.Xattrs(n)} }

// Differs tells in what two files differ, in Change's words. Their content is said to differ only where their sizes do.
func (f *File) Differs(g *File) []string {
	a, b := &f.Attr, &g.Attr
	kind := a.Mode & syscall.S_IFMT
	if kind != b.Mode&syscall.S_IFMT {
		return []string{"type"}
	}
	var what []string
	add := func(name string, differs bool) {
		if differs {
			what = append(what, name)
		}
	}
	add("mode", a.Mode != b.Mode)
	add("owner", a.UID != b.UID || a.GID != b.GID)
	add("mtime", kind != syscall.S_IFDIR && (a.MtimeSec != b.MtimeSec || a.MtimeNsec != b.MtimeNsec))
	add("device", a.Major != b.Major || a.Minor != b.Minor)
	add("target", f.Target != g.Target)
	add("xattrs", !slices.Equal(f.Xattrs, g.Xattrs))
	add("content", kind == syscall.S_IFREG && a.Size != b.Size)
	return what
}

// Changes puts what is found in a walk over two trees in order: a directory comes before the changes in it, of which the walk
// does not know yet when it enters it.
type Changes struct {
	yield func(Change) error
	way   []string // directories from below the root to where the walk is
	told  int      // how many of them are told of
}

// NewChanges returns Changes that calls yield with each.
func NewChanges(yield func(Change) error) *Changes { return &Changes{yield: yield} }

// Enter is called before what is in a directory that is in both trees, with what differs about it, and Leave after that.
func (c *Changes) Enter(path string, what []string) error {
	if len(what) > 0 {
		if err := c.Tell(Change{Changed, path, what}); err != nil {
			return err
		}
		c.told++
	}
	c.way = append(c.way, path)
	return nil
}

// Leave is Enter's other end.
func (c *Changes) Leave() {
	c.way = c.way[:len(c.way)-1]
	c.told = min(c.told, len(c.way))
}

// Tell tells of a change where the walk is.
func (c *Changes) Tell(ch Change) error {
	for ; c.told < len(c.way); c.told++ {
		if dir := c.way[c.told]; dir != "/" {
			if err := c.yield(Change{Changed, dir, nil}); err != nil {
				return err
			}
		}
	}
	return c.yield(ch)
}

// Diff calls yield with each change from a to b, sorted by path, names compared as bytes. Files are compared by content where
// all else is no proof: same tells whether the tar of a layer of a is that of a layer of b. Errors are those of reads, and yield's.
func Diff(a, b *Tree, same func(layerOfA, layerOfB int) bool, yield func(Change) error) error {
	d := &differ{a: a, b: b, same: same, Changes: NewChanges(yield)}
	return d.both(Root, Root)
}

type differ struct {
	*Changes
	a, b *Tree
	same func(a, b int) bool
}

// both compares a name that is in both trees.
func (d *differ) both(n, m Node) error {
	f, g := d.a.File(n), d.b.File(m)
	what := f.Differs(&g)
	if f.Attr.Mode&syscall.S_IFMT == syscall.S_IFREG && !slices.Contains(what, "content") && !slices.Contains(what, "type") {
		same, err := d.sameContent(n, m)
		if err != nil {
			return err
		}
		if !same {
			what = append(what, "content")
		}
	}
	if err := d.Enter(d.b.Path(m), what); err != nil {
		return err
	}
	defer d.Leave()
	return d.children(n, m)
}

// children compares the names in what is a directory of at least one tree, or else has none.
func (d *differ) children(n, m Node) error {
	lo, hi := d.a.Children(n)
	lo2, hi2 := d.b.Children(m)
	for lo < hi || lo2 < hi2 {
		order := 0
		switch {
		case lo == hi:
			order = 1
		case lo2 == hi2:
			order = -1
		default:
			order = strings.Compare(d.a.Name(lo), d.b.Name(lo2))
		}
		var err error
		switch {
		case order < 0:
			err = d.Tell(Change{Deleted, d.a.Path(lo), nil})
		case order > 0:
			err = d.added(lo2)
		default:
			err = d.both(lo, lo2)
		}
		if err != nil {
			return err
		}
		if order <= 0 {
			lo++
		}
		if order >= 0 {
			lo2++
		}
	}
	return nil
}

// added tells of a name that is only in b, and of all below it.
func (d *differ) added(m Node) error {
	if err := d.Tell(Change{Added, d.b.Path(m), nil}); err != nil {
		return err
	}
	for lo, hi := d.b.Children(m); lo < hi; lo++ {
		if err := d.added(lo); err != nil {
			return err
		}
	}
	return nil
}

// sameContent compares two files of the same size.
func (d *differ) sameContent(n, m Node) (bool, error) {
	x, y := d.a.Extents(n), d.b.Extents(m)
	if d.same(int(d.a.nodes[n].data), int(d.b.nodes[m].data)) && slices.Equal(x, y) {
		return true, nil
	}
	for _, e := range slices.Concat(x, y) { // what has data in neither is the same
		same, err := EqualContent(d.a.Reader(n), d.b.Reader(m), e.Logical, e.Length)
		if !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// A reader is a file's content.
type reader struct {
	tree *Tree
	n    Node
}

func (r reader) ReadAt(p []byte, off int64) (int, error) { return r.tree.ReadAt(r.n, p, off) }

// Reader reads a regular file as ReadAt does.
func (t *Tree) Reader(n Node) io.ReaderAt { return reader{t, n} }

// EqualContent compares size bytes of two contents from off on. One that is shorter is different.
func EqualContent(a, b io.ReaderAt, off, size int64) (bool, error) {
	const piece = 1 << 20
	p, q := make([]byte, min(size, piece)), make([]byte, min(size, piece))
	for end := off + size; off < end; off += int64(len(p)) {
		p, q = p[:min(piece, end-off)], q[:min(piece, end-off)]
		n, err := a.ReadAt(p, off)
		if n < len(p) && !errors.Is(err, io.EOF) {
			return false, err
		}
		m, err := b.ReadAt(q, off)
		if m < len(q) && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n != m || n < len(p) || !bytes.Equal(p, q) {
			return false, nil
		}
	}
	return true, nil
}
