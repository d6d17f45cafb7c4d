package upper

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	img "imgfs/internal/testimage"
	"imgfs/layers"
)

// A plain is the same tree in a directory, in which the same is done.
type plain string

func (p plain) at(path string) string { return string(p) + path }

// unpack writes a tree into an empty directory.
func (p plain) unpack(tree *layers.Tree) error {
	first := make(map[layers.Node]string)
	for n := layers.Root; int(n) < tree.Len(); n++ {
		at := p.at(tree.Path(n))
		if old, ok := first[tree.Inode(n)]; ok {
			if err := os.Link(old, at); err != nil {
				return err
			}
			continue
		}
		first[tree.Inode(n)] = at
		if err := p.unpackOne(tree, n, at); err != nil {
			return err
		}
	}
	for n := layers.Node(tree.Len()); n > 0; n-- { // times of directories last
		a := tree.Attr(n - 1)
		t := unix.Timespec{Sec: a.MtimeSec, Nsec: int64(a.MtimeNsec)}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p.at(tree.Path(n-1)), []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return nil
}

func (p plain) unpackOne(tree *layers.Tree, n layers.Node, at string) error {
	a := tree.Attr(n)
	var err error
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if n != layers.Root {
			err = os.Mkdir(at, 0o700)
		}
	case unix.S_IFLNK:
		err = os.Symlink(tree.Readlink(n), at)
	case unix.S_IFREG:
		content := make([]byte, a.Size)
		if _, err := tree.ReadAt(n, content, 0); err != nil && a.Size > 0 {
			return err
		}
		err = os.WriteFile(at, content, 0o600)
	default:
		err = unix.Mknod(at, a.Mode, int(unix.Mkdev(a.Major, a.Minor)))
	}
	if thisMode() != Recorded {
		err = errors.Join(err, os.Lchown(at, int(a.UID), int(a.GID)))
	}
	if a.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	for _, x := range tree.Xattrs(n) {
		err = errors.Join(err, unix.Lsetxattr(at, x.Name, []byte(x.Value), 0))
	}
	return errors.Join(err, unix.Chmod(at, a.Mode&0o7777))
}

// dump is as kernel.dump.
func (p plain) dump() (map[string]string, error) {
	all := make(map[string]string)
	err := filepath.WalkDir(string(p), func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(at, string(p))
		if name == "" {
			name = "/"
		}
		all[name], err = describePlain(at)
		return err
	})
	return all, err
}

func describePlain(at string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return "", err
	}
	a := Attr{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Size: uint64(st.Size), Mtime: st.Mtim,
		Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
	}
	content, err := "", error(nil)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		content, err = os.Readlink(at)
	case unix.S_IFREG:
		var b []byte
		b, err = os.ReadFile(at)
		content = string(b)
	}
	if err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(at, buf)
	if err != nil {
		return "", err
	}
	xattrs, err := describeXattrs(string(buf[:n]), func(name string, dst []byte) (int, error) { return unix.Lgetxattr(at, name, dst) })
	return describe(&a, content, xattrs), err
}

// modelTree is what the random operations begin with: some of everything, in few names.
func modelTree(t testing.TB) *layers.Tree {
	owner := img.Owner(1, 2)
	if thisMode() == Recorded {
		owner = img.Owner(nobody, nobody) // the plain directory can't have others
	}
	return treeOf(t,
		img.Dir("./", owner), img.Dir("a/", owner), img.Dir("a/b/", img.Mode(0o750), owner), img.Dir("a/b/c/", owner), img.Dir("b/", img.Mode(0o2775), owner), img.Dir("c/", owner),
		img.File("a/a", "one", owner), img.File("a/c", "two", img.Mode(0o4755), owner, img.Xattr("user.a", "value")), img.File("a/b/a", strings.Repeat("three", 10_000), owner),
		img.File("a/b/b", "", owner), img.File("a/b/c/a", "four", owner), img.File("b/a", "five", owner), img.Link("b/b", "a/a"), img.Link("c/a", "a/a"), img.Link("c/b", "b/a"),
		img.Symlink("c/c", "../a/a", owner), img.Link("b/c", "c/c"), img.Fifo("a/b/c/b", owner), img.SparsePAX10("a/b/c/c", 1<<20, []img.Segment{{Offset: 1 << 19, Data: "data"}}, owner))
}

// nobody is who a user's tests run as.
const nobody = 65534

// A pair is a file system and a plain directory that has to stay the same.
type pair struct {
	*world
	plain
	r   *rand.Rand
	log []string
}

// do does one thing to both, and compares the errors.
func (p *pair) do(what string, ours, plain func() error) {
	p.t.Helper()
	p.log = append(p.log, what)
	err := ours()
	if err == unix.EXDEV {
		return // a directory that can't be renamed stays where it is
	}
	if want := plain(); !errors.Is(err, want) && !(err == nil && want == nil) {
		p.t.Fatalf("%s: %v, in a plain directory %v, after\n%s", what, err, want, p.history())
	}
}

// history is what was done last, the latest first.
func (p *pair) history() string {
	last := slices.Clone(p.log[max(0, len(p.log)-100):])
	slices.Reverse(last)
	return strings.Join(last, "\n")
}

// name is a random path, of names from a to c. A symbolic link may be at its end: ours are not followed.
func (p *pair) name() string {
	path := ""
	for range 1 + p.r.IntN(4) {
		if isLink(p.at(path)) {
			break
		}
		path += "/" + string(rune('a'+p.r.IntN(3)))
	}
	return path
}

// operations are what is done, with the weight that each has.
var operations = []struct {
	weight int
	do     func(p *pair, a, b string)
}{
	{6, func(p *pair, a, _ string) {
		text, off, trunc := strings.Repeat("x", 1+p.r.IntN(5000)), p.r.Int64N(10_000), p.r.IntN(4) == 0
		p.do(fmt.Sprintf("write %s %d at %d %v", a, len(text), off, trunc),
			func() error { return p.write(a, text, off, trunc) }, func() error { return writePlain(p.at(a), text, off, trunc) })
	}},
	{2, func(p *pair, a, _ string) {
		size := p.r.Int64N(6000)
		p.do(fmt.Sprintf("truncate %s to %d", a, size), func() error { return p.truncate(a, size) }, func() error { return truncatePlain(p.at(a), size) })
	}},
	{4, func(p *pair, a, _ string) {
		mode := 0o700 | p.r.Uint32N(0o100)
		p.do(fmt.Sprintf("mkdir %s %o", a, mode), func() error { return p.mkdir(a, mode) }, func() error { return unix.Mkdir(p.at(a), mode) })
	}},
	{1, func(p *pair, a, _ string) {
		p.do("mkfifo "+a, func() error { return p.mknod(a, unix.S_IFIFO|0o640) }, func() error { return unix.Mkfifo(p.at(a), 0o640) })
	}},
	{2, func(p *pair, a, b string) {
		p.do("symlink "+a, func() error { return p.symlink(b, a) }, func() error { return unix.Symlink(b, p.at(a)) })
	}},
	{4, func(p *pair, a, b string) {
		p.do("link "+a+" "+b, func() error { return p.world.link(a, b) }, func() error { return unix.Link(p.at(a), p.at(b)) })
	}},
	{5, func(p *pair, a, _ string) {
		p.do("unlink "+a, func() error { return p.unlink(a) }, func() error { return unix.Unlink(p.at(a)) })
	}},
	{3, func(p *pair, a, _ string) {
		p.do("rmdir "+a, func() error { return p.rmdir(a) }, func() error { return unix.Rmdir(p.at(a)) })
	}},
	{8, func(p *pair, a, b string) {
		flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[p.r.IntN(4)]
		p.do(fmt.Sprint("rename ", a, " ", b, " ", flags), func() error { return p.rename(a, b, uint32(flags)) },
			func() error { return unix.Renameat2(unix.AT_FDCWD, p.at(a), unix.AT_FDCWD, p.at(b), flags) })
	}},
	{2, func(p *pair, a, _ string) {
		mode := 0o700 | p.r.Uint32N(0o100) | p.r.Uint32N(8)<<9
		if isLink(p.at(a)) {
			return
		}
		p.do(fmt.Sprintf("chmod %s %o", a, mode), func() error { return p.chmod(a, mode) }, func() error { return unix.Chmod(p.at(a), mode) })
	}},
	{2, func(p *pair, a, _ string) {
		if thisMode() == Recorded {
			return
		}
		uid, gid := p.r.Uint32N(3), p.r.Uint32N(3)
		p.do(fmt.Sprint("chown ", a, " ", uid, " ", gid), func() error { return p.change(a, &Change{UID: &uid, GID: &gid}) },
			func() error { return unix.Lchown(p.at(a), int(uid), int(gid)) })
	}},
	{2, func(p *pair, a, _ string) {
		t := []unix.Timespec{{Sec: p.r.Int64N(1 << 30)}, {Sec: p.r.Int64N(1 << 30), Nsec: 1}}
		p.do("utimes "+a, func() error { return p.change(a, &Change{Atime: &t[0], Mtime: &t[1]}) },
			func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, p.at(a), t, unix.AT_SYMLINK_NOFOLLOW) })
	}},
	{2, func(p *pair, a, b string) {
		if !hasXattrs(p.at(a)) {
			return
		}
		flags := []uint32{0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[p.r.IntN(3)]
		p.do(fmt.Sprint("setxattr ", a, " ", flags), func() error { return p.setxattr(a, "user.a", b, flags) },
			func() error { return unix.Lsetxattr(p.at(a), "user.a", []byte(b), int(flags)) })
	}},
	{1, func(p *pair, a, _ string) {
		if !hasXattrs(p.at(a)) {
			return
		}
		p.do("removexattr "+a, func() error { return p.removexattr(a, "user.a") }, func() error { return unix.Lremovexattr(p.at(a), "user.a") })
	}},
}

func isLink(path string) bool { return kindAt(path) == unix.S_IFLNK }

// hasXattrs tells whether attributes of the user can be on what is at a path. If not, Linux does not even ask.
func hasXattrs(path string) bool { return kindAt(path) == unix.S_IFREG || kindAt(path) == unix.S_IFDIR }

func kindAt(path string) uint32 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

func writePlain(path, text string, off int64, truncate bool) error {
	flags := unix.O_CREAT | unix.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if truncate {
		flags |= unix.O_TRUNC
	}
	fd, err := openPlain(path, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Pwrite(fd, []byte(text), off)
	return err
}

func truncatePlain(path string, size int64) error {
	fd, err := openPlain(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, size)
}

// openPlain opens a regular file; another kind is ELOOP.
func openPlain(path string, flags int) (int, error) {
	if kind := kindAt(path); kind != 0 && kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return -1, unix.ELOOP
	}
	return unix.Open(path, flags|unix.O_CLOEXEC, 0o666)
}

func TestRandomOperationsComeToTheSameAsInAPlainDirectory(t *testing.T) {
	tree := modelTree(t)
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	for seed := range uint64(modelSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p := &pair{world: newWorld(t, tree), plain: plain(t.TempDir()), r: rand.New(rand.NewPCG(seed, 1))}
			must(t, p.unpack(tree))
			for step := range modelSteps {
				pick := p.r.IntN(total)
				for _, o := range operations {
					if pick -= o.weight; pick < 0 {
						o.do(p, p.name(), p.name())
						break
					}
				}
				if step%7 == 0 {
					p.forget(p.r, 3, 1)
				}
				if step%50 == 0 {
					p.compare()
				}
				if step%200 == 199 {
					p.check()
				}
			}
			p.compare()
		})
	}
}

// How often, and how long each time.
const (
	modelSeeds = 20
	modelSteps = 400
)

// compare compares what is seen.
func (p *pair) compare() {
	p.t.Helper()
	ours, err := p.world.dump()
	if err != nil {
		p.t.Fatalf("%v, after\n%s", err, p.history())
	}
	theirs, err := p.plain.dump()
	must(p.t, err)
	compareDumps(p.t, "ours", ours, "plain", theirs)
	if p.t.Failed() {
		p.t.Fatalf("after\n%s", p.history())
	}
}
