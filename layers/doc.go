// Package layers merges the layers of an image into one tree.
//
// # Terms
//
// A layer is a list of entries in the order of its tar, bottom layer first. An entry describes a file, or it is
// a marker: a whiteout (.wh.NAME) hides NAME of the layers below, an opaque marker (.wh..wh..opq) hides all that the
// layers below have in its directory. [Merge] applies layers and gives a [Tree], in which a [Node] is one name.
// Names that are hard links of each other share an inode; an inode's number is the position of its first name plus
// one, so that the same layers have the same numbers wherever they are merged.
//
// The package does no I/O of its own, but for [Tree.ReadAt], which reads the tars it was given.
//
// # Semantics
//
// The tree is what unpacking the layers gives, bottom to top, as root, into an empty directory. docs/semantics.md says
// it rule by rule. Where containerd and umoci, which both unpack OCI images, do not do the same, a Tree is as
// containerd makes it when it applies a layer to a plain directory (its native snapshotter):
//
//   - The entry of a hard link sets owner, mode and times of the file it links to, and adds its attributes; since the owner
//     is set, a security.capability that the entry does not have is lost. (umoci: the entry is a name and no more.)
//   - ".." in the target of a hard link goes up from where symbolic links led. (umoci: it takes back the
//     component before it.) Both do the latter for the names of entries.
//   - A marker makes the parents it lacks. (umoci: it does nothing then.)
//   - A parent that is a file is an error. (umoci: newer ones make it a directory.) A marker there is ignored. (Here
//     we follow umoci, which writes such markers.)
//   - Attributes "trusted.*" are dropped, "security.selinux" is kept. (umoci: the other way round.)
//   - A file's mode is its entry's, and changes the entry's ACL as chmod(2) does. (umoci: the ACL changes the mode.)
//   - An entry for the root that isn't a directory is ignored. (umoci: an error.)
//
// In these a Tree is not as containerd makes it:
//
//   - A whiteout or an opaque marker never hides what its own layer has, not even when it comes after it. (containerd
//     hides that, and of an opaque marker's directory the subdirectories which have no entry; umoci does not, but what
//     it keeps of a directory then are the owner and mode of the hidden one.)
//   - An entry for the root sets what the root is. (containerd ignores it; umoci does not.)
//   - A directory entry for a directory that is there replaces its extended attributes. (So do umoci and containerd's overlayfs
//     snapshotter; its native one leaves the old ones that have no new value.)
//   - Malformed markers, and what is below a marker, do nothing. (Both peers reject some and show others.)
//   - AUFS's bookkeeping is not shown. (Both peers show what is in directories like .wh..wh.plnk.)
//   - Times before 1970 are kept. (containerd makes them 1970.)
//   - Entries of unknown types are skipped. (Both reject the layer, for '7' and old GNU sparse files too, which
//     are regular files here.)
//   - A malformed POSIX ACL, and a default one of what is no directory, is dropped. (Both reject the layer.)
//   - Nothing inherits a directory's default ACL or group. (containerd's files inherit both; umoci's no ACL.)
//   - At most 40 symbolic links are followed for a path. (containerd and umoci: 255.)
//
// Directories that no entry describes have mode 0755, owner 0:0 and the time 0. (Peers: the time of the unpacking.)
//
// # Hostile layers
//
// Time and memory that Merge takes are in proportion to the number of entries, the length of their names and the bytes of
// their attributes, sparse maps and link targets, whatever they say: removing a directory takes constant time,
// nothing is recursive, and the names, the missing parents, the bytes of symbolic links that are walked and those
// that attributes, maps and targets take are bounded.
package layers
