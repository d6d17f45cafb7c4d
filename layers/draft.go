package layers

import (
	"cmp"
	"errors"
	"slices"
	"syscall"
)

// A spot is a path that some layer has named, be there something now or not.
// A spot's number is larger than its directory's, and stays its own: what is removed
// and made again is at the same spot.
//
// Times are numbers of entries, counted over all layers. They decide what is
// visible without a walk over what gets hidden: hiding all below a directory
// means to set its cut, and a spot is there if it isn't gone and was touched at or
// after the largest cut of the directories above it. So each removal takes constant
// time, however much it hides.
type spot struct {
	parent  uint32
	name    uint32 // offset in draft.names
	next    uint32 // the spot that was named after it in the same directory, or 0
	below   uint32 // index in draft.lists, or 0 as long as nothing was named below
	touched uint32 // time of the last entry that stands here or below
	set     uint32 // time of the entry that stands here
	inode   uint32 // index in draft.inodes
	layer   uint16 // of the entry that stands here
	nameLen uint8
	gone    bool
}

// A list is the spots that were named in a directory.
//
// Most layers name what is in a directory in order. As long as that is so for all layers that have named
// something, a name is a new one if it comes after the last; the table learns of a directory's names once that
// doesn't do any more.
type list struct {
	first, last uint32
	cut         uint32 // what is below and was touched before is hidden
	pathLen     uint16 // bytes of the directory's path, with the slash in front
	hashed      bool   // the names are in the table
	sorted      bool   // the names are in order; so they are if hashed isn't set
}

// An inode is what entries say of a file.
type inode struct {
	size      uint64
	ref       uint64 // as node.ref; a link's target is in draft.targets, a directory has none
	mtimeSec  int64
	mtimeNsec uint32
	uid, gid  uint32
	xattrs    uint32 // index in xattrSets.sets
	mode      uint16
	layer     uint16
	isSparse  bool
	shared    bool // several spots have it, or had
	shown     bool // it is in the tree, and ref is its first node there
}

func (i *inode) kind() uint32 { return uint32(i.mode) & syscall.S_IFMT }

// madeDir is the inode of every directory that no entry describes.
const madeDir = 0

// Bounds on the memory that layers can make Merge use. The first is far beyond any
// image; missing parents are limited in proportion to the entries, since one
// entry may need thousands of them.
const (
	maxSpots      = 1 << 24
	maxMade       = 1 << 18
	maxMadeFactor = 8
)

// What entries bring besides names is held until the end of the merge, also what belongs to files
// that are replaced. These bound the bytes of it: some to start with, which are far more than what any image
// has, and some for each entry.
const (
	freeHeld     = 64 << 20
	heldPerEntry = 1 << 10
)

var (
	errTooMany = errors.New("too many names for one tree")
	errMade    = errors.New("too many missing parents")
	errHeld    = errors.New("attributes, sparse maps and link targets take too much memory")
)

// A draft is the tree while layers are applied.
type draft struct {
	table   table
	spots   []spot
	lists   []list // the first is that of who has none
	inodes  []inode
	names   []byte // of all spots
	targets []byte // of all links
	sparse  []sparse
	xattrs  xattrSets
	held    int64    // bytes of the last three
	now     uint32   // the entry being applied; the first one is 1
	start   uint32   // the first entry of the layer being applied
	starts  []uint32 // the first entries of all layers so far
	made    uint32   // parents that were missing
	room    uint32   // for so many more spots
}

const root uint32 = 0

// maxExpected bounds the entries that memory is set aside for because they are said to come.
const maxExpected = 1 << 20

// textExpected is how many bytes of names are expected for each entry.
const textExpected = 20

// newDraft makes a draft for about so many entries.
func newDraft(entries int) *draft {
	entries = min(entries, maxExpected)
	return &draft{
		table:  newTable(),
		spots:  append(make([]spot, 0, entries+1), spot{below: 1}),
		lists:  []list{{}, {sorted: true}},
		inodes: append(make([]inode, 0, entries+1), inode{mode: syscall.S_IFDIR | 0o755}),
		names:  make([]byte, 0, entries*textExpected),
		xattrs: newXattrSets(),
		start:  1,
		room:   maxSpots,
	}
}

func (d *draft) name(id uint32) []byte {
	p := &d.spots[id]
	return d.names[p.name : p.name+uint32(p.nameLen)]
}

// list is what was named in a directory. It is not to be changed where that is nothing.
func (d *draft) list(dir uint32) *list { return &d.lists[d.spots[dir].below] }

// cut hides what is below a spot and was touched before a time.
func (d *draft) cut(id, time uint32) {
	if l := d.spots[id].below; l != 0 {
		d.lists[l].cut = max(d.lists[l].cut, time)
	}
}

// hold accounts for bytes of attributes, sparse maps or targets.
func (d *draft) hold(bytes int) error {
	if d.held += int64(bytes); d.held > freeHeld+heldPerEntry*int64(d.now) {
		return errHeld
	}
	return nil
}

func (d *draft) at(id uint32) *inode { return &d.inodes[d.spots[id].inode] }

// slot is the spot of a name in a directory, whatever is there; 0 if there never was anything. The hash is
// the name's, if the directory's names are hashed.
func (d *draft) slot(dir uint32, name string) (id, hash uint32) {
	l := d.list(dir)
	if !l.hashed {
		if l.last == 0 || name > string(d.name(l.last)) {
			return 0, 0
		}
		if name == string(d.name(l.last)) {
			return l.last, 0
		}
		d.hashAll(l)
	}
	hash = d.table.hash(dir, name)
	for i := d.table.first(hash); ; i = d.table.next(i) {
		sl := d.table.slots[i]
		if sl.id == 0 || sl.hash == hash && d.spots[sl.id].parent == dir && string(d.name(sl.id)) == name {
			return sl.id, hash
		}
	}
}

// hashAll puts a directory's names into the table.
func (d *draft) hashAll(l *list) {
	l.hashed = true
	for id := l.first; id != 0; id = d.spots[id].next {
		d.table.add(d.table.hash(d.spots[id].parent, string(d.name(id))), id)
	}
}

// child finds what is visible under a name in a directory that was itself
// found this way, which keeps its cut up to date with those above it.
func (d *draft) child(dir uint32, name string) (id uint32, ok bool) {
	id, _ = d.slot(dir, name)
	return id, id != 0 && d.visible(id)
}

// visible tells whether id is there, if its directory is and has an up to date cut,
// and brings id's own cut up to date.
func (d *draft) visible(id uint32) bool {
	p := &d.spots[id]
	cut := d.list(p.parent).cut
	if p.gone || p.touched < cut {
		return false
	}
	d.cut(id, cut)
	if p.set < cut {
		// Only what is below was given since the cut.
		d.unset(p)
	}
	return true
}

// unset makes what is visible at a spot a directory that had to be made.
func (d *draft) unset(p *spot) {
	p.set, p.inode, p.layer = p.touched, madeDir, d.layerAt(p.touched)
}

// claim is the spot of a name in a directory, made if there is none, and whether
// something is visible there.
func (d *draft) claim(dir uint32, name string) (id uint32, visible bool, err error) {
	id, hash := d.slot(dir, name)
	if id != 0 {
		return id, d.visible(id), nil
	}
	l := d.listed(dir)
	switch {
	case d.room == 0:
		return 0, false, errTooMany
	case len(name) > maxName:
		return 0, false, errLongName
	case int(l.pathLen)+1+len(name) > 1+maxPath:
		return 0, false, errLongPath
	}
	d.room--
	id = uint32(len(d.spots))
	if l.hashed {
		d.table.add(hash, id)
		l.sorted = l.sorted && name > string(d.name(l.last))
	}
	if l.first == 0 {
		l.first = id
	} else {
		d.spots[l.last].next = id
	}
	l.last = id
	d.spots = append(d.spots, spot{
		parent:  dir,
		name:    uint32(len(d.names)), // maxSpots * maxName is below 2^32
		nameLen: uint8(len(name)),
		gone:    true,
	})
	d.names = append(d.names, name...)
	return id, false, nil
}

// listed is the list of a directory, made if there is none.
func (d *draft) listed(dir uint32) *list {
	p := &d.spots[dir]
	if p.below == 0 {
		p.below = uint32(len(d.lists))
		d.lists = append(d.lists, list{sorted: true, pathLen: d.list(p.parent).pathLen + 1 + uint16(p.nameLen)})
	}
	return &d.lists[p.below]
}

// makeDir makes a parent directory that is missing.
func (d *draft) makeDir(dir uint32, name string) (uint32, error) {
	if d.made >= maxMade && d.made/maxMadeFactor >= d.now {
		return 0, errMade
	}
	d.made++
	id, _, err := d.claim(dir, name)
	if err != nil {
		return 0, err
	}
	d.cut(id, d.now)
	d.spots[id].inode = madeDir
	d.settle(id)
	return id, nil
}

// put makes what is at id a new file of a kind, and gives what is to be said of it. What is below id stays only if there is a
// directory before and after.
func (d *draft) put(id uint32, visible bool, kind uint16) *inode {
	p := &d.spots[id]
	if !visible || kind != syscall.S_IFDIR || d.at(id).kind() != syscall.S_IFDIR {
		d.cut(id, d.now)
	}
	if p.inode == madeDir || d.at(id).shared {
		p.inode = uint32(len(d.inodes))
		d.inodes = append(d.inodes, inode{mode: kind})
	} else {
		*d.at(id) = inode{mode: kind}
	}
	d.settle(id)
	return d.at(id)
}

// link makes id another name of what is at target.
func (d *draft) link(id, target uint32) {
	d.at(target).shared = true
	d.spots[id].inode = d.spots[target].inode
	d.cut(id, d.now)
	d.settle(id)
}

// settle notes that the present entry stands at id.
func (d *draft) settle(id uint32) {
	p := &d.spots[id]
	p.gone, p.touched, p.set, p.layer = false, d.now, d.now, uint16(len(d.starts)-1)
	// What this layer has touched has directories above it that this layer has touched.
	for p.parent != id {
		id = p.parent
		if p = &d.spots[id]; p.touched >= d.start {
			return
		}
		p.touched = d.now
	}
}

// hide removes what lower layers gave at a visible id and below.
func (d *draft) hide(id uint32) {
	p := &d.spots[id]
	if p.touched < d.start {
		p.gone = true
		return
	}
	d.hideBelow(id)
	if p.set < d.start {
		d.unset(p)
	}
}

// hideBelow removes what lower layers gave below a visible id.
func (d *draft) hideBelow(id uint32) { d.cut(id, d.start) }

// layerAt is the layer that a time belongs to.
func (d *draft) layerAt(t uint32) uint16 {
	after, _ := slices.BinarySearchFunc(d.starts, t, func(start, t uint32) int {
		return cmp.Compare(start, t+1) // the first that starts after t
	})
	return uint16(after - 1)
}
