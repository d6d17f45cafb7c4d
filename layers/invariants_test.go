package layers_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imgfs/layers"
)

// A listed is all there is to know of one name.
type listed struct {
	Ino    uint64
	Group  string // the first name, by path, of the names that are one file
	Mode   uint32
	Owner  string
	Mtime  string
	Size   uint64
	Blocks uint64
	Nlink  uint32
	Device string
	Target string
	Xattrs string
	Sum    string // of a file's content
	Layer  int
}

// ignoreInodes leaves numbers out of a comparison.
var ignoreInodes = cmpopts.IgnoreFields(listed{}, "Ino")

// listing is the whole tree, by path.
func listing(t testing.TB, tree *layers.Tree) map[string]listed {
	t.Helper()
	groups := make(map[layers.Node]string)
	all := make(map[string]listed)
	for n := range layers.Node(tree.Len()) {
		if path, first := tree.Path(n), groups[tree.Inode(n)]; first == "" || path < first {
			groups[tree.Inode(n)] = path
		}
	}
	for n := range layers.Node(tree.Len()) {
		a := tree.Attr(n)
		l := listed{
			Ino: a.Ino, Group: groups[tree.Inode(n)], Mode: a.Mode, Owner: fmt.Sprintf("%d:%d", a.UID, a.GID),
			Mtime: fmt.Sprintf("%d.%09d", a.MtimeSec, a.MtimeNsec), Size: a.Size, Blocks: a.Blocks, Nlink: a.Nlink,
			Device: fmt.Sprintf("%d:%d", a.Major, a.Minor), Target: tree.Readlink(n), Layer: tree.Layer(n),
		}
		for _, x := range tree.Xattrs(n) {
			l.Xattrs += fmt.Sprintf("%q=%q ", x.Name, x.Value)
		}
		if a.Mode&syscall.S_IFMT == syscall.S_IFREG {
			l.Sum = fmt.Sprintf("%x", sha256.Sum256(read(t, tree, n)))
		}
		all[tree.Path(n)] = l
	}
	return all
}

// checkInvariants checks that a tree is one, whatever is in it.
func checkInvariants(t testing.TB, tree *layers.Tree) {
	t.Helper()
	if tree.Len() == 0 || tree.Parent(layers.Root) != layers.Root || tree.Name(layers.Root) != "" {
		t.Fatal("there is no root")
	}
	next := layers.Node(1) // where the next directory's children start
	names := make(map[layers.Node]uint32)
	for n := range layers.Node(tree.Len()) {
		checkName(t, tree, n)
		checkNumber(t, tree, n)
		names[tree.Inode(n)]++
		lo, hi := tree.Children(n)
		if tree.Attr(n).Mode&syscall.S_IFMT != syscall.S_IFDIR {
			if lo != hi {
				t.Fatalf("%s has children and is no directory", tree.Path(n))
			}
			continue
		}
		if lo != next || hi < lo || hi > layers.Node(tree.Len()) {
			t.Fatalf("%s has children %d to %d, want them from %d on", tree.Path(n), lo, hi, next)
		}
		next = hi
		checkChildren(t, tree, n)
	}
	if int(next) != tree.Len() {
		t.Fatalf("%d nodes of %d are somebody's children", next, tree.Len())
	}
	checkLinks(t, tree, names)
}

func checkName(t testing.TB, tree *layers.Tree, n layers.Node) {
	t.Helper()
	name := tree.Name(n)
	switch {
	case n == layers.Root:
	case name == "", name == ".", name == "..", len(name) > 255, strings.ContainsAny(name, "/\x00"):
		t.Fatalf("node %d is called %q", n, name)
	case strings.HasPrefix(name, ".wh."):
		t.Fatalf("a marker is visible: %s", tree.Path(n))
	case len(tree.Path(n)) > 1+4096: // with the slash in front
		t.Fatalf("path of %d bytes", len(tree.Path(n)))
	}
}

func checkNumber(t testing.TB, tree *layers.Tree, n layers.Node) {
	t.Helper()
	i := tree.Inode(n)
	if i > n || tree.Inode(i) != i || tree.Attr(n).Ino != uint64(i)+1 {
		t.Fatalf("%s, node %d: inode %d, ino %d", tree.Path(n), n, i, tree.Attr(n).Ino)
	}
	if n != i && tree.Attr(n) != tree.Attr(i) {
		t.Fatalf("%s and %s are one file with different attributes", tree.Path(n), tree.Path(i))
	}
	if n != layers.Root && tree.Parent(n) >= n {
		t.Fatalf("%s, node %d, has parent %d", tree.Path(n), n, tree.Parent(n))
	}
}

// checkChildren checks one directory.
func checkChildren(t testing.TB, tree *layers.Tree, dir layers.Node) {
	t.Helper()
	dirs := uint32(0)
	lo, hi := tree.Children(dir)
	for n := lo; n < hi; n++ {
		if tree.Parent(n) != dir {
			t.Fatalf("%s is child of %d and has parent %d", tree.Name(n), dir, tree.Parent(n))
		}
		if n > lo && tree.Name(n-1) >= tree.Name(n) {
			t.Fatalf("%q comes before %q", tree.Name(n-1), tree.Name(n))
		}
		if found, ok := tree.Lookup(dir, tree.Name(n)); !ok || found != n {
			t.Fatalf("Lookup finds %s at %d, not %d", tree.Path(n), found, n)
		}
		if tree.Attr(n).Mode&syscall.S_IFMT == syscall.S_IFDIR {
			dirs++
		}
	}
	if got := tree.Attr(dir).Nlink; got != 2+dirs {
		t.Fatalf("%s has %d links and %d directories", tree.Path(dir), got, dirs)
	}
	for _, absent := range []string{"", ".", "..", "\xff\xff"} {
		if n, ok := tree.Lookup(dir, absent); ok {
			t.Fatalf("Lookup finds %q in %s, at %d", absent, tree.Path(dir), n)
		}
	}
}

// checkLinks checks the counts of links and of files, given how many names each inode has.
func checkLinks(t testing.TB, tree *layers.Tree, names map[layers.Node]uint32) {
	t.Helper()
	bytes := uint64(0)
	for n, count := range names {
		a := tree.Attr(n)
		if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			if count != 1 {
				t.Fatalf("directory %s has %d names", tree.Path(n), count)
			}
			continue
		}
		if a.Nlink != count {
			t.Fatalf("%s has %d links and %d names", tree.Path(n), a.Nlink, count)
		}
		bytes += a.Blocks
	}
	files, content := tree.Usage()
	if files != uint64(len(names)) || content > 512*bytes || content+512*files < 512*bytes {
		t.Fatalf("Usage is %d files, %d bytes; there are %d, %d blocks", files, content, len(names), bytes)
	}
	checkResolve(t, tree)
}

func checkResolve(t testing.TB, tree *layers.Tree) {
	t.Helper()
	for n := range layers.Node(tree.Len()) {
		if got, err := tree.Resolve(tree.Path(n), false); err != nil || got != n {
			t.Fatalf("Resolve finds %s at %d, not %d: %v", tree.Path(n), got, n, err)
		}
	}
}

func TestAnEmptyImageIsAnEmptyRoot(t *testing.T) {
	r := merge(t, nil)
	want := map[string]listed{"/": {Ino: 1, Group: "/", Mode: syscall.S_IFDIR | 0o755, Owner: "0:0", Mtime: "0.000000000",
		Size: 4096, Nlink: 2, Device: "0:0"}}
	if diff := cmp.Diff(want, listing(t, r.tree)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
