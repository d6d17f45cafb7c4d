package upper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	img "imgfs/internal/testimage"
	"imgfs/layers"
)

// lowerTree is a small image.
func lowerTree(t testing.TB) *layers.Tree {
	return treeOf(t,
		img.Dir("./"), img.Dir("d/"), img.Dir("d/e/", img.Mode(0o700)), img.File("d/e/f", "deep"), img.File("file", "of the image"), img.File("other", "other"),
		img.Link("d/link", "file"), img.Link("d/e/link", "file"), img.Symlink("symlink", "file"), img.Fifo("fifo"),
		img.SparsePAX10("sparse", 1<<30, []img.Segment{{Offset: 1 << 20, Data: "data"}, {Offset: 1<<30 - 4, Data: "tail"}}))
}

// attr is what stat tells of a path.
func (w *world) attr(p string) Attr {
	w.t.Helper()
	a, err := w.walk(p)
	if err != nil {
		w.t.Fatalf("%s: %v", p, err)
	}
	return a
}

// holds wants a path to be a file with content.
func (w *world) holds(p, want string) {
	w.t.Helper()
	if got, err := w.read(w.attr(p).ID); got != want || err != nil {
		w.t.Errorf("%s holds %.100q, %v, want %.100q", p, got, err, want)
	}
}

// lacks wants nothing to be at a path.
func (w *world) lacks(p string) {
	w.t.Helper()
	if a, err := w.walk(p); err != unix.ENOENT {
		w.t.Errorf("%s is there: %+v, %v", p, a, err)
	}
}

// onDisk is what lstat(2) tells of a path in the upper.
func (w *world) onDisk(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(w.path+"/upper"+p, &st)
	return st, err
}

// isWhiteout tells whether there is a whiteout at a path in the upper.
func (w *world) isWhiteout(p string) bool {
	st, err := w.onDisk(p)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func TestWhatIsOnlyLookedAtIsNotCopied(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	_, err := w.dump()
	must(t, err)
	if names, err := os.ReadDir(w.path + "/upper"); len(names) > 0 || err != nil {
		t.Errorf("in the upper: %v, %v", names, err)
	}
}

func TestLinksOfTheImageStayLinksWhenOneIsWritten(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	before := w.attr("/d/link")
	must(t, w.unlink("/d/e/link"), w.write("/file", "OF", 0, false))
	for range 2 {
		for _, p := range []string{"/file", "/d/link"} {
			w.holds(p, "OF the image")
			if a := w.attr(p); a.Ino != before.Ino || a.Nlink != 2 {
				t.Errorf("%s: inode %d, was %d, with %d links", p, a.Ino, before.Ino, a.Nlink)
			}
		}
		w.lacks("/d/e/link")
		w.unmount()
		w.mount()
	}
	one, err := w.onDisk("/file")
	must(t, err)
	two, err := w.onDisk("/d/link")
	must(t, err)
	if one.Ino != two.Ino || !w.isWhiteout("/d/e/link") {
		t.Errorf("in the upper: inodes %d and %d", one.Ino, two.Ino)
	}
}

func TestLinksThatACrashLeftAreFinishedByTheNextMount(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	number := w.attr("/file").Ino
	must(t, w.unlink("/d/e/link"))
	links := linksName + itoa(number) + "-" + w.fs.imageName()
	// As a crash leaves it after one of two links was made.
	work, up := w.dir.WorkPath+"/"+workName+"/"+links, w.path+"/upper"
	must(t, os.WriteFile(work, []byte("copied"), 0o644), os.Link(work, up+"/file"))
	for n := range 10 { // and what else it was at
		must(t, os.Mkdir(fmt.Sprintf("%s/%s/tmp-%d", w.dir.WorkPath, workName, n), 0o700))
	}
	w.unmount()
	w.mount()
	w.holds("/file", "copied")
	w.holds("/d/link", "copied")
	w.lacks("/d/e/link")
	if a := w.attr("/file"); a.Nlink != 2 {
		t.Errorf("%d links", a.Nlink)
	}
}

func TestInodeNumbersStayInTheNextMount(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.mkdir("/new", 0o755), w.write("/new/file", "new", 0, false), w.write("/other", "x", 0, false), w.chmod("/d/e", 0o711))
	paths := []string{"/", "/d", "/d/e", "/d/e/f", "/file", "/other", "/symlink", "/new", "/new/file"}
	var want []uint64
	for _, p := range paths {
		want = append(want, w.attr(p).Ino)
	}
	must(t, w.rename("/other", "/new/other", 0))
	paths[5] = "/new/other"
	for range 2 {
		for i, p := range paths {
			if got := w.attr(p).Ino; got != want[i] {
				t.Errorf("%s: inode %d, was %d", p, got, want[i])
			}
		}
		w.unmount()
		w.mount()
	}
}

func TestHolesOfTheImageAreHolesOfTheCopy(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.chmod("/sparse", 0o600))
	st, err := w.onDisk("/sparse")
	must(t, err)
	if st.Size != 1<<30 || st.Blocks > 100 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	h, err := w.fs.Open(w.attr("/sparse").ID, unix.O_RDONLY, false)
	must(t, err)
	defer h.Release()
	buf := make([]byte, 8)
	for off, want := range map[int64]string{1 << 20: "data\x00\x00\x00\x00", 1<<30 - 8: "\x00\x00\x00\x00tail"} {
		if n, err := h.Read(buf, off); string(buf[:n]) != want || err != nil {
			t.Errorf("at %d: %q, %v", off, buf[:n], err)
		}
	}
}

func TestHolesOfTheImageAreFoundBeforeItIsCopied(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	h, err := w.fs.Open(w.attr("/sparse").ID, unix.O_RDONLY, false)
	must(t, err)
	defer h.Release()
	for _, tc := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_DATA, 1 << 20, nil}, {0, unix.SEEK_HOLE, 0, nil}, {1 << 20, unix.SEEK_DATA, 1 << 20, nil}, {1 << 20, unix.SEEK_HOLE, 1<<20 + 4, nil},
		{1<<30 - 4, unix.SEEK_HOLE, 1 << 30, nil}, {1 << 30, unix.SEEK_DATA, 0, unix.ENXIO}, {-1, unix.SEEK_HOLE, 0, unix.ENXIO}, {0, unix.SEEK_END, 0, unix.EINVAL},
	} {
		if got, err := h.Seek(tc.off, tc.whence); got != tc.want || err != tc.err {
			t.Errorf("from %d, %d: %d, %v, want %d, %v", tc.off, tc.whence, got, err, tc.want, tc.err)
		}
	}
}

func TestAnOpenFileIsAsItIsWrittenLater(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	h, err := w.fs.Open(w.attr("/other").ID, unix.O_RDONLY, false)
	must(t, err)
	defer h.Release()
	must(t, w.write("/other", "OTHER!", 0, false))
	buf := make([]byte, 100)
	if n, err := h.Read(buf, 0); string(buf[:n]) != "OTHER!" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if _, err := h.Write(buf, 0, false); err != unix.EBADF {
		t.Errorf("written: %v", err)
	}
}

func TestAFileWithoutANameIsUsedAsLongAsItIsOpen(t *testing.T) {
	for _, p := range []string{"/other", "/new", "/file"} {
		w := newWorld(t, lowerTree(t))
		must(t, w.write("/new", "other", 0, false))
		a := w.attr(p)
		h, err := w.fs.Open(a.ID, unix.O_RDONLY, false)
		must(t, err, w.unlink(p))
		if p == "/file" {
			must(t, w.unlink("/d/link"), w.unlink("/d/e/link"))
		}
		mode, size := uint32(0o600), int64(3)
		got, err := w.fs.SetAttr(a.ID, &Change{Mode: &mode, Size: &size})
		if err != nil || got.Nlink != 0 || got.Size != 3 || got.Mode&0o7777 != mode {
			t.Errorf("%s: %+v, %v", p, got, err)
		}
		buf := make([]byte, 100)
		if n, err := h.Read(buf, 0); n != 3 || err != nil {
			t.Errorf("%s: read %q, %v", p, buf[:n], err)
		}
		must(t, w.write(p, "again", 0, false))
		if b := w.attr(p); b.ID == a.ID {
			t.Errorf("%s: node %d is used again", p, b.ID)
		}
		h.Release()
		w.fs.Forget(a.ID, w.refs[a.ID])
		delete(w.refs, a.ID)
	}
}

func TestADirectoryWithoutANameIsEmpty(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.mkdir("/new", 0o755), w.unlink("/d/e/f"), w.unlink("/d/e/link"))
	for _, p := range []string{"/new", "/d/e"} {
		a := w.attr(p)
		must(t, w.rmdir(p))
		got, err := w.fs.GetAttr(a.ID)
		if err != nil || got.Nlink != 0 || got.Ino != a.Ino {
			t.Errorf("%s: %+v, %v", p, got, err)
		}
		if names, err := w.list(a.ID); len(names) > 0 || err != nil {
			t.Errorf("%s: %v, %v", p, names, err)
		}
		if _, err := w.fs.Lookup(a.ID, "f"); err != unix.ENOENT {
			t.Errorf("%s: lookup: %v", p, err)
		}
		if _, err := w.fs.Mkdir(a.ID, "x", w.me(unix.S_IFDIR|0o755)); err != unix.ENOENT {
			t.Errorf("%s: mkdir: %v", p, err)
		}
	}
}

func TestTheUpperHasTheKernelsForm(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.unlink("/other"), w.unlink("/d/e/f"), w.unlink("/d/e/link"), w.rmdir("/d/e"), w.mkdir("/d/e", 0o755), w.rename("/file", "/renamed", 0))
	for _, p := range []string{"/other", "/file"} {
		if !w.isWhiteout(p) {
			st, err := w.onDisk(p)
			t.Errorf("%s is no whiteout: %o, %v", p, st.Mode, err)
		}
	}
	fd, err := unix.Open(w.path+"/upper/d/e", unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	if opacity, err := w.dir.Mode.opacityOf(fd); opacity != opaqueDir || err != nil {
		t.Errorf("a new directory's opacity is %d, %v", opacity, err)
	}
	if names, err := os.ReadDir(w.path + "/upper/d/e"); len(names) > 0 || err != nil {
		t.Errorf("in it are %v, %v", names, err)
	}
}

func TestWhiteoutsAreFilesWhereDevicesCantBeMade(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	w.dir.DeviceWhiteouts = false
	must(t, w.unlink("/other"), w.rename("/file", "/d/renamed", 0), w.unlink("/d/e/f"))
	for range 2 {
		w.lacks("/other")
		w.lacks("/file")
		w.lacks("/d/e/f")
		w.holds("/d/renamed", "of the image")
		w.unmount()
		w.mount()
	}
	if st, err := w.onDisk("/other"); st.Mode&unix.S_IFMT != unix.S_IFREG || err != nil {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
}

// A faultyTar fails to read, or counts what is read of it.
type faultyTar struct {
	io.ReaderAt
	fails atomic.Bool
	reads atomic.Int64
}

func (f *faultyTar) ReadAt(p []byte, off int64) (int, error) {
	if f.fails.Load() {
		return 0, errors.New("the network is down")
	}
	f.reads.Add(int64(len(p)))
	return f.ReaderAt.ReadAt(p, off)
}

func TestWhatWouldBeTruncatedIsNotRead(t *testing.T) {
	tree, tar := faultyTree(t, img.Dir("./"), img.File("a", "content"), img.File("b", "content"))
	w := newWorld(t, tree)
	tar.fails.Store(true)
	must(t, w.write("/a", "new", 0, true))
	size := int64(0)
	must(t, w.change("/b", &Change{Size: &size}))
	w.holds("/a", "new")
	w.holds("/b", "")
}

func TestACopyThatFailsLeavesAllAsItWas(t *testing.T) {
	tree, tar := faultyTree(t, img.Dir("./"), img.Dir("d/"), img.File("d/a", "content"), img.Link("b", "d/a"))
	w := newWorld(t, tree)
	tar.fails.Store(true)
	var errno unix.Errno
	if err := w.write("/d/a", "x", 0, false); err == nil || errors.As(err, &errno) {
		t.Errorf("written: %v", err)
	}
	tar.fails.Store(false)
	w.holds("/d/a", "content")
	must(t, w.write("/b", "C", 0, false))
	w.holds("/d/a", "Content")
}

func TestAFileIsCopiedOnceHoweverManyWantIt(t *testing.T) {
	const size = 3 << 20
	tree, tar := faultyTree(t, img.Dir("./"), img.Dir("d/"), img.File("d/a", strings.Repeat("0123456789abcdef", size/16)))
	w := newWorld(t, tree)
	id := w.attr("/d/a").ID
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			h, err := w.fs.Open(id, unix.O_RDWR, false)
			if err == nil {
				_, err = h.Write([]byte{'x'}, int64(n), false)
				h.Release()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := tar.reads.Load(); n != size {
		t.Errorf("%d bytes were read of %d", n, size)
	}
	if got, err := w.read(id); err != nil || got[:20] != strings.Repeat("x", 16)+"0123" || len(got) != size {
		t.Errorf("read %d bytes, %.20q, %v", len(got), got, err)
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.mkdir("/d/new", 0o755), w.write("/other", "x", 0, false))
	w.unmount()
	prefix := w.dir.Mode.Prefix()
	must(t, unix.Setxattr(w.path+"/upper/d/new", prefix+"redirect", []byte("/d/e"), 0), unix.Setxattr(w.path+"/upper/other", prefix+"metacopy", nil, 0))
	w.mount()
	for _, p := range []string{"/d/new", "/other"} {
		if a, err := w.walk(p); !errors.Is(err, unix.EOPNOTSUPP) || err == unix.EOPNOTSUPP {
			t.Errorf("%s: %+v, %v", p, a, err)
		}
	}
	w.holds("/file", "of the image")
	must(t, unix.Removexattr(w.path+"/upper/d/new", prefix+"redirect"), unix.Removexattr(w.path+"/upper/other", prefix+"metacopy"))
}

func TestAFreshUppersRootIsTheImages(t *testing.T) {
	w := newWorld(t, treeOf(t, img.Dir("./", img.Mode(0o1750), img.Xattr("user.a", "b"))))
	if a := w.attr("/"); a.Mode&0o7777 != 0o1750 || a.Mtime.Sec > recent {
		t.Errorf("%+v", a)
	}
	must(t, w.chmod("/", 0o711))
	w.unmount()
	w.mount()
	if a := w.attr("/"); a.Mode&0o7777 != 0o711 {
		t.Errorf("the next time: %+v", a)
	}
}

func TestNamesAreAsLongAsLinuxHasThem(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	long := "/d/" + strings.Repeat("n", maxName)
	must(t, w.write(long, "x", 0, false), w.rename(long, "/"+long[3:], 0))
	w.holds("/"+long[3:], "x")
	for what, err := range map[string]error{
		"lookup": second(w.walk(long + "n")), "rename": w.rename("/file", long+"n", 0), "write": w.write(long+"n", "", 0, false),
	} {
		if err != unix.ENAMETOOLONG {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestManyDirectoriesAreOpenInTurns(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	for n := range openDirectories + 100 {
		p := fmt.Sprintf("/d/%d", n)
		must(t, w.mkdir(p, 0o755), w.mkdir(p+"/sub", 0o755), w.write(p+"/sub/file", p, 0, false))
	}
	for n := range openDirectories + 100 {
		p := fmt.Sprintf("/d/%d", n)
		w.holds(p+"/sub/file", p)
	}
	if n := w.fs.descriptors.order.Len(); n > openDirectories {
		t.Errorf("%d are open", n)
	}
}

func TestOperationsMayComeAtOnce(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			k := &kernel{fs: w.fs, refs: make(map[uint64]uint64)}
			for round := range 50 {
				p := fmt.Sprintf("/d/%d-%d", n, round)
				err := errors.Join(k.mkdir(p, 0o755), k.write(p+"/file", p, 0, false), k.rename(p+"/file", p+"/renamed", 0), k.link(p+"/renamed", p+"/link"),
					k.setxattr(p, "user.a", p, 0), second(k.walk("/d/e/f")), k.unlink(p+"/renamed"))
				if round%2 == 0 {
					err = errors.Join(err, k.unlink(p+"/link"), k.rmdir(p))
				}
				if err != nil {
					t.Errorf("%s: %v", p, err)
				}
				for id, count := range k.refs {
					k.fs.Forget(id, count)
				}
				clear(k.refs)
			}
		})
	}
	all.Wait()
	if names, err := w.list(w.attr("/d").ID); len(names) != 8*25+2 || err != nil {
		t.Errorf("%d names, %v", len(names), err)
	}
}

func TestWhatTheKernelForgetsIsNotKept(t *testing.T) {
	w := newWorld(t, lowerTree(t))
	must(t, w.mkdir("/new", 0o755))
	for n := range 100 {
		must(t, w.write(fmt.Sprintf("/new/%d", n), "x", 0, false))
	}
	must(t, w.unlink("/new/0"), w.unlink("/new/1"))
	for id, count := range w.refs {
		w.fs.Forget(id, count)
	}
	clear(w.refs)
	if n := len(w.fs.table.byID); n > 0 {
		t.Errorf("%d inodes are kept", n)
	}
	w.holds("/new/7", "x")
}
