package layers

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
)

// tree makes a Tree of what the layers left, in time n log n and without regard to
// how deep it is.
func (m *merger) tree(layers []Layer) *Tree {
	b := builder{draft: m.draft, groups: m.children()}
	b.arrange()
	b.t = &Tree{
		nodes:  make([]node, len(b.order)),
		xattrs: make([][]index.Xattr, 1),
		tars:   make([]io.ReaderAt, len(layers)),
	}
	for i := range layers {
		b.t.tars[i] = layers[i].Tar
	}
	b.fill()
	return b.t
}

// groups are visible spots by directory: those of spot d are ids[from[d]:from[d+1]].
type groups struct{ ids, from []uint32 }

// children finds what is visible. Spots come after their directories, so one look at each is
// enough to know, and the cuts are up to date for those that follow.
func (d *draft) children() groups {
	g := groups{from: make([]uint32, len(d.spots)+1)}
	shown := uint32(0)
	for id := 1; id < len(d.spots); id++ {
		p := &d.spots[id]
		if p.gone = d.spots[p.parent].gone || !d.visible(uint32(id)); !p.gone {
			g.from[p.parent+1]++
			shown++
		}
	}
	for i := 1; i < len(g.from); i++ {
		g.from[i] += g.from[i-1]
	}
	g.ids = make([]uint32, shown)
	next := slices.Clone(g.from)
	for id := 1; id < len(d.spots); id++ {
		if p := &d.spots[id]; !p.gone {
			g.ids[next[p.parent]] = uint32(id)
			next[p.parent]++
		}
	}
	return g
}

func (g *groups) of(dir uint32) []uint32 { return g.ids[g.from[dir]:g.from[dir+1]] }

// A builder turns a draft into a Tree.
type builder struct {
	*draft
	groups
	order []uint32 // spots by node
	first []Node   // by inode: its first name, or 0
	sets  []uint32 // xattr sets of the tree by those of the draft, or 0
	text  strings.Builder
	t     *Tree
}

// arrange sorts the spots: the root, its children, the children of the first of these, and so on.
func (b *builder) arrange() {
	byName := func(x, y uint32) int { return bytes.Compare(b.name(x), b.name(y)) }
	b.order = make([]uint32, 1, len(b.ids)+1)
	for i := 0; i < len(b.order); i++ {
		group := b.of(b.order[i])
		if !slices.IsSortedFunc(group, byName) {
			slices.SortFunc(group, byName)
		}
		b.order = append(b.order, group...)
	}
}

// fill fills in the nodes.
func (b *builder) fill() {
	b.first = make([]Node, len(b.inodes))
	b.sets = make([]uint32, len(b.xattrs.sets))
	b.text.Grow(b.textLen())
	next := uint32(1) // the first child of the next directory
	for i, id := range b.order {
		n := &b.t.nodes[i]
		n.name = uint32(b.text.Len())
		n.nameLen = uint8(len(b.name(id)))
		b.text.Write(b.name(id))
		b.describe(Node(i), n, id)
		if b.at(id).kind() == syscall.S_IFDIR {
			next = b.adopt(Node(i), n, id, next)
		}
	}
	b.addTargets()
	b.t.text = b.text.String()
	b.countLinks()
}

// textLen is how many bytes Tree.text will have.
func (b *builder) textLen() int {
	n := 0
	for _, id := range b.order {
		n += int(b.spots[id].nameLen)
		if ino := b.at(id); ino.kind() == syscall.S_IFLNK {
			n += int(ino.size)
		}
	}
	return n
}

// describe sets what is the same for all types.
func (b *builder) describe(i Node, n *node, id uint32) {
	ino := b.at(id)
	n.size, n.ref, n.isSparse = ino.size, ino.ref, ino.isSparse
	n.mode, n.uid, n.gid = ino.mode, ino.uid, ino.gid
	n.mtimeSec, n.mtimeNsec = ino.mtimeSec, ino.mtimeNsec
	n.data, n.layer = ino.layer, b.layerAt(b.spots[id].set)
	n.xattrs = b.set(ino.xattrs)
	n.inode = i
	if ino.shared {
		k := b.spots[id].inode
		if b.first[k] == 0 {
			b.first[k] = i // never the root, which is a directory
		}
		n.inode = b.first[k]
	}
}

// layerAt is the layer that a time belongs to.
func (d *draft) layerAt(t uint32) uint16 {
	after, _ := slices.BinarySearchFunc(d.starts, t, func(start, t uint32) int {
		return cmp.Compare(start, t+1) // the first that starts after t
	})
	return uint16(max(after, 1) - 1) // before the first: the root that no entry describes
}

// set is the number in the tree of a set of attributes.
func (b *builder) set(n uint32) uint32 {
	if n != 0 && b.sets[n] == 0 {
		b.sets[n] = uint32(len(b.t.xattrs))
		b.t.xattrs = append(b.t.xattrs, b.xattrs.sets[n])
	}
	return b.sets[n]
}

// adopt gives a directory its children, which are the nodes from first on, and
// tells where the next directory's start.
func (b *builder) adopt(i Node, n *node, id, first uint32) uint32 {
	group := b.of(id)
	end := first + uint32(len(group))
	n.size, n.ref, n.nlink = dirSize, uint64(first)<<32|uint64(end), 2
	for k, child := range group {
		b.t.nodes[first+uint32(k)].parent = i
		if b.at(child).kind() == syscall.S_IFDIR {
			n.nlink++
		}
	}
	return end
}

// addTargets adds the targets of links to the text, and the content of sparse files to the tree,
// once for each inode.
func (b *builder) addTargets() {
	for i := range b.t.nodes {
		n := &b.t.nodes[i]
		switch {
		case n.inode != Node(i):
			n.ref = b.t.nodes[n.inode].ref
		case n.isSparse:
			b.t.sparse = append(b.t.sparse, b.sparse[n.ref])
			n.ref = uint64(len(b.t.sparse) - 1)
		case n.mode&syscall.S_IFMT == syscall.S_IFLNK:
			at := b.text.Len()
			b.text.Write(b.targets[n.ref : n.ref+n.size])
			n.ref = uint64(at)
		}
	}
}

// countLinks counts the names of each inode, and what statfs wants to know.
func (b *builder) countLinks() {
	nodes := b.t.nodes
	for i := range nodes {
		n := &nodes[i]
		if n.mode&syscall.S_IFMT != syscall.S_IFDIR {
			nodes[n.inode].nlink++
		}
		if n.inode != Node(i) {
			continue
		}
		b.t.files++
		if n.mode&syscall.S_IFMT == syscall.S_IFREG {
			b.t.content += b.t.stored(n)
		}
	}
	for i := range nodes {
		nodes[i].nlink = nodes[nodes[i].inode].nlink
	}
}
