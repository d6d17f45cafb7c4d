package upper

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	img "imgfs/internal/testimage"
	"imgfs/layers"
)

// written is when the files of a treeOf were.
var written = time.Unix(1_000_000_000, 0)

// copyOf writes a file as a copy-up does, so that it is the same as the image's.
func copyOf(path, content string) error {
	return errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chmod(path, 0o644), os.Chtimes(path, written, written))
}

// diff is a list of changes as docker diff prints them, with what differs behind that.
func diff(t *testing.T, path string, tree *layers.Tree) string {
	t.Helper()
	var b strings.Builder
	must(t, Diff(path, thisMode(), tree, func(c layers.Change) error {
		fmt.Fprintf(&b, "%c %s %s\n", c.Kind, c.Path, strings.Join(c.What, ","))
		return nil
	}))
	return b.String()
}

func TestDiffTellsWhatAnUpperChanges(t *testing.T) {
	tree := treeOf(t, img.Dir("./"), img.File("copied", "same"), img.File("content", "one"), img.File("longer", "one"), img.File("mode", "m"), img.File("time", "m"), img.File("gone", ""),
		img.File("gone2", ""), img.Dir("dir/"), img.File("dir/a", ""), img.File("dir/b", ""), img.Dir("touched/"), img.File("touched/x", ""), img.Dir("opaque/"), img.File("opaque/a", ""), img.File("opaque/b", ""),
		img.File("becomes", ""), img.Dir("was/"), img.File("was/x", ""), img.Symlink("link", "a"), img.Dir("deep/er/"), img.File("deep/er/x", ""), img.File("xattr", "x"), img.File("same-xattr", "x", img.Xattr("user.a", "b")),
		img.SparsePAX10("sparse", 1<<40, []img.Segment{{Offset: 1 << 39, Data: "data"}}), img.SparsePAX10("sparse2", 1<<40, []img.Segment{{Offset: 1 << 39, Data: "data"}}))
	d := opened(t, t.TempDir(), &Options{Image: oneImage})
	up := d.Path + "/"
	whiteout := func(name string) error { return d.makeWhiteout(d.Upper, name) }
	opaqueDir := func(path string) error {
		fd, err := unix.Open(path, unix.O_PATH, 0)
		must(t, err)
		defer unix.Close(fd)
		return d.Mode.setOpaque(fd, opaqueYes)
	}
	sparse := func(name string, off int64) error {
		f, err := os.Create(up + name)
		must(t, err)
		_, err = f.WriteAt([]byte("data"), off)
		return errors.Join(err, f.Truncate(1<<40), f.Close(), os.Chtimes(up+name, written, written))
	}
	must(t, os.Chmod(up, 0o755), copyOf(up+"copied", "same"), copyOf(up+"content", "two"), copyOf(up+"longer", "three"), copyOf(up+"mode", "m"), os.Chmod(up+"mode", 0o600),
		os.WriteFile(up+"time", []byte("m"), 0o644), whiteout("gone"), whiteout("dir"), whiteout("never-was"), os.Mkdir(up+"touched", 0o755),
		os.Mkdir(up+"opaque", 0o755), opaqueDir(up+"opaque"), copyOf(up+"opaque/b", "new"), copyOf(up+"opaque/c", ""), os.Mkdir(up+"becomes", 0o755),
		copyOf(up+"becomes/x", ""), copyOf(up+"was", ""), os.Symlink("b", up+"link"), os.MkdirAll(up+"deep/er", 0o755), copyOf(up+"deep/er/y", ""),
		os.MkdirAll(up+"new/x", 0o755), copyOf(up+"new/x/y", ""), mkfifo(up+"new/fifo"), copyOf(up+"xattr", "x"), unix.Setxattr(up+"xattr", "user.a", []byte("b"), 0),
		copyOf(up+"same-xattr", "x"), unix.Setxattr(up+"same-xattr", "user.a", []byte("b"), 0),
		unix.Setxattr(up+"copied", d.Mode.Prefix()+"origin", []byte("private"), 0), sparse("sparse", 1<<39), sparse("sparse2", 1<<39-1))
	must(t, unix.Lchown(up+"link", os.Getuid(), os.Getgid()), unix.UtimesNanoAt(unix.AT_FDCWD, up+"link",
		[]unix.Timespec{unix.NsecToTimespec(written.UnixNano()), unix.NsecToTimespec(written.UnixNano())}, unix.AT_SYMLINK_NOFOLLOW))
	d.DeviceWhiteouts = false
	must(t, d.Mode.setOpaque(d.Upper, opaqueMaybe), whiteout("gone2"))
	const want = `C /becomes type
A /becomes/x 
C /content content
C /deep 
C /deep/er 
A /deep/er/y 
D /dir 
D /gone 
D /gone2 
C /link target
C /longer content
C /mode mode
A /new 
A /new/fifo 
A /new/x 
A /new/x/y 
C /opaque 
D /opaque/a 
C /opaque/b content
A /opaque/c 
C /sparse2 content
C /time mtime
C /was type
D /was/x 
C /xattr xattrs
`
	if got := diff(t, d.Path, tree); got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
}

func TestDiffReadsWhatIsRecorded(t *testing.T) {
	tree := treeOf(t, img.Dir("./"), img.File("owner", "x", img.Owner(5, 6)), img.File("same", "x", img.Owner(5, 6), img.Mode(0o4711)))
	path := t.TempDir()
	must(t, os.Chmod(path, 0o755), copyOf(path+"/owner", "x"), copyOf(path+"/same", "x"))
	for name, s := range map[string]Stat{"owner": {Mode: unix.S_IFREG | 0o644, UID: 7, GID: 6}, "same": {Mode: unix.S_IFREG | 0o4711, UID: 5, GID: 6}} {
		if thisMode() == Recorded {
			must(t, unix.Setxattr(path+"/"+name, statAttr, []byte(s.String()), 0))
		} else {
			must(t, os.Chown(path+"/"+name, int(s.UID), int(s.GID)), unix.Chmod(path+"/"+name, s.Mode&0o7777))
		}
	}
	if got, want := diff(t, path, tree), "C /owner owner\n"; got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
}

func TestDiffOfAHostileUpperEndsInTheUpper(t *testing.T) {
	tree := treeOf(t, img.Dir("./"), img.Dir("dir/"), img.File("dir/file", "x"), img.File("file", "1234"))
	outside, path := t.TempDir(), t.TempDir()
	must(t, os.Chmod(path, 0o755), os.WriteFile(outside+"/file", []byte("1234"), 0o644), os.Symlink(outside, path+"/dir"), mkfifo(path+"/file"))
	if got, want := diff(t, path, tree), "C /dir type\nD /dir/file \nC /file type\n"; got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
	must(t, deepTree(path, maxDepth+10))
	err := Diff(path, thisMode(), tree, func(layers.Change) error { return nil })
	if !errors.Is(err, ErrUnusable) || !errors.Is(err, unix.ENAMETOOLONG) || len(err.Error()) > 500 {
		t.Errorf("of endless directories: %.600v", err)
	}
	stop := errors.New("stop")
	if err := Diff(path, thisMode(), tree, func(layers.Change) error { return stop }); err != stop {
		t.Errorf("who listens had an error, but: %v", err)
	}
}
