package layers

import (
	"errors"
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
	touched uint32 // time of the last entry that stands here or below
	set     uint32 // time of the entry that stands here
	cut     uint32 // what is below and was touched before is hidden
	inode   uint32 // index in draft.inodes
	pathLen uint16 // bytes of the path, with the slash in front
	nameLen uint8
	gone    bool
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

func newDraft() *draft {
	return &draft{
		table:  newTable(),
		spots:  make([]spot, 1),
		inodes: []inode{{mode: syscall.S_IFDIR | 0o755}},
		xattrs: newXattrSets(),
		start:  1,
		room:   maxSpots,
	}
}

func (d *draft) name(id uint32) []byte {
	p := &d.spots[id]
	return d.names[p.name : p.name+uint32(p.nameLen)]
}

// hold accounts for bytes of attributes, sparse maps or targets.
func (d *draft) hold(bytes int) error {
	if d.held += int64(bytes); d.held > freeHeld+heldPerEntry*int64(d.now) {
		return errHeld
	}
	return nil
}

func (d *draft) at(id uint32) *inode { return &d.inodes[d.spots[id].inode] }

// slot is the spot of a name in a directory, whatever is there; 0 if there never was anything.
func (d *draft) slot(dir uint32, name string, hash uint32) uint32 {
	for i := d.table.first(hash); ; i = d.table.next(i) {
		sl := d.table.slots[i]
		if sl.id == 0 || sl.hash == hash && d.spots[sl.id].parent == dir && string(d.name(sl.id)) == name {
			return sl.id
		}
	}
}

// child finds what is visible under a name in a directory that was itself
// found this way, which keeps its cut up to date with those above it.
func (d *draft) child(dir uint32, name string) (id uint32, ok bool) {
	id = d.slot(dir, name, d.table.hash(dir, name))
	return id, id != 0 && d.visible(id)
}

// visible tells whether id is there, if its directory is and has an up to date cut,
// and brings id's own cut up to date.
func (d *draft) visible(id uint32) bool {
	p := &d.spots[id]
	cut := d.spots[p.parent].cut
	if p.gone || p.touched < cut {
		return false
	}
	p.cut = max(p.cut, cut)
	if p.set < cut {
		// Only what is below was given since the cut: the directory itself is one that had to be made.
		p.set, p.inode = p.touched, madeDir
	}
	return true
}

// claim is the spot of a name in a directory, made if there is none, and whether
// something is visible there.
func (d *draft) claim(dir uint32, name string) (id uint32, visible bool, err error) {
	hash := d.table.hash(dir, name)
	if id = d.slot(dir, name, hash); id != 0 {
		return id, d.visible(id), nil
	}
	length := int(d.spots[dir].pathLen) + 1 + len(name)
	switch {
	case d.room == 0:
		return 0, false, errTooMany
	case len(name) > maxName:
		return 0, false, errLongName
	case length > 1+maxPath:
		return 0, false, errLongPath
	}
	d.room--
	id = uint32(len(d.spots))
	d.spots = append(d.spots, spot{
		parent:  dir,
		name:    uint32(len(d.names)), // maxSpots * maxName is below 2^32
		nameLen: uint8(len(name)),
		pathLen: uint16(length),
		gone:    true,
	})
	d.names = append(d.names, name...)
	d.table.add(hash, id)
	return id, false, nil
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
	d.spots[id].cut = d.now
	d.spots[id].inode = madeDir
	d.settle(id)
	return id, nil
}

// put makes ino what is at id. What is below id stays only if there is a directory
// before and after.
func (d *draft) put(id uint32, visible bool, ino inode) {
	p := &d.spots[id]
	if !visible || ino.kind() != syscall.S_IFDIR || d.at(id).kind() != syscall.S_IFDIR {
		p.cut = d.now
	}
	if p.inode == madeDir || d.at(id).shared {
		p.inode = uint32(len(d.inodes))
		d.inodes = append(d.inodes, ino)
	} else {
		*d.at(id) = ino
	}
	d.settle(id)
}

// link makes id another name of what is at target.
func (d *draft) link(id, target uint32) {
	d.at(target).shared = true
	d.spots[id].inode = d.spots[target].inode
	d.spots[id].cut = d.now
	d.settle(id)
}

// settle notes that the present entry stands at id.
func (d *draft) settle(id uint32) {
	p := &d.spots[id]
	p.gone, p.touched, p.set = false, d.now, d.now
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
		p.set, p.inode = p.touched, madeDir
	}
}

// hideBelow removes what lower layers gave below a visible id.
func (d *draft) hideBelow(id uint32) {
	p := &d.spots[id]
	p.cut = max(p.cut, d.start)
}
