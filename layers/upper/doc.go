// Package upper is the writable directory over a tree of layers: what is on its disk, and what that means.
//
// # Terms
//
// The *upper* is a directory that holds what differs from the tree below, the *lower*, in the form of the kernel's
// overlayfs. A *whiteout* is an entry of the upper that hides the lower's of that name; an *opaque* directory hides all that
// the lower has below its place. The *work directory* is where things are made whole before they are renamed into the
// upper: it is on the same file system, and after a crash what is left in it is of no use. *Private* attributes are the
// extended attributes that steer all this; nobody sees them through a mount.
//
// The format is that of Linux's Documentation/filesystems/overlayfs.rst, with two additions: attributes of our own below
// the private prefix, which the kernel ignores and hides, and user.containers.override_stat, in which a user without
// privilege has the owner, mode and type that he can't give to a file (containers/storage and fuse-overlayfs write it).
//
// # The file system
//
// An [FS] is a tree and an upper as one file system, for a FUSE server or a test to serve. To *copy up* is to make a lower file one of the
// upper, with all that it is; a *merged* directory is in both. An *orphan* is an inode that has lost its last name, and that
// somebody uses still. A *position* is a place in a directory's listing.
//
// At each moment what is on the disk is an upper, whose tree is that before or after an operation. Files that several names of the
// lower lead to are the one exception: while they are copied up some of the names may lead to the copy and others not, but
// the content is the same, and the next [New] finishes it.
//
// All files are reached by a descriptor and one name in it, which is never followed as a link. The upper is changed through the FS alone, as
// [Open] sees to; what others do to it shows in some way or other, and leads nowhere out of it.
package upper
