package layers

import (
	"encoding/binary"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
)

// capability is the attribute that Linux drops whenever a file's owner is set.
const capability = "security.capability"

// xattrSets keeps each distinct set of attributes once: labels and capabilities
// tend to be the same on many files.
type xattrSets struct {
	sets   [][]index.Xattr // the first is empty
	number map[string]uint32
	key    []byte // scratch
}

func newXattrSets() xattrSets {
	return xattrSets{sets: [][]index.Xattr{nil}, number: make(map[string]uint32)}
}

// intern is the number of a set, which is sorted. It keeps copies.
func (x *xattrSets) intern(set []index.Xattr) uint32 {
	if len(set) == 0 {
		return 0
	}
	x.key = x.key[:0]
	for _, a := range set {
		x.key = binary.AppendUvarint(x.key, uint64(len(a.Name)))
		x.key = append(x.key, a.Name...)
		x.key = binary.AppendUvarint(x.key, uint64(len(a.Value)))
		x.key = append(x.key, a.Value...)
	}
	if n, ok := x.number[string(x.key)]; ok {
		return n
	}
	own := slices.Clone(set)
	for i := range own {
		own[i] = index.Xattr{Name: strings.Clone(own[i].Name), Value: strings.Clone(own[i].Value)}
	}
	n := uint32(len(x.sets))
	x.sets = append(x.sets, own)
	x.number[string(x.key)] = n
	return n
}

// relink is the number of the set that a file has after one more hard link
// to it was unpacked: the link's attributes come on top of the file's.
func (x *xattrSets) relink(file uint32, link []index.Xattr) uint32 {
	merged := slices.Clone(link)
	for _, a := range x.sets[file] {
		if a.Name != capability && !hasXattr(link, a.Name) {
			merged = append(merged, a)
		}
	}
	slices.SortFunc(merged, func(a, b index.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return x.intern(merged)
}

func hasXattr(set []index.Xattr, name string) bool {
	return slices.ContainsFunc(set, func(a index.Xattr) bool { return a.Name == name })
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
	case "system":
		return rest == "posix_acl_access" || rest == "posix_acl_default"
	}
	return false // "trusted" belongs to the host, and there are no others
}
