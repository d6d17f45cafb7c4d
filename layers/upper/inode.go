package upper

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"imgfs/layers"
)

// An inode is what has been touched: one of the upper, one of the lower that has been copied up or hidden in part, or a
// directory of the lower that had to be gone through.
type inode struct {
	id   uint64 // node ID
	ino  uint64 // st_ino
	kind uint32 // S_IFMT as the kernel sees it

	// What it is in the lower, if it is there: the tree's inode of a file, the directory it covers.
	lower    layers.Node
	hasLower bool

	inUpper atomic.Bool  // once true it stays so
	lookups atomic.Int64 // of one that is not in the lower; see slot
	told    atomic.Int64 // the ctime that Attr last told, in nanoseconds
	bare    atomic.Bool  // it has no attribute but such that Linux gave it
	copying sync.Mutex   // held while it is being copied up

	// mu protects the following, and what is in dir.
	mu       sync.RWMutex
	names    []link      // in the upper, as far as they are known; of a directory one, also where it is not in the upper
	nlink    uint32      // visible names, of a lower inode that is not in the upper
	orphan   bool        // without any name that is known
	anchor   *descriptor // what an orphan that is in the upper is reached by
	backing  uint64      // the inode in the upper
	recorded *Stat       // what Recorded mode's attribute says; nil where there is none
	opens    int         // how often it is open
	file     *descriptor // of a file, while it is open
	writable bool        // file is

	dir *directory // of a directory
}

// A link is a name of an inode in a directory. A directory's own changes only while FS.topo is held alone.
type link struct {
	dir  *inode
	name string
}

// letGo closes what an orphan is reached by.
func (i *inode) letGo() {
	if i.anchor != nil {
		i.anchor.release()
		i.anchor = nil
	}
}

// moved replaces a name of an inode; an empty link is none.
func (i *inode) moved(from, to link) {
	i.names = slices.DeleteFunc(i.names, func(l link) bool { return l == from })
	if to.dir != nil {
		i.names = append(i.names, to)
	}
}

// A directory is what there is to know of the entries of an inode that is one. Where the inode is not in the upper it is
// empty, and all is as in the lower.
type directory struct {
	merged  bool // the lower's entries are seen
	removed bool
	loaded  bool // the following are read

	marked    bool              // attributes may make files whiteouts
	names     map[string]*entry // all in the upper
	added     []*entry          // those that the lower has no name for, by position; some are gone
	gone      int               // how many of them
	next      uint64            // the position of the next one
	subdirs   int               // directories that are seen
	whiteouts int
	inherits  inheritance // what new files get; unknown until it is needed, and after a change
}

// An entry is a name in a directory of the upper.
type entry struct {
	name string
	kind entryKind
	pos  uint64 // in the listing; 0 of a whiteout
	gone bool   // it is still among directory.added, but not in the directory any more
	// inode is nil until it is looked up. Whoever holds the directory's lock may read it, and set it.
	inode *inode
}

type entryKind uint8

const (
	isWhiteout entryKind = iota
	isDirectory
	isOther
)

// hasInodes tells whether inodes of what is in d are known.
func (d *directory) hasInodes() bool {
	for _, e := range d.names {
		if e.inode != nil {
			return true
		}
	}
	return false
}

// firstChild is the position of a directory's first entry, after "." and "..".
const firstChild = 2

// lowerChild finds a name of the lower in a directory, hidden or not.
func (f *FS) lowerChild(i *inode, name string) (layers.Node, bool) {
	if !i.dir.merged {
		return 0, false
	}
	return f.tree.Lookup(i.lower, name)
}

// put makes e the entry for its name, or takes the name out of the upper where e is nil.
func (f *FS) put(i *inode, name string, e *entry) {
	d := i.dir
	n, below := f.lowerChild(i, name)
	lowerDir := below && f.isLowerDir(n)
	old := d.names[name]
	d.count(old, lowerDir, -1)
	d.count(e, lowerDir, +1)
	if old != nil && old.pos >= d.firstAdded(f, i) {
		old.gone = true
		d.gone++
	}
	if e == nil {
		delete(d.names, name)
		d.tidy()
		return
	}
	d.names[name] = e
	switch {
	case below:
		lo, _ := f.tree.Children(i.lower)
		e.pos = firstChild + uint64(n-lo)
	case e.kind != isWhiteout:
		e.pos = d.next
		d.next++
		d.added = append(d.added, e)
	}
	d.tidy()
}

// firstAdded is the first position behind the lower's entries.
func (d *directory) firstAdded(f *FS, i *inode) uint64 {
	if !d.merged {
		return firstChild
	}
	lo, hi := f.tree.Children(i.lower)
	return firstChild + uint64(hi-lo)
}

// count adds by to what is counted of e, or of the lower's entry if it is nil.
func (d *directory) count(e *entry, lowerDir bool, by int) {
	switch {
	case e == nil && lowerDir || e != nil && e.kind == isDirectory:
		d.subdirs += by
	case e != nil && e.kind == isWhiteout:
		d.whiteouts += by
	}
}

// tidy drops the entries that are gone once they are most.
func (d *directory) tidy() {
	if d.gone > 64 && d.gone > len(d.added)/2 {
		d.added = slices.DeleteFunc(d.added, func(e *entry) bool { return e.gone })
		d.gone = 0
	}
}

func (f *FS) isLowerDir(n layers.Node) bool { return isDir(f.tree.Attr(n).Mode) }

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
