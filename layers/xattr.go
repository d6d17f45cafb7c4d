package layers

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
)

// capability is the attribute that Linux drops whenever a file's owner is set.
const capability = "security.capability"

const (
	// maxXattrNames is XATTR_LIST_MAX of Linux: the bytes of all names of a file's
	// attributes, each with a NUL. A file with more can't be asked for its names.
	maxXattrNames = 1 << 16
	xattrSize     = 32 // bytes of an index.Xattr without its strings
)

var (
	errXattrNames = errors.New("names of attributes have over 64 KiB")
	errCapability = errors.New(capability + " that Linux does not take")
)

// xattrSets keeps each distinct set of attributes once: labels and capabilities
// tend to be the same on many files.
type xattrSets struct {
	sets   [][]index.Xattr // each sorted; the first is empty
	number map[string]uint32
	key    []byte // scratch
}

func newXattrSets() xattrSets {
	return xattrSets{sets: [][]index.Xattr{nil}, number: make(map[string]uint32)}
}

// intern is the number of a set, which is sorted. It keeps copies.
func (x *xattrSets) intern(set []index.Xattr) uint32 {
	// The key is the lengths of the strings, then the strings.
	x.key = binary.AppendUvarint(x.key[:0], uint64(len(set)))
	for _, a := range set {
		x.key = binary.AppendUvarint(x.key, uint64(len(a.Name)))
		x.key = binary.AppendUvarint(x.key, uint64(len(a.Value)))
	}
	at := len(x.key)
	for _, a := range set {
		x.key = append(x.key, a.Name...)
		x.key = append(x.key, a.Value...)
	}
	if n, ok := x.number[string(x.key)]; ok {
		return n
	}
	key := string(x.key)
	cut := func(n int) string {
		at += n
		return key[at-n : at]
	}
	own := make([]index.Xattr, len(set))
	for i, a := range set {
		own[i] = index.Xattr{Name: cut(len(a.Name)), Value: cut(len(a.Value))}
	}
	n := uint32(len(x.sets))
	x.sets = append(x.sets, own)
	x.number[key] = n
	return n
}

// setXattrs gives a file the attributes of a sorted list, which it may change. The file has its mode
// already: as containerd does it, attributes are set first, and chmod(2) has the last word on the ACL.
//
// The bytes of the list count against the budget, be the set a new one or not. So the budget bounds
// the time too that is spent on attributes which one hard link after another adds to.
func (d *draft) setXattrs(ino *inode, list []index.Xattr) error {
	if ino.xattrs = 0; len(list) == 0 {
		return nil
	}
	if i, ok := findXattr(list, aclAccess); ok {
		acl, ok := chmodACL(list[i].Value, ino.mode)
		if list[i].Value = acl; !ok {
			list = slices.Delete(list, i, i+1)
		}
	}
	if len(list) == 0 {
		return nil
	}
	names, bytes := 0, 0
	for _, a := range list {
		names += len(a.Name) + 1
		bytes += len(a.Name) + len(a.Value) + xattrSize
	}
	if names > maxXattrNames {
		return errXattrNames
	}
	if err := d.hold(bytes); err != nil {
		return err
	}
	ino.xattrs = d.xattrs.intern(list)
	return nil
}

// addXattrs gives a file what it has after one more hard link to it was unpacked: the link's attributes
// come on top of the file's, whose capability went when its owner was set. The file has its new mode already.
func (d *draft) addXattrs(ino *inode, link []index.Xattr) error {
	file := d.xattrs.sets[ino.xattrs]
	_, capable := findXattr(file, capability)
	_, acl := findXattr(file, aclAccess)
	if len(link) == 0 && !capable && !acl {
		return nil
	}
	merged := make([]index.Xattr, 0, len(file)+len(link))
	for _, a := range file {
		for len(link) > 0 && link[0].Name < a.Name {
			merged, link = append(merged, link[0]), link[1:]
		}
		replaced := len(link) > 0 && link[0].Name == a.Name
		if !replaced && a.Name != capability {
			merged = append(merged, a)
		}
	}
	return d.setXattrs(ino, append(merged, link...))
}

// findXattr finds an attribute in a sorted list.
func findXattr(list []index.Xattr, name string) (i int, ok bool) {
	return slices.BinarySearchFunc(list, name, func(a index.Xattr, name string) int { return strings.Compare(a.Name, name) })
}

// overlayXattr tells whether an attribute steers overlayfs, which a layer has no
// business to do.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// settable tells whether containerd, as root on Linux, would set an attribute of an
// entry on a file of this kind.
func settable(name string, kind uint32) bool {
	namespace, rest, _ := strings.Cut(name, ".")
	switch namespace {
	case "user":
		return rest != "" && (kind == syscall.S_IFREG || kind == syscall.S_IFDIR)
	case "security":
		return rest != ""
	}
	switch name {
	case aclAccess:
		return kind != syscall.S_IFLNK
	case aclDefault:
		return kind == syscall.S_IFDIR
	}
	return false // "trusted" belongs to the host, and there are no others
}

// The revisions of capabilities that Linux lets a file have, by validheader of its security/commoncap.c.
const (
	capEffective = 1       // a flag
	capRevision2 = 2 << 24 // with 20 bytes in all
	capRevision3 = 3 << 24 // with 24, the last four a user id
	capNoRoot    = 1<<32 - 1
)

// validCapability tells whether Linux would set a value as security.capability.
func validCapability(value string) bool {
	b := []byte(value)
	if len(b) < 4 {
		return false
	}
	switch revision := binary.LittleEndian.Uint32(b) &^ capEffective; len(b) {
	case 20:
		return revision == capRevision2
	case 24:
		return revision == capRevision3 && binary.LittleEndian.Uint32(b[20:]) != capNoRoot
	}
	return false
}
