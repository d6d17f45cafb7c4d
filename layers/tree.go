package layers

import (
	"io"
	"strings"
	"syscall"

	"imgfs/index"
)

// A Node is the position of a name in a Tree; the root is 0. Nodes are sorted
// by (parent, name), so a parent's number is smaller than its children's, and the
// children of a directory follow one another.
type Node uint32

// Root is the node of a Tree's root directory.
const Root Node = 0

// dirSize is the size every directory is said to have, and blockSize the unit of
// Attr.Blocks, in bytes.
const (
	dirSize   = 4096
	blockSize = 512
)

// A Tree is the layers of an image, merged. It is immutable and safe for
// concurrent use. Methods that take a Node want one of this tree (below Len).
type Tree struct {
	nodes   []node
	text    string          // names in the order of nodes, then link targets
	sparse  []sparse        // of the files that are not one run of bytes in the tar
	xattrs  [][]index.Xattr // the sets in use; the first is empty
	tars    []io.ReaderAt   // by layer
	files   uint64
	content uint64
}

// A node is one name and what it stands for: 64 bytes, a cache line, on purpose.
// Names that are hard links of each other hold the same attributes.
type node struct {
	size uint64 // of a file or a link's target; a directory's is dirSize
	// ref is, by type: a file's offset in the tar (or index in Tree.sparse), the
	// offset of a link's target in Tree.text, a device's major<<32 | minor, a
	// directory's first child<<32 | the one after its last.
	ref       uint64
	mtimeSec  int64
	mtimeNsec uint32
	uid, gid  uint32
	nlink     uint32
	xattrs    uint32 // index in Tree.xattrs
	name      uint32 // offset in Tree.text
	parent    Node
	inode     Node   // the first of the names that share the inode
	mode      uint16 // S_IFMT | 12 bits
	layer     uint16 // that gave the name
	data      uint16 // layer that gave the content
	nameLen   uint8
	isSparse  bool
}

// An Attr is what stat(2) tells of a node.
type Attr struct {
	Ino       uint64 // the same in every merge of the same layers
	Size      uint64 // bytes; a link's is its target's length, a directory's fixed
	Blocks    uint64 // units of 512 bytes with data in the tar; holes don't count
	MtimeSec  int64
	MtimeNsec uint32
	Mode      uint32 // S_IFMT | 12 bits
	Nlink     uint32 // names in the tree; a directory's is 2 + its directories
	UID, GID  uint32
	Major     uint32 // of a device
	Minor     uint32
}

// Len is the number of names in the tree, the root included.
func (t *Tree) Len() int { return len(t.nodes) }

// Lookup finds name in dir. It does not interpret "." and "..", and finds nothing in
// what is not a directory.
func (t *Tree) Lookup(dir Node, name string) (Node, bool) {
	lo, end := t.Children(dir)
	for hi := end; lo < hi; {
		mid := lo + (hi-lo)/2
		switch c := strings.Compare(t.Name(mid), name); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// Children are the nodes lo <= n < hi, sorted by name; none where dir is no
// directory.
func (t *Tree) Children(dir Node) (lo, hi Node) {
	n := &t.nodes[dir]
	if n.mode&syscall.S_IFMT != syscall.S_IFDIR {
		return 0, 0
	}
	return Node(n.ref >> 32), Node(n.ref & (1<<32 - 1))
}

// Name is the last component of n's path; the root's is empty.
func (t *Tree) Name(n Node) string {
	at := t.nodes[n].name
	return t.text[at : at+uint32(t.nodes[n].nameLen)]
}

// Parent is the directory n is in; the root's is the root.
func (t *Tree) Parent(n Node) Node { return t.nodes[n].parent }

// Path is n's path from the root, with a slash in front.
func (t *Tree) Path(n Node) string {
	if n == Root {
		return "/"
	}
	var names []string
	for ; n != Root; n = t.Parent(n) {
		names = append(names, t.Name(n))
	}
	var b strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(names[i])
	}
	return b.String()
}

// Inode is the first of the names that are hard links of n; n itself where
// there are no others.
func (t *Tree) Inode(n Node) Node { return t.nodes[n].inode }

// Attr is what stat(2) tells of n.
func (t *Tree) Attr(n Node) Attr {
	d := &t.nodes[n]
	a := Attr{
		Ino:       uint64(d.inode) + 1,
		Size:      d.size,
		MtimeSec:  d.mtimeSec,
		MtimeNsec: d.mtimeNsec,
		Mode:      uint32(d.mode),
		Nlink:     d.nlink,
		UID:       d.uid,
		GID:       d.gid,
	}
	switch d.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		a.Blocks = (t.stored(d) + blockSize - 1) / blockSize
	case syscall.S_IFBLK, syscall.S_IFCHR:
		a.Major, a.Minor = uint32(d.ref>>32), uint32(d.ref)
	}
	return a
}

// Readlink is the target of a symbolic link, and empty for what is none.
func (t *Tree) Readlink(n Node) string {
	d := &t.nodes[n]
	if d.mode&syscall.S_IFMT != syscall.S_IFLNK {
		return ""
	}
	return t.text[d.ref : d.ref+d.size]
}

// Xattrs are n's extended attributes, sorted by name. They belong to the tree:
// the caller does not change them.
func (t *Tree) Xattrs(n Node) []index.Xattr { return t.xattrs[t.nodes[n].xattrs] }

// Xattr is the value of one extended attribute of n.
func (t *Tree) Xattr(n Node, name string) (value string, ok bool) {
	list := t.Xattrs(n)
	i, ok := findXattr(list, name)
	if !ok {
		return "", false
	}
	return list[i].Value, true
}

// Layer is the position, bottom first, of the layer whose entry gave n its name and
// attributes, or below which n's directory had to be made.
func (t *Tree) Layer(n Node) int { return int(t.nodes[n].layer) }

// Usage is what statfs(2) needs: the number of inodes, and the bytes of
// content that are stored for them, holes not counted.
func (t *Tree) Usage() (files, bytes uint64) { return t.files, t.content }
