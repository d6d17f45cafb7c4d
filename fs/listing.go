package fs

import (
	"syscall"

	"imgfs/layers"
)

// firstChild is the position of a directory's first child, after "." and "..".
const firstChild = 2

// A listing is a directory as a sequence of entries. It is a value without state: an entry's position means the
// same to all readers and for ever.
type listing struct {
	tree   *layers.Tree
	dir    layers.Node
	lo, hi layers.Node
}

// A dirEntry is one name in a listing.
type dirEntry struct {
	name string
	attr layers.Attr
	next uint64 // the position after it
	dot  bool   // "." or "..", which the kernel does not look up
}

// list returns a directory's listing.
func (o operations) list(dir uint64) (listing, syscall.Errno) {
	d, errno := o.node(dir)
	if errno != 0 {
		return listing{}, errno
	}
	if o.tree.Attr(d).Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return listing{}, syscall.ENOTDIR
	}
	lo, hi := o.tree.Children(d)
	return listing{tree: o.tree, dir: d, lo: lo, hi: hi}, 0
}

// at returns the entry at a position, and false at the end or past it.
func (l listing) at(pos uint64) (dirEntry, bool) {
	switch pos {
	case 0:
		return dirEntry{name: ".", attr: l.tree.Attr(l.dir), next: 1, dot: true}, true
	case 1:
		return dirEntry{name: "..", attr: l.tree.Attr(l.tree.Parent(l.dir)), next: 2, dot: true}, true
	}
	child := pos - firstChild
	if child >= uint64(l.hi-l.lo) {
		return dirEntry{}, false
	}
	n := l.lo + layers.Node(child)
	return dirEntry{name: l.tree.Name(n), attr: l.tree.Attr(n), next: pos + 1}, true
}
