package upper

import (
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// A Sync says what is on the disk for sure when the machine stops without warning.
type Sync uint8

const (
	// SyncAuto is as the kernel's overlayfs: what programs sync is, and the content of a file that is copied up is before
	// the copy gets the file's name.
	SyncAuto Sync = iota
	// SyncAlways is that and every change of a name, before the operation returns.
	SyncAlways
	// SyncNever is nothing: what programs sync is not written either. It is for trees that are made anew after a crash.
	SyncNever
)

// FSOptions are the options of New. nil means the defaults.
type FSOptions struct {
	Sync Sync
	Log  *slog.Logger // told of what is odd in the upper; slog.Default() if nil
}

// An FS is a tree of layers with everything writable. Its methods are the operations of a file system on inodes, by node ID:
// a number that stands for one inode as long as the FS lives, and never for another one. A lower inode's is the tree's
// (layers.Attr.Ino), also when it has been copied up; others count up from there. All methods may be called
// concurrently. Who calls them is a kernel that has looked up what it names, keeps order between changes of one
// directory (as Linux's VFS does by its locks), and tells what it forgets.
//
// An error that is a bare syscall.Errno is the answer to the caller. All others are failures, most of them of reading the
// lower.
type FS struct {
	dir  *Dir
	tree *layers.Tree
	sync Sync
	log  *slog.Logger
	root *inode
	user *owner // who stands for root in Recorded mode; nil in others
	uid  uint32 // that this process makes files as
	gid  uint32

	// topo keeps the directories where they are: who reads it may go from one to another. Renaming, removing
	// a directory, and linking several names at once hold it alone; these take no other lock of a directory.
	//
	// Locks are taken in this order: inode.copying, topo, groupsMu, a directory's inode.mu before that of what is in it,
	// then those below. Data is read and written without any.
	topo sync.RWMutex

	lower []slot // of the lower's inodes, by layers.Node
	table table

	// groups are the names of the lower's inodes that have several; groupsMu serialises the making of their inodes.
	groups   map[layers.Node][]layers.Node
	groupsMu sync.Mutex

	descriptors descriptors
	whiteouts   whiteouts
	temp        atomic.Uint64
}

// An owner is a user and a group.
type owner struct{ uid, gid uint32 }

// A slot is what there is to know of a lower inode besides what the tree says.
type slot struct {
	inode   atomic.Pointer[inode] // nil as long as it is as in the tree
	lookups atomic.Int64          // how often the kernel was told of it, less what it forgot
}

// A table finds the inodes of the upper.
type table struct {
	mu     sync.RWMutex
	byID   map[uint64]*inode
	byFile map[uint64]*inode // those that have several names, by the inode in the upper
	last   uint64            // node ID given
}

// New makes a file system of an opened upper and the tree that it is over. It finishes or removes what a crash left in the work
// directory. The FS goes on using d, which is closed after it.
func New(d *Dir, tree *layers.Tree, o *FSOptions) (*FS, error) {
	if o == nil {
		o = new(FSOptions)
	}
	f := bare(d, tree)
	f.sync, f.log = o.Sync, o.Log
	if f.log == nil {
		f.log = slog.Default()
	}
	f.lower, f.groups = make([]slot, tree.Len()), linkGroups(tree)
	f.table.byID, f.table.byFile = make(map[uint64]*inode), make(map[uint64]*inode)
	f.table.last = uint64(tree.Len())
	f.descriptors.init()
	f.temp.Store(rand.Uint64N(1 << 62)) // what is left in the work directory has other names
	if err := d.CopyRoot(tree); err != nil {
		return nil, err
	}
	if err := f.openRoot(); err != nil {
		return nil, &Error{Dir: d.Path, Problem: "can't be read: " + err.Error(), Err: err}
	}
	if err := f.finishLinks(); err != nil {
		return nil, &Error{Dir: d.WorkPath, Problem: "a hard link can't be finished: " + err.Error(), Err: err}
	}
	return f, d.Clean()
}

// bare is an FS that can do no more than copy to d.
func bare(d *Dir, tree *layers.Tree) *FS {
	f := &FS{dir: d, tree: tree, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	if d.Mode == Recorded {
		f.user = &owner{f.uid, f.gid}
	}
	return f
}

// CopyRoot gives an upper that is used for the first time the owner, mode, attributes and time of the tree's root: the root of the
// mount has those of the upper, whichever driver mounts it. Of another upper it changes nothing. Errors are *Error.
func (d *Dir) CopyRoot(tree *layers.Tree) error {
	if !d.fresh {
		return nil
	}
	l := location{borrowed(d.Upper), ""}
	if _, err := bare(d, tree).copyMeta(l, layers.Root); err != nil {
		return &Error{Dir: d.Path, Problem: "can't be made as the image's root directory: " + err.Error(), Err: err}
	}
	d.fresh = false
	return nil
}

// openRoot makes the root's inode. The root is in the upper from the start.
func (f *FS) openRoot() error {
	f.root = &inode{id: 1, ino: 1, kind: unix.S_IFDIR, lower: layers.Root, hasLower: true, dir: new(directory)}
	opacity, err := f.dir.Mode.opacityOf(f.dir.Upper)
	if err != nil {
		return err
	}
	f.root.dir.merged = opacity != opaqueDir
	f.root.anchor = borrowed(f.dir.Upper)
	f.root.recorded, err = f.recordedStat(location{f.root.anchor, ""}, unix.S_IFDIR)
	f.root.inUpper.Store(true)
	f.lower[layers.Root].inode.Store(f.root)
	return err
}

// Close lets go of all descriptors. Nothing may be asked of f any more.
func (f *FS) Close() {
	if f.whiteouts.name != "" {
		_ = unix.Unlinkat(f.dir.Work, f.whiteouts.name, 0)
	}
	f.descriptors.close()
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	for _, i := range f.table.byID {
		i.letGo()
	}
	for n := range f.lower[1:] {
		if i := f.lower[1+n].inode.Load(); i != nil {
			i.letGo()
		}
	}
}

// find returns the inode of a node ID; nil is one of the lower that is as in the tree.
func (f *FS) find(id uint64) (*inode, error) {
	if id-1 < uint64(len(f.lower)) {
		return f.lower[id-1].inode.Load(), nil
	}
	f.table.mu.RLock()
	defer f.table.mu.RUnlock()
	if i := f.table.byID[id]; i != nil {
		return i, nil
	}
	return nil, unix.ESTALE
}

// lowerNode is the tree's node behind the ID of an inode that find returned nil for.
func lowerNode(id uint64) layers.Node { return layers.Node(id - 1) }

// known counts that the kernel is told of an inode.
func (f *FS) known(i *inode) {
	if i.id <= uint64(len(f.lower)) {
		f.lower[i.id-1].lookups.Add(1)
	} else {
		i.lookups.Add(1)
	}
}

// unknown takes back that the kernel is going to be told of an inode, which stays.
func (f *FS) unknown(i *inode) {
	if i.id <= uint64(len(f.lower)) {
		f.lower[i.id-1].lookups.Add(-1)
	} else {
		i.lookups.Add(-1)
	}
}

// Forget takes back that the kernel was told n times of an inode.
func (f *FS) Forget(id, n uint64) {
	if id-1 < uint64(len(f.lower)) {
		s := &f.lower[id-1]
		if s.lookups.Add(-int64(n)) == 0 && id != 1 {
			f.dropLower(s)
		}
		return
	}
	if i, err := f.find(id); err == nil && i.lookups.Add(-int64(n)) == 0 {
		f.drop(i)
	}
}

// dropLower lets go of a lower inode that has no name any more.
func (f *FS) dropLower(s *slot) {
	i := s.inode.Load()
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.orphan || s.lookups.Load() > 0 {
		return
	}
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	if f.table.byFile[i.backing] == i {
		delete(f.table.byFile, i.backing) // another file is going to have that number
	}
	i.letGo()
	s.inode.Store(nil)
}

// drop lets go of an inode of the upper which the kernel does not know any more: it is made again when it is looked up. One that has
// several names stays as long as it has any.
func (f *FS) drop(i *inode) {
	f.topo.RLock()
	defer f.topo.RUnlock()
	for i != nil {
		i = f.dropOne(i)
	}
}

// dropOne drops an inode and returns the directory it was in, if that has only waited for this.
func (f *FS) dropOne(i *inode) (parent *inode) {
	i.mu.RLock()
	names, orphan := i.names, i.orphan
	i.mu.RUnlock()
	switch {
	case orphan:
		i.mu.Lock()
		defer i.mu.Unlock()
		f.removeIfUnknown(i, nil)
		return nil
	case len(names) != 1:
		return nil
	}
	at := names[0]
	at.dir.mu.Lock()
	defer at.dir.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.names) != 1 || i.names[0] != at || i.dir != nil && i.dir.hasInodes() {
		return nil
	}
	if !f.removeIfUnknown(i, at.dir.dir.names[at.name]) || at.dir.id <= uint64(len(f.lower)) || at.dir.lookups.Load() > 0 {
		return nil
	}
	return at.dir
}

// removeIfUnknown takes an inode out of the table, and out of its directory's entry, unless it has been looked up meanwhile.
func (f *FS) removeIfUnknown(i *inode, e *entry) bool {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	if i.lookups.Load() > 0 {
		return false
	}
	delete(f.table.byID, i.id)
	if f.table.byFile[i.backing] == i {
		delete(f.table.byFile, i.backing)
	}
	if e != nil {
		e.inode = nil
	}
	f.descriptors.forget(i)
	i.letGo()
	return true
}

// maxSize is more than any file has.
const maxSize = math.MaxInt64

// tempName is a name in the work directory that is not in use.
func (f *FS) tempName() string { return "tmp-" + itoa(f.temp.Add(1)) }

// Mode is the mode of the upper.
func (f *FS) Mode() Mode { return f.dir.Mode }

// Tree is the lower.
func (f *FS) Tree() *layers.Tree { return f.tree }
