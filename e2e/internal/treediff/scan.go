// Package treediff compares directory trees as the test of an unpacker needs
// it: everything of a file that a layer can carry, and every byte.
//
// For each path it compares type, the 12 mode bits, uid, gid, mtime to the
// nanosecond, size, device number, link target, extended attributes, the
// group of names that are hard links of one file, link count, and the sha256
// of the content.
//
// It does not compare what layers do not carry: inode numbers, access and
// change times, the size of directories, and the blocks that are allocated.
// Where an oracle itself is known to be wrong about something, a [Blind] says so.
package treediff

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// hashers is how many files are read side by side.
const hashers = 4

// Entry is all that is compared of one path.
type Entry struct {
	Path   string // slash-separated, "." is the root
	Type   uint32 // the S_IFMT bits
	Mode   uint32 // the 12 bits below them
	UID    uint32
	GID    uint32
	Mtime  unix.Timespec
	Size   int64 // 0 for directories
	Rdev   uint64
	Nlink  uint64
	Target string            // of a symbolic link
	Xattrs map[string]string // values by name
	Group  string            // the first path, in order, of the names of this file
	Sum    [sha256.Size]byte // of a regular file's content
}

// Tree is the entries of a directory tree in the order of their paths,
// each directory before what is in it.
type Tree []Entry

// Scan reads the tree below root. It follows no symbolic link. What it finds
// to contradict itself is an error: a type in a directory that stat denies,
// a symbolic link whose size is not the length of its target.
func Scan(root string) (Tree, error) {
	var tree Tree
	groups := make(map[[2]uint64]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e, err := scanEntry(root, path, groups)
		if err != nil {
			return fmt.Errorf("scan %s: %w", path, err)
		}
		if d.Type() != fileMode(e.Type) {
			return fmt.Errorf("scan %s: its directory says %v, stat says %v", path, d.Type(), fileMode(e.Type))
		}
		tree = append(tree, *e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tree, hashAll(root, tree)
}

// scanEntry reads all of an entry but the content.
func scanEntry(root, path string, groups map[[2]uint64]string) (*Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	e := &Entry{
		Path: rel, Type: st.Mode & unix.S_IFMT, Mode: st.Mode &^ unix.S_IFMT, UID: st.Uid, GID: st.Gid,
		Mtime: st.Mtim, Size: st.Size, Nlink: uint64(st.Nlink), Group: rel,
	}
	switch e.Type {
	case unix.S_IFDIR:
		e.Size = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = uint64(st.Rdev)
	case unix.S_IFLNK:
		if e.Target, err = os.Readlink(path); err != nil {
			return nil, err
		}
		if int64(len(e.Target)) != e.Size {
			return nil, fmt.Errorf("a link of size %d to %q", e.Size, e.Target)
		}
	}
	if e.Type != unix.S_IFDIR {
		inode := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := groups[inode]; ok {
			e.Group = first
		} else {
			groups[inode] = rel
		}
	}
	e.Xattrs, err = xattrs(path)
	return e, err
}

// xattrs returns the extended attributes of a file, a link's own ones.
func xattrs(path string) (map[string]string, error) {
	names, err := readAll(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := readAll(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		all[name] = string(value)
	}
	return all, nil
}

// readAll calls a function that fills a buffer, or tells the size it needs
// when it gets none.
func readAll(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = get(buf)
	return buf[:max(n, 0)], err
}

// hashAll reads the content of every regular file of the tree, each of a
// group of hard links through its own name.
func hashAll(root string, tree Tree) error {
	var g errgroup.Group
	g.SetLimit(hashers)
	for i := range tree {
		e := &tree[i]
		if e.Type != unix.S_IFREG {
			continue
		}
		g.Go(func() error { return e.hash(filepath.Join(root, e.Path)) })
	}
	return g.Wait()
}

func (e *Entry) hash(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if n != e.Size {
		return fmt.Errorf("read %s: %d bytes of a file of %d", path, n, e.Size)
	}
	h.Sum(e.Sum[:0])
	return nil
}

// fileMode translates S_IFMT bits into what a directory entry says.
func fileMode(ifmt uint32) fs.FileMode {
	switch ifmt {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFIFO:
		return fs.ModeNamedPipe
	case unix.S_IFSOCK:
		return fs.ModeSocket
	case unix.S_IFCHR:
		return fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		return fs.ModeDevice
	}
	return fs.ModeIrregular
}
