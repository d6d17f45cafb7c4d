package fsx

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An identity is an inode number, and when that became a file's: they are used again.
type identity struct {
	Ino  uint64
	Sec  int64
	Nsec uint32
}

// An entry is a name of a tree.
type entry struct {
	path, name string
	dir        int // descriptor
	st         unix.Statx_t
}

func (e *entry) identity() identity {
	return identity{e.st.Ino, e.st.Btime.Sec, e.st.Btime.Nsec}
}

// walk calls f with all that is below a directory, sorted, each directory before what is in it.
func walk(dir int, path string, f func(entry) error) error {
	names, err := list(dir)
	if err != nil {
		return fmt.Errorf("%s: list: %w", path, err)
	}
	for _, name := range names {
		e := entry{path: strings.TrimPrefix(path+"/"+name, "/"), name: name, dir: dir}
		if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &e.st); err != nil {
			return fmt.Errorf("%s: stat: %w", e.path, err)
		}
		if err := f(e); err != nil {
			return err
		}
		if e.st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: open: %w", e.path, err)
		}
		err = walk(fd, e.path, f)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// list is the sorted names in a directory.
func list(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// A sight is what a check sees of a name.
type sight struct {
	path, text string
	special    bool // neither a file nor a directory
	identity
}

func (s *sight) String() string { return fmt.Sprintf("%q %.600q", s.path, s.text) }

// see looks at all that is in a side.
func (r *run) see(s *side) ([]sight, error) {
	var all []sight
	err := walk(s.root, "", func(e entry) error {
		text, err := r.describe(&e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.path, err)
		}
		kind := e.st.Mode & unix.S_IFMT
		all = append(all, sight{e.path, text, kind != unix.S_IFREG && kind != unix.S_IFDIR, e.identity()})
		return nil
	})
	if err != nil {
		err = fmt.Errorf("the tree of %s: %w", s.name, err)
	}
	return all, err
}

// check compares all that is in both sides.
func (r *run) check() error {
	got, err := r.see(r.sides[0])
	if err != nil {
		return err
	}
	want, err := r.see(r.sides[1])
	if err != nil {
		return err
	}
	end := sight{text: "no more"}
	r.paths = r.paths[:0]
	for i := range max(len(got), len(want)) {
		a, b := &end, &end
		if i < len(got) {
			a = &got[i]
		}
		if i < len(want) {
			b = &want[i]
		}
		if a.path != b.path || a.text != b.text {
			return fmt.Errorf("the trees differ:\n model: %v\nbut is: %v", b, a)
		}
		r.paths = append(r.paths, b.path)
	}
	return r.checkInodes(got, want)
}

// describe is all that has to be the same about a name.
func (r *run) describe(e *entry) (string, error) {
	var b strings.Builder
	st := e.st
	if r.noTimes && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		st.Mtime.Sec = recently
	}
	b.WriteString(described(&st))
	xattrs, err := r.xattrs(e)
	if err != nil {
		return "", err
	}
	b.WriteString(xattrs)
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(e.dir, e.name, target)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " -> %q", target[:n])
	case unix.S_IFREG:
		sum, err := content(e)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " content %x", sum)
	}
	return b.String(), nil
}

// recently is before all that is written to in a test; times that are set are before that.
const recently = 1_600_000_000

// described is what stat has to tell of both sides alike. When a file was written to is not the same time in both.
func described(st *unix.Statx_t) string {
	kind, mode := st.Mode&unix.S_IFMT, st.Mode
	if kind == unix.S_IFREG && !setID(uint32(mode)&^unix.S_ISUID) {
		mode &^= unix.S_ISGID // when it goes depends on the file system
	}
	s := fmt.Sprintf("%o %d:%d", mode, st.Uid, st.Gid)
	if kind != unix.S_IFDIR {
		s += fmt.Sprintf(" links %d size %d", st.Nlink, st.Size)
	}
	if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		s += fmt.Sprintf(" device %d:%d", st.Rdev_major, st.Rdev_minor)
	}
	if st.Mtime.Sec < recently && kind != unix.S_IFIFO { // to write into a FIFO changes no file of an overlay
		s += fmt.Sprintf(" mtime %d.%09d", st.Mtime.Sec, st.Mtime.Nsec)
	}
	return s
}

// setID tells whether a file's mode has a set-ID bit; the one for the group is none without the permission to execute.
func setID(mode uint32) bool {
	const group = unix.S_ISGID | unix.S_IXGRP
	return mode&unix.S_ISUID != 0 || mode&group == group
}

func (r *run) xattrs(e *entry) (string, error) {
	if err := unix.Fchdir(e.dir); err != nil {
		return "", err
	}
	o := listXattrs(e.name)
	if o.errno != 0 {
		return "", o.errno
	}
	var b strings.Builder
	for name := range strings.FieldsSeq(o.s) {
		value := getXattr(e.name, name)
		fmt.Fprintf(&b, " %s=%v", name, value)
	}
	return b.String(), nil
}

// content reads a file whole. Not many bytes of it are no zeros, so those are the sum.
func content(e *entry) ([]byte, error) {
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close()
	b := make([]byte, e.st.Size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	return sum(bytes.TrimRight(b, "\x00")), nil
}

// sum is a checksum, for content that need not be kept.
func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:8]
}

// checkInodes checks that a file of the model is one file of the test, and the same one as before.
func (r *run) checkInodes(got, want []sight) error {
	var keep [][2]identity
	now, back := make(map[identity]identity), make(map[uint64]identity)
	for i := range got {
		model, test := want[i].identity, identity{Ino: got[i].Ino}
		for _, was := range []map[identity]identity{r.inodes, now} {
			if id, ok := was[model]; ok && id != test && !r.Overlayfs {
				return fmt.Errorf("%s: inode %d, and was %d", got[i].path, test.Ino, id.Ino)
			}
		}
		if id, ok := back[test.Ino]; ok && id != model {
			return fmt.Errorf("%s: inode %d is another file's as well", got[i].path, test.Ino)
		}
		now[model], back[test.Ino] = test, model
		if !got[i].special || !r.NoXattrs {
			keep = append(keep, [2]identity{model, test})
		}
	}
	r.inodes, r.Inodes = now, keep
	return nil
}
