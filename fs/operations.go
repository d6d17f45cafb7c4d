package fs

import (
	"fmt"
	"math"
	"syscall"

	"imgfs/layers"
)

// rootID is the node ID of the root, fixed by the protocol: FUSE_ROOT_ID.
const rootID = 1

// blockSize is the unit in which statfs counts, and the st_blksize of every file.
const blockSize = 4096

// maxName is the longest file name, in bytes: NAME_MAX, which overlayfs wants to see in statfs.
const maxName = 255

// maxTarget is the longest link target that Linux knows: PATH_MAX without its NUL.
const maxTarget = 4095

// operations answers file system operations from a tree. Its methods are functions of the tree and their
// arguments, and may be called by any number of goroutines. An answer of 0 as errno is success. Except for
// readlink and a failing read they allocate nothing.
type operations struct {
	tree *layers.Tree
}

// node returns the node behind a node ID. IDs come from the kernel, which has them from us; one that the tree
// does not have (from an NFS client that knew another image) is stale.
func (o operations) node(id uint64) (layers.Node, syscall.Errno) {
	if id < rootID || id > uint64(o.tree.Len()) {
		return 0, syscall.ESTALE
	}
	return layers.Node(id - rootID), 0
}

// lookup finds name in a directory. "." and ".." are asked for only where the kernel rebuilds a path from a file
// handle (NFS, open_by_handle_at).
func (o operations) lookup(dir uint64, name string) (layers.Attr, syscall.Errno) {
	d, errno := o.node(dir)
	if errno != 0 {
		return layers.Attr{}, errno
	}
	switch name {
	case ".":
		return o.tree.Attr(d), 0
	case "..":
		return o.tree.Attr(o.tree.Parent(d)), 0
	}
	if len(name) > maxName {
		return layers.Attr{}, syscall.ENAMETOOLONG // the kernel's own bound is higher, for FUSE
	}
	n, ok := o.tree.Lookup(d, name)
	if !ok {
		return layers.Attr{}, syscall.ENOENT
	}
	return o.tree.Attr(n), 0
}

// attr returns a node's attributes.
func (o operations) attr(id uint64) (layers.Attr, syscall.Errno) {
	n, errno := o.node(id)
	if errno != 0 {
		return layers.Attr{}, errno
	}
	return o.tree.Attr(n), 0
}

// readlink returns a symlink's target.
func (o operations) readlink(id uint64) (string, syscall.Errno) {
	n, errno := o.node(id)
	if errno != 0 {
		return "", errno
	}
	if o.tree.Attr(n).Mode&syscall.S_IFMT != syscall.S_IFLNK {
		return "", syscall.EINVAL
	}
	target := o.tree.Readlink(n)
	if len(target) > maxTarget {
		return "", syscall.ENAMETOOLONG
	}
	return target, 0
}

// read gives a file's content from off on, as many bytes as dst has: held in parts of the layer's tar, where those are in
// memory and there is room in parts, and otherwise in dst, of which done bytes are filled. They are less than asked
// for only at the end of the file, or with an error: the kernel takes a short answer for the end, and would cut the file
// off there. The error is an errno of ours, or wraps one of the tree's.
func (o operations) read(id uint64, dst []byte, off uint64, parts []layers.Part) (done int, held []layers.Part, err error) {
	n, errno := o.node(id)
	if errno != 0 {
		return 0, nil, errno
	}
	a := o.tree.Attr(n)
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return 0, nil, syscall.EISDIR
	default:
		return 0, nil, syscall.EINVAL
	}
	if off >= a.Size || off > math.MaxInt64 {
		return 0, nil, nil
	}
	dst = dst[:min(uint64(len(dst)), a.Size-off)]
	held, err = o.tree.Hold(n, parts, int64(off), len(dst))
	if err == nil && len(held) == 0 {
		if done, err = o.tree.ReadAt(n, dst, int64(off)); done == len(dst) {
			err = nil
		}
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%d bytes at %d: %w", len(dst), off, err)
	}
	return done, held, nil
}

// statfs is what statfs(2) tells of the tree: a full file system, of blockSize blocks.
type statfs struct {
	blocks, files uint64
}

func (o operations) statfs() statfs {
	files, bytes := o.tree.Usage()
	blocks := bytes / blockSize
	if bytes%blockSize != 0 {
		blocks++
	}
	return statfs{blocks: blocks, files: files}
}
