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
package upper
