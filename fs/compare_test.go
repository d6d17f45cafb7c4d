package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// compare tells how what the kernel shows at dir differs from the tree. It uses plain system calls: the runtime's
// poller would wait, inside a process that serves the mount itself, for that process.
func compare(dir string, tree *layers.Tree) error {
	var diffs []error
	for n := layers.Node(0); int(n) < tree.Len(); n++ {
		path := dir + strings.TrimSuffix(tree.Path(n), "/")
		for _, check := range []func(string, *layers.Tree, layers.Node) error{
			compareAttr, compareTarget, compareXattrs, compareNames, compareContent,
		} {
			if err := check(path, tree, n); err != nil {
				diffs = append(diffs, fmt.Errorf("%q: %w", path, err))
			}
		}
	}
	return errors.Join(diffs...)
}

func compareAttr(path string, tree *layers.Tree, n layers.Node) error {
	var got unix.Stat_t
	if err := unix.Lstat(path, &got); err != nil {
		return err
	}
	a := tree.Attr(n)
	mtime := unix.Timespec{Sec: a.MtimeSec, Nsec: int64(a.MtimeNsec)}
	want := unix.Stat_t{
		Dev: got.Dev, Ino: a.Ino, Nlink: uint64(a.Nlink), Mode: a.Mode, Uid: a.UID, Gid: a.GID,
		Rdev: unix.Mkdev(a.Major, a.Minor), Size: int64(a.Size), Blksize: 4096, Blocks: int64(a.Blocks),
		Atim: mtime, Mtim: mtime, Ctim: mtime,
	}
	if got != want {
		return fmt.Errorf("stat is\n\t%+v, want\n\t%+v", got, want)
	}
	return nil
}

func compareTarget(path string, tree *layers.Tree, n layers.Node) error {
	if tree.Attr(n).Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil
	}
	buf := make([]byte, 8192)
	size, err := unix.Readlink(path, buf)
	if err != nil {
		return err
	}
	if got := string(buf[:size]); got != tree.Readlink(n) || uint64(size) != tree.Attr(n).Size {
		return fmt.Errorf("link to %q, want %q", got, tree.Readlink(n))
	}
	return nil
}

func compareXattrs(path string, tree *layers.Tree, n layers.Node) error {
	buf := make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		return err
	}
	var want strings.Builder
	for _, x := range tree.Xattrs(n) {
		want.WriteString(x.Name + "\x00")
	}
	if got := string(buf[:size]); got != want.String() {
		return fmt.Errorf("attributes %q, want %q", got, want.String())
	}
	for _, x := range tree.Xattrs(n) {
		size, err := unix.Lgetxattr(path, x.Name, buf)
		if err != nil {
			return fmt.Errorf("%s: %w", x.Name, err)
		}
		if got := string(buf[:size]); got != x.Value {
			return fmt.Errorf("%s is %q, want %q", x.Name, got, x.Value)
		}
	}
	if _, err := unix.Lgetxattr(path, "security.none", buf); err != unix.ENODATA {
		return fmt.Errorf("an attribute that is not there: %v, want ENODATA", err)
	}
	return nil
}

func compareNames(path string, tree *layers.Tree, n layers.Node) error {
	if tree.Attr(n).Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	entries, err := readDir(path, 32<<10)
	if err != nil || !readable(tree, n) {
		return refused(err, tree, n)
	}
	want := []direntry{
		{name: ".", ino: tree.Attr(n).Ino, typ: unix.DT_DIR},
		{name: "..", ino: tree.Attr(tree.Parent(n)).Ino, typ: unix.DT_DIR},
	}
	for lo, hi := tree.Children(n); lo < hi; lo++ {
		a := tree.Attr(lo)
		want = append(want, direntry{name: tree.Name(lo), ino: a.Ino, typ: uint8(a.Mode >> 12)})
	}
	if n == layers.Root {
		// The kernel knows better than we what is above a mount, and tells by another inode.
		want[1].ino = entries[1].ino
	}
	for i := range entries {
		entries[i].next = 0
	}
	if !slices.Equal(entries, want) {
		return fmt.Errorf("entries are\n\t%v, want\n\t%v", entries, want)
	}
	return nil
}

// mostCompared bounds what is read of a file: one of the sample is 4 TiB of holes.
const mostCompared = 4 << 20

func compareContent(path string, tree *layers.Tree, n layers.Node) error {
	a := tree.Attr(n)
	if a.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	got, err := readFile(path, mostCompared)
	if err != nil || !readable(tree, n) {
		return refused(err, tree, n)
	}
	want := make([]byte, min(a.Size, mostCompared))
	if read, err := tree.ReadAt(n, want, 0); read != len(want) {
		return fmt.Errorf("reading what is wanted: %w", err)
	}
	if string(got) != string(want) {
		return fmt.Errorf("%d bytes differ from the %d wanted", len(got), len(want))
	}
	return nil
}

// readable reports whether the process may read a file, by its mode or its ACL.
func readable(tree *layers.Tree, n layers.Node) bool {
	a, uid := tree.Attr(n), uint32(unix.Geteuid())
	_, hasACL := tree.Xattr(n, "system.posix_acl_access")
	switch {
	case uid == 0 || uid == nobody && hasACL:
		return true
	case uid == a.UID:
		return a.Mode&0o400 != 0
	}
	return a.Mode&0o004 != 0
}

// refused is nil if an operation failed as it has to.
func refused(err error, tree *layers.Tree, n layers.Node) error {
	switch {
	case readable(tree, n):
		return err
	case err == unix.EACCES:
		return nil
	}
	return fmt.Errorf("%v, want EACCES", err)
}

// readFile reads the first bytes of a file.
func readFile(path string, most int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, most)
	size := 0
	for size < most {
		n, err := unix.Pread(fd, buf[size:], int64(size))
		if err != nil || n == 0 {
			return buf[:size], err
		}
		size += n
	}
	return buf[:size], nil
}

// A direntry is what getdents64(2) tells.
type direntry struct {
	name string
	ino  uint64
	typ  uint8
	next int64 // d_off
}

// readDir reads a directory with a buffer of a given size.
func readDir(path string, size int) ([]direntry, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var all []direntry
	buf := make([]byte, size)
	for {
		some, err := getdents(fd, buf)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
	}
}

// getdents is one call of getdents64(2).
func getdents(fd int, buf []byte) ([]direntry, error) {
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	var entries []direntry
	for b := buf[:n]; len(b) > 0; {
		e, size := parseDirent(b)
		entries, b = append(entries, e), b[size:]
	}
	return entries, nil
}

// parseDirent parses a struct linux_dirent64: ino, off, reclen, type, name with a NUL.
func parseDirent(b []byte) (direntry, int) {
	size := int(binary.NativeEndian.Uint16(b[16:]))
	name, _, _ := strings.Cut(string(b[19:size]), "\x00")
	return direntry{
		ino: binary.NativeEndian.Uint64(b), next: int64(binary.NativeEndian.Uint64(b[8:])), typ: b[18], name: name,
	}, size
}

// compareRole compares a mount of the sample, as whom it runs.
func compareRole(args []string) error {
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	if err := compare(args[0], tree); err != nil {
		return err
	}
	fd, err := unix.Open(args[0]+"/etc/hostname", unix.O_WRONLY, 0)
	if err != syscall.EROFS {
		unix.Close(fd)
		return fmt.Errorf("opening for writing: %v, want EROFS", err)
	}
	return nil
}
