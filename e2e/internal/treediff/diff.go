package treediff

import (
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Blind names what one of the trees cannot tell, so that it is not compared.
type Blind struct {
	DirTimes     bool // mtimes of directories
	DirNlink     bool // link counts of directories
	HardLinks    bool // which names are one file, and how many there are
	SpecialLinks bool // the same of what is neither directory nor regular file
}

// A Difference is one field of one path that is not the same in two trees.
type Difference struct {
	Path, Field string
	A, B        string // what the first and the second tree have; "absent" where there is no such path
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: %s, and %s", d.Path, d.Field, d.A, d.B)
}

// Diff returns all differences of two trees, in the order of paths.
func Diff(a, b Tree, blind Blind) []Difference {
	var all []Difference
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && before(a[0].Path, b[0].Path):
			all = append(all, Difference{Path: a[0].Path, Field: "path", A: typeName(a[0].Type), B: "absent"})
			a = a[1:]
		case len(a) == 0 || before(b[0].Path, a[0].Path):
			all = append(all, Difference{Path: b[0].Path, Field: "path", A: "absent", B: typeName(b[0].Type)})
			b = b[1:]
		default:
			all = append(all, diffEntry(&a[0], &b[0], blind)...)
			a, b = a[1:], b[1:]
		}
	}
	return all
}

// before tells whether a walk meets path a before path b: the names of a
// directory in order, each followed by what is in it.
func before(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) < 0
}

func diffEntry(a, b *Entry, blind Blind) []Difference {
	if a.Type != b.Type {
		return []Difference{{Path: a.Path, Field: "type", A: typeName(a.Type), B: typeName(b.Type)}}
	}
	var all []Difference
	add := func(field, of, with string) {
		if of != with {
			all = append(all, Difference{Path: a.Path, Field: field, A: of, B: with})
		}
	}
	dir := a.Type == unix.S_IFDIR
	add("mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode))
	add("uid", fmt.Sprint(a.UID), fmt.Sprint(b.UID))
	add("gid", fmt.Sprint(a.GID), fmt.Sprint(b.GID))
	if !dir || !blind.DirTimes {
		add("mtime", timeString(a.Mtime), timeString(b.Mtime))
	}
	add("size", fmt.Sprint(a.Size), fmt.Sprint(b.Size))
	add("rdev", rdevString(a.Rdev), rdevString(b.Rdev))
	add("target", a.Target, b.Target)
	add("xattrs", xattrString(a.Xattrs), xattrString(b.Xattrs))
	if !blind.links(a.Type) {
		add("nlink", fmt.Sprint(a.Nlink), fmt.Sprint(b.Nlink))
		add("hard link of", a.Group, b.Group)
	}
	add("sha256", hex.EncodeToString(a.Sum[:]), hex.EncodeToString(b.Sum[:]))
	return all
}

// links tells whether link counts and hard links of a type are not compared.
func (b Blind) links(ifmt uint32) bool {
	switch ifmt {
	case unix.S_IFDIR:
		return b.DirNlink
	case unix.S_IFREG:
		return b.HardLinks
	}
	return b.HardLinks || b.SpecialLinks
}

// Report renders differences for a reader: a count by field, and the first
// ones of each.
func Report(diffs []Difference) string {
	const shown = 10 // of each field
	byField := make(map[string][]Difference)
	for _, d := range diffs {
		byField[d.Field] = append(byField[d.Field], d)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d differences\n", len(diffs))
	for _, field := range slices.Sorted(maps.Keys(byField)) {
		of := byField[field]
		fmt.Fprintf(&s, "  %s: %d\n", field, len(of))
		for _, d := range of[:min(shown, len(of))] {
			fmt.Fprintf(&s, "    %s\n", d)
		}
	}
	return s.String()
}

func timeString(t unix.Timespec) string {
	return time.Unix(t.Sec, t.Nsec).UTC().Format(time.RFC3339Nano)
}

func rdevString(rdev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

func xattrString(xattrs map[string]string) string {
	var s strings.Builder
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		fmt.Fprintf(&s, "%s=%q ", name, xattrs[name])
	}
	return strings.TrimSpace(s.String())
}

func typeName(ifmt uint32) string {
	switch ifmt {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return fmt.Sprintf("type %o", ifmt)
}

// Find returns the entry of a path, nil when there is none.
func (t Tree) Find(name string) *Entry {
	name = path.Clean(name)
	for i := range t {
		if t[i].Path == name {
			return &t[i]
		}
	}
	return nil
}
