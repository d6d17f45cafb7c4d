// Package fs serves a merged tree of layers as a FUSE file system: read-only, or with an upper that takes the changes.
//
// # Terms
//
// A *node* is a name in the tree (layers.Node). A *node ID* is what the kernel knows a file by: the inode number,
// which is the position in the tree of the first of the file's hard-linked names, plus one. It is a function of
// the image alone, so it is the same in every mount, needs no table, and is never forgotten. A *position* is a
// place in a directory's listing: "." is 0, ".." is 1, the children follow in the tree's order. The *helper* is
// fusermount3, the set-uid program that mounts for users.
//
// # How it works
//
// The tree never changes, so the kernel may keep all it is told for ever: names, absent names, attributes, link
// targets, listings, and pages. What it asks twice, it asks because it was short of memory. Nothing is held per
// open file: open and opendir are refused once with ENOSYS, upon which the kernel opens by itself from then on
// without asking. Directories are read by position, so any number of readers may seek in them as they like.
//
// The operations stand in type operations: functions of the tree alone, which know neither go-fuse nor the
// kernel. Type adaptor, which go-fuse drives, only moves their answers into the protocol's structures.
//
// go-fuse answers for one name itself, ".go-fuse-epoll-hack" in the root: an image's file of that name is listed, but
// does not open.
//
// With an upper (MountUpper) another adaptor, type writable, moves requests to and from upper.FS. There too the kernel may keep
// all for ever, since it is the only one that changes anything; but it has to tell what is opened, and what it forgets.
//
// # Errors
//
// One table (errno.go) says which error a caller is told as it is. All others are EIO, with a line in the log. A
// failure is never kept: the kernel asks again at the next read. Signals do not interrupt a read: Go programs
// are sent SIGURG all the time, and they have to run from the mount.
//
// # Deadlocks
//
// A FUSE server that opens a path inside its own mount waits for itself. The server never does: what it needs to
// know of its mount it reads from /proc/self/mountinfo. Nor should a caller of this package in the same process,
// unless it is sure that a thread is left to serve it.
package fs
