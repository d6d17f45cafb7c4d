package layers

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
)

// tree makes a Tree of what the layers left, in time n log n and without regard to
// how deep it is.
func (m *merger) tree(layers []Layer) *Tree {
	m.table = table{} // it isn't needed any more, and the tree needs memory
	b := builder{draft: m.draft, sets: make([]uint32, len(m.xattrs.sets))}
	names, text := b.mark()
	b.t = &Tree{
		nodes:  make([]node, 0, names),
		xattrs: make([][]index.Xattr, 1),
		tars:   make([]io.ReaderAt, len(layers)),
	}
	for i := range layers {
		b.t.tars[i] = layers[i].Tar
	}
	b.text.Grow(text)
	b.add(root, Root)
	for i := 0; i < len(b.t.nodes); i++ {
		if b.t.nodes[i].mode&syscall.S_IFMT == syscall.S_IFDIR {
			b.adopt(Node(i))
		}
	}
	b.finish()
	return b.t
}

// A builder turns a draft into a Tree.
type builder struct {
	*draft
	group []uint32 // scratch
	sets  []uint32 // xattr sets of the tree by those of the draft, or 0
	text  strings.Builder
	t     *Tree
}

// mark finds out what is visible, and marks the rest as gone: how many names there are, and how many bytes of them and
// of targets, as far as each belongs to one name. Spots come after their directories, so one look at each is
// enough to know, and the cuts are up to date for those that follow.
func (b *builder) mark() (names, text int) {
	names = 1
	for id := 1; id < len(b.spots); id++ {
		p := &b.spots[id]
		if p.gone = b.spots[p.parent].gone || !b.visible(uint32(id)); p.gone {
			continue
		}
		names++
		text += int(p.nameLen)
		if ino := &b.inodes[p.inode]; ino.kind() == syscall.S_IFLNK && !ino.shared {
			text += int(ino.size)
		}
	}
	return names, text
}

// add adds the node of a spot. If it is a directory its ref is the spot's number for now.
func (b *builder) add(id uint32, parent Node) {
	p, ino, i := &b.spots[id], b.at(id), Node(len(b.t.nodes))
	b.t.nodes = append(b.t.nodes, node{})
	n := &b.t.nodes[i]
	if ino.shown {
		n.inode = Node(ino.ref)
		*n = b.t.nodes[n.inode]
		b.t.nodes[n.inode].nlink++
	} else {
		b.describe(n, ino, id)
		n.inode = i
	}
	n.name, n.nameLen = uint32(b.text.Len()), p.nameLen
	b.text.Write(b.name(id))
	n.parent, n.layer = parent, p.layer
	if ino.kind() == syscall.S_IFDIR && i != Root {
		b.t.nodes[parent].nlink++
	}
	if ino.shared {
		ino.shown, ino.ref = true, uint64(n.inode)
	}
}

// describe sets what names that are the same file share.
func (b *builder) describe(n *node, ino *inode, id uint32) {
	n.size, n.ref, n.isSparse = ino.size, ino.ref, ino.isSparse
	n.mode, n.uid, n.gid = ino.mode, ino.uid, ino.gid
	n.mtimeSec, n.mtimeNsec = ino.mtimeSec, ino.mtimeNsec
	n.data, n.xattrs, n.nlink = ino.layer, b.set(ino.xattrs), 1
	b.t.files++
	switch ino.kind() {
	case syscall.S_IFDIR:
		n.size, n.ref, n.nlink = dirSize, uint64(id), 2
	case syscall.S_IFREG:
		if ino.isSparse {
			n.ref = uint64(len(b.t.sparse))
			b.t.sparse = append(b.t.sparse, b.sparse[ino.ref])
		}
		b.t.content += b.t.stored(n)
	}
}

// set is the number in the tree of a set of attributes.
func (b *builder) set(n uint32) uint32 {
	if n != 0 && b.sets[n] == 0 {
		b.sets[n] = uint32(len(b.t.xattrs))
		b.t.xattrs = append(b.t.xattrs, b.xattrs.sets[n])
	}
	return b.sets[n]
}

// adopt adds the children of a directory, sorted.
func (b *builder) adopt(dir Node) {
	first := len(b.t.nodes)
	l := b.list(uint32(b.t.nodes[dir].ref))
	b.group = b.group[:0]
	for id := l.first; id != 0; id = b.spots[id].next {
		switch {
		case b.spots[id].gone:
		case l.sorted:
			b.add(id, dir)
		default:
			b.group = append(b.group, id)
		}
	}
	slices.SortFunc(b.group, func(x, y uint32) int { return bytes.Compare(b.name(x), b.name(y)) })
	for _, id := range b.group {
		b.add(id, dir)
	}
	b.t.nodes[dir].ref = uint64(first)<<32 | uint64(len(b.t.nodes))
}

// finish adds the targets of links to the text, once for each inode, and counts the names of each for all of them.
func (b *builder) finish() {
	for i := range b.t.nodes {
		n := &b.t.nodes[i]
		switch {
		case n.inode != Node(i):
			n.ref, n.nlink = b.t.nodes[n.inode].ref, b.t.nodes[n.inode].nlink
		case n.mode&syscall.S_IFMT == syscall.S_IFLNK:
			at := b.text.Len()
			b.text.Write(b.targets[n.ref : n.ref+n.size])
			n.ref = uint64(at)
		}
	}
	b.t.text = b.text.String()
}
