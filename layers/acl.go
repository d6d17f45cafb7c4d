package layers

import (
	"encoding/binary"
	"math/bits"
)

// The attributes that POSIX ACLs are in.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// The form of such an attribute, from Linux's include/uapi/linux/posix_acl_xattr.h: four bytes of version, then
// entries of a tag, permissions and an id in 2, 2 and 4 bytes. All is little-endian.
const (
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
	aclMinimum = aclHeader + 3*aclEntry // what the three entries need that say no more than a mode
	aclMaximum = 4096                   // a page: Linux does not take more from a FUSE file system
	aclNobody  = 1<<32 - 1              // no id of a user or group

	tagOwner    = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04 // the file's group
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
)

// validACL tells whether Linux lets a file have an ACL: see posix_acl_from_xattr and posix_acl_valid in its fs/posix_acl.c.
// Of a mounted file Linux asks for the ACL before it opens it, and would fail if that were malformed.
func validACL(value string) bool {
	if len(value) < aclMinimum || len(value) > aclMaximum || (len(value)-aclHeader)%aclEntry != 0 {
		return false
	}
	b := []byte(value)
	if binary.LittleEndian.Uint32(b) != aclVersion {
		return false
	}
	// The tags come in the order of their numbers. All but named users and groups come once.
	var last, seen uint16
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntry:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		named := tag == tagUser || tag == tagGroup
		if bits.OnesCount16(tag) != 1 || perm > 7 || tag < last || tag == last && !named || named && id == aclNobody {
			return false
		}
		last, seen = tag, seen|tag
	}
	const minimum = tagOwner | tagGroupObj | tagOther
	return seen == minimum || seen&^(tagUser|tagGroup) == minimum|tagMask
}

// chmodACL is what chmod(2) makes of an access ACL that validACL takes: the mode's permissions are the owner's,
// the mask's or else the group's, and the others'. An ACL that says no more than the mode is none.
func chmodACL(value string, mode uint16) (acl string, ok bool) {
	if len(value) == aclMinimum {
		return "", false
	}
	// Longer ones have a mask.
	b := []byte(value)
	for e := b[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		switch binary.LittleEndian.Uint16(e) {
		case tagOwner:
			binary.LittleEndian.PutUint16(e[2:], mode>>6&7)
		case tagMask:
			binary.LittleEndian.PutUint16(e[2:], mode>>3&7)
		case tagOther:
			binary.LittleEndian.PutUint16(e[2:], mode&7)
		}
	}
	return string(b), true
}
