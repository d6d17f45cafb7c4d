package upper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mode is what this process may do to an upper, and so what is written there. It is a property of the
// upper as well: each mode reads its own only.
type Mode uint8

const (
	// Trusted is root's: private attributes are trusted.overlay.*; owners and devices are as they are.
	Trusted Mode = iota
	// Namespaced is that of root in a user namespace, or without CAP_SYS_ADMIN: private attributes are user.overlay.*;
	// owners are as they are, and there are no devices.
	Namespaced
	// Recorded is a user's: private attributes are user.overlay.*; owner, mode and type of a file are
	// recorded in an attribute (Stat), and so are attributes that only root may set.
	Recorded
)

func (m Mode) String() string {
	return [...]string{"trusted", "namespaced", "recorded"}[m]
}

// Names of private attributes, behind Mode.Prefix. The first three are the kernel's.
const (
	opaque   = "opaque"   // of a directory: opaqueYes or opaqueMaybe
	whiteout = "whiteout" // of an empty file in a directory that is opaqueMaybe: makes it a whiteout
	escape   = "overlay." // in front of the rest of a private name that somebody gave an attribute through a mount
	own      = "imgfs."   // ours
)

// Values of the attribute opaque.
const (
	opaqueYes   = "y"
	opaqueMaybe = "x" // not opaque, but there may be files in it that an attribute makes whiteouts
)

const (
	// statAttr has a Stat, in Recorded mode.
	statAttr = "user.containers.override_stat"
	// recordPrefix is in front of the name of an attribute that only root may set, in Recorded mode.
	recordPrefix = "user.containers.override_"
	// fusePrefix is of the private attributes of fuse-overlayfs where it has no privilege.
	fusePrefix = "user.fuseoverlayfs."
	// maxXattrName is Linux's XATTR_NAME_MAX.
	maxXattrName = 255
)

// Prefix is in front of the names of the private attributes.
func (m Mode) Prefix() string {
	if m == Trusted {
		return "trusted.overlay."
	}
	return "user.overlay."
}

// opaqueNames are the attributes that make a directory opaque: what is written is the first.
func (m Mode) opaqueNames() []string {
	if m == Trusted {
		return []string{m.Prefix() + opaque}
	}
	return []string{m.Prefix() + opaque, fusePrefix + opaque}
}

// Stored is the name by which an attribute is stored on a file in the upper; false where that would be too long for Linux.
// A private name is escaped, as the kernel does it since Linux 6.7.
func (m Mode) Stored(name string) (string, bool) {
	rest, private := strings.CutPrefix(name, m.Prefix())
	switch {
	case private:
		name = m.Prefix() + escape + rest
	case m == Recorded && recorded(name):
		name = recordPrefix + name
	}
	return name, len(name) <= maxXattrName
}

// Shown is the name by which an attribute that is stored in the upper is seen through the mount; false if it is private.
func (m Mode) Shown(stored string) (string, bool) {
	if rest, private := strings.CutPrefix(stored, m.Prefix()); private {
		rest, escaped := strings.CutPrefix(rest, escape)
		return m.Prefix() + rest, escaped
	}
	if m != Recorded {
		return stored, true
	}
	if name, ok := strings.CutPrefix(stored, recordPrefix); ok {
		return name, recorded(name)
	}
	return stored, !recorded(stored) && !strings.HasPrefix(stored, fusePrefix)
}

// recorded tells whether an attribute is recorded under another name in Recorded mode, because a user may not set it, it
// would change how the file in the upper can be used, or it looks like one of those names.
func recorded(name string) bool {
	for _, prefix := range []string{"security.", "trusted.", "system.", recordPrefix, fusePrefix} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// isWhiteoutDevice tells whether a file with this mode and device number is a whiteout.
func isWhiteoutDevice(mode uint32, rdev uint64) bool {
	return mode&unix.S_IFMT == unix.S_IFCHR && rdev == 0
}

// noID is what Linux takes for no user and no group.
const noID = 1<<32 - 1

// A Stat is what statAttr says of a file.
type Stat struct {
	Mode         uint32 // S_IFMT | 12 bits
	UID, GID     uint32
	Major, Minor uint32 // of a device
}

// statTypes are the names of types in statAttr. Devices have their numbers behind that.
var statTypes = map[string]uint32{
	"dir": unix.S_IFDIR, "file": unix.S_IFREG, "symlink": unix.S_IFLNK, "pipe": unix.S_IFIFO, "socket": unix.S_IFSOCK,
	"block": unix.S_IFBLK, "char": unix.S_IFCHR,
}

// String is the value of statAttr, as containers/storage writes it: uid, gid, mode and type.
func (s Stat) String() string {
	kind := ""
	for name, t := range statTypes {
		if t == s.Mode&unix.S_IFMT {
			kind = name
		}
	}
	if kind == "block" || kind == "char" {
		kind = fmt.Sprintf("%s-%d-%d", kind, s.Major, s.Minor)
	}
	return fmt.Sprintf("%d:%d:%04o:%s", s.UID, s.GID, s.Mode&0o7777, kind)
}

// ParseStat reads the value of statAttr of a file that is of type kind (S_IFMT) by itself. fuse-overlayfs before version 1.13
// leaves the type out, and may write it into the mode.
func ParseStat(value string, kind uint32) (Stat, error) {
	s, err := parseStat(value, kind)
	if err != nil {
		return s, fmt.Errorf("attribute %s is %.64q: %w", statAttr, value, unix.EINVAL)
	}
	return s, nil
}

func parseStat(value string, kind uint32) (s Stat, err error) {
	fields := strings.Split(value, ":")
	if len(fields) < 3 || len(fields) > 4 {
		return s, unix.EINVAL
	}
	var mode uint32
	if err := errors.Join(parseNumbers(fields[:2], 10, &s.UID, &s.GID), parseNumbers(fields[2:3], 8, &mode)); err != nil {
		return s, err
	}
	if s.UID == noID || s.GID == noID {
		return s, unix.EINVAL
	}
	if len(fields) == 4 {
		parts := strings.Split(fields[3], "-")
		t, ok := statTypes[parts[0]]
		device := t == unix.S_IFBLK || t == unix.S_IFCHR
		if !ok || device != (len(parts) == 3) || !device && len(parts) != 1 || (t == unix.S_IFDIR) != (kind == unix.S_IFDIR) {
			return s, unix.EINVAL
		}
		if err := parseNumbers(parts[1:], 10, &s.Major, &s.Minor); err != nil {
			return s, err
		}
		kind = t
	}
	s.Mode = kind&unix.S_IFMT | mode&0o7777
	return s, nil
}

// parseNumbers reads as many numbers as there are texts.
func parseNumbers(texts []string, base int, to ...*uint32) error {
	for i, text := range texts {
		n, err := strconv.ParseUint(text, base, 32)
		if err != nil {
			return err
		}
		*to[i] = uint32(n)
	}
	return nil
}
