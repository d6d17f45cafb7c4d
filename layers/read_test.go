package layers_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"imgfs/index"
	. "imgfs/internal/testimage"
	"imgfs/layers"
)

// A section is one file of a tree, as an io.ReaderAt.
type section struct {
	tree *layers.Tree
	n    layers.Node
}

func (s section) ReadAt(p []byte, off int64) (int, error) { return s.tree.ReadAt(s.n, p, off) }

func find(t testing.TB, tree *layers.Tree, path string) layers.Node {
	t.Helper()
	n, err := tree.Resolve(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFilesReadAsReaderAtsDo(t *testing.T) {
	var segments []Segment
	content := make([]byte, 60_000)
	for i := range int64(40) {
		data := strings.Repeat(string(rune('a'+i%26)), int(i*13%700))
		segments = append(segments, Segment{Offset: i * 1400, Data: data})
		copy(content[i*1400:], data)
	}
	text := strings.Repeat("some text ", 1000)
	tree := merge(t, indexed(t, stack(layer(
		File("before", "x"), File("plain", text), File("empty", ""), SparsePAX10("sparse", 60_000, segments),
		SparsePAX01("hole", 10_000, []Segment{{Offset: 10_000}}), File("after", "x"))))).tree
	for path, want := range map[string]string{
		"plain": text, "empty": "", "sparse": string(content), "hole": strings.Repeat("\x00", 10_000),
	} {
		f := section{tree, find(t, tree, path)}
		if err := iotest.TestReader(io.NewSectionReader(f, 0, int64(len(want))), []byte(want)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 2000 {
			off, n := r.IntN(len(want)+10), r.IntN(3000)
			p := bytes.Repeat([]byte{0xff}, n)
			got, err := f.ReadAt(p, int64(off))
			rest := want[min(off, len(want)):]
			rest = rest[:min(n, len(rest))]
			if string(p[:got]) != rest || (got < n) != (err == io.EOF) && off < len(want) || err != nil && err != io.EOF {
				t.Fatalf("%s: ReadAt of %d at %d: %d bytes, %v", path, n, off, got, err)
			}
		}
	}
}

func TestReadsThatCantBe(t *testing.T) {
	tree := merge(t, indexed(t, stack(layer(File("f", "content"), Dir("d/"), Symlink("s", "f"), Fifo("p"), Char("c", 1, 3))))).tree
	for _, test := range []struct {
		path string
		off  int64
		want error
	}{
		{"d", 0, syscall.EISDIR}, {"s", 0, syscall.EINVAL}, {"p", 0, syscall.EINVAL}, {"c", 0, syscall.EINVAL},
		{"f", -1, syscall.EINVAL}, {"f", 7, io.EOF}, {"f", 1 << 62, io.EOF},
	} {
		n, err := tree.ReadAt(find(t, tree, test.path), make([]byte, 1), test.off)
		if n != 0 || !errors.Is(err, test.want) {
			t.Errorf("reading %s at %d: %d, %v, want %v", test.path, test.off, n, err, test.want)
		}
	}
}

func TestATarThatFailsFailsTheRead(t *testing.T) {
	e := &index.Entry{Name: "d/f", Type: '0', Size: 10, Extents: []index.Extent{{Offset: 2, Length: 10}}}
	holes := &index.Entry{Name: "d/h", Type: '0', Size: 30, Extents: []index.Extent{{Logical: 5, Offset: 2, Length: 10}}}
	for name, test := range map[string]struct {
		tar  io.ReaderAt
		want error
	}{
		"short":  {strings.NewReader("12345"), io.ErrUnexpectedEOF},
		"broken": {broken{}, syscall.EIO},
	} {
		tree := mergeOnce([]layerIn{{entries: []*index.Entry{e, holes}, tar: test.tar}}).tree
		for _, path := range []string{"/d/f", "/d/h"} {
			n, err := tree.ReadAt(find(t, tree, path), make([]byte, 10), 0)
			var pe *fs.PathError
			if n == 10 || !errors.Is(err, test.want) || !errors.As(err, &pe) || pe.Path != path {
				t.Errorf("%s: %d, %v, want %v", name, n, err, test.want)
			}
		}
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

// TestATarMayEndWithTheLastFile reads up to the end of a ReaderAt that says io.EOF along with the last byte.
func TestATarMayEndWithTheLastFile(t *testing.T) {
	e := &index.Entry{Name: "f", Type: '0', Size: 3, Extents: []index.Extent{{Offset: 2, Length: 3}}}
	tree := mergeOnce([]layerIn{{entries: []*index.Entry{e}, tar: eager{"12abc"}}}).tree
	p := make([]byte, 3)
	if n, err := tree.ReadAt(1, p, 0); n != 3 || err != nil || string(p) != "abc" {
		t.Errorf("%d, %v, %q", n, err, p)
	}
}

type eager struct{ s string }

func (e eager) ReadAt(p []byte, off int64) (int, error) { return copy(p, e.s[off:]), io.EOF }

func TestDataIsToldFromHoles(t *testing.T) {
	entries := []*index.Entry{
		{Name: "plain", Type: '0', Size: 10, Extents: []index.Extent{{Offset: 2, Length: 10}}},
		{Name: "empty", Type: '0'},
		{Name: "hole", Type: '0', Size: 1 << 40},
		{Name: "sparse", Type: '0', Size: 100, Extents: []index.Extent{{Logical: 10, Length: 5}, {Logical: 15, Offset: 5, Length: 5}, {Logical: 30, Offset: 10}, {Logical: 90, Offset: 10, Length: 10}}},
		{Name: "dir", Type: '5'},
	}
	tree := mergeOnce([]layerIn{{entries: entries, tar: strings.NewReader("")}}).tree
	for _, test := range []struct {
		path            string
		off, begin, end int64
	}{
		{"plain", 0, 0, 10}, {"plain", 9, 9, 10}, {"plain", 10, 10, 10}, {"plain", 11, 10, 10}, {"empty", 0, 0, 0}, {"hole", 0, 1 << 40, 1 << 40},
		{"sparse", 0, 10, 20}, {"sparse", 12, 12, 20}, {"sparse", 15, 15, 20}, {"sparse", 20, 90, 100}, {"sparse", 99, 99, 100}, {"sparse", 100, 100, 100},
		{"dir", 0, 4096, 4096},
	} {
		if begin, end := tree.Data(find(t, tree, test.path), test.off); begin != test.begin || end != test.end {
			t.Errorf("%s from %d: %d to %d, want %d to %d", test.path, test.off, begin, end, test.begin, test.end)
		}
	}
}

func TestResolve(t *testing.T) {
	tree := merge(t, indexed(t, stack(layer(
		File("usr/lib/x", ""), Symlink("lib", "usr/lib"), Symlink("abs", "/lib/x"), Symlink("up", "../../usr"), Symlink("dir/back", ".."),
		Symlink("loop", "loop"), Symlink("dangling", "nowhere"), Symlink("dots", "./usr/../lib/."))))).tree
	for _, test := range []struct {
		path   string
		follow bool
		want   string
		err    error
	}{
		{"", false, "/", nil},
		{"/", true, "/", nil},
		{"usr/lib/x", false, "/usr/lib/x", nil},
		{"/usr//./lib/x", false, "/usr/lib/x", nil},
		{"/../..", false, "/", nil},
		{"usr/lib/../..", false, "/", nil},
		{"lib", false, "/lib", nil},
		{"lib", true, "/usr/lib", nil},
		{"lib/", false, "/usr/lib", nil},
		{"lib/.", false, "/usr/lib", nil},
		{"lib/x", false, "/usr/lib/x", nil},
		{"lib/..", false, "/usr", nil},
		{"abs", false, "/abs", nil},
		{"abs", true, "/usr/lib/x", nil},
		{"up/lib/x", false, "/usr/lib/x", nil},
		{"dir/back/dir", false, "/dir", nil},
		{"dots/x", true, "/usr/lib/x", nil},
		{"nothing", false, "", fs.ErrNotExist},
		{"nothing/x", false, "", fs.ErrNotExist},
		{"dangling", true, "", fs.ErrNotExist},
		{"dangling", false, "/dangling", nil},
		{"loop", true, "", syscall.ELOOP},
		{"loop/x", false, "", syscall.ELOOP},
		{"loop", false, "/loop", nil},
		{"usr/lib/x/y", false, "", syscall.ENOTDIR},
		{"usr/lib/x/", false, "", syscall.ENOTDIR},
		{"usr/lib/x/..", false, "", syscall.ENOTDIR},
		{"abs/", true, "", syscall.ENOTDIR},
	} {
		n, err := tree.Resolve(test.path, test.follow)
		if !errors.Is(err, test.err) || err == nil && tree.Path(n) != test.want {
			t.Errorf("Resolve(%q, %v) = %s, %v, want %s, %v", test.path, test.follow, tree.Path(n), err, test.want, test.err)
		}
	}
}

func TestNothingIsAllocatedPerOperation(t *testing.T) {
	tree := merge(t, indexed(t, stack(layer(
		File("d/f", "content", Xattr("user.a", "1")), Symlink("d/s", "target"),
		SparsePAX10("d/sparse", 5000, []Segment{{Offset: 10, Data: "abc"}, {Offset: 4000, Data: "xyz"}}))))).tree
	d, f, s, sparse := find(t, tree, "d"), find(t, tree, "d/f"), find(t, tree, "d/s"), find(t, tree, "d/sparse")
	p := make([]byte, 5000)
	for name, op := range map[string]func(){
		"Lookup":                 func() { tree.Lookup(d, "f") },
		"Children":               func() { tree.Children(d) },
		"Attr":                   func() { tree.Attr(f) },
		"Name":                   func() { _ = tree.Name(f) },
		"Parent":                 func() { tree.Parent(f) },
		"Inode":                  func() { tree.Inode(f) },
		"Readlink":               func() { _ = tree.Readlink(s) },
		"Xattrs":                 func() { _ = tree.Xattrs(f) },
		"Xattr":                  func() { tree.Xattr(f, "user.a") },
		"ReadAt":                 func() { tree.ReadAt(f, p[:7], 0) },
		"a sparse file's ReadAt": func() { tree.ReadAt(sparse, p, 0) },
	} {
		if n := testing.AllocsPerRun(100, op); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	if v, ok := tree.Xattr(f, "user.a"); v != "1" || !ok {
		t.Errorf("attribute is %q, %v", v, ok)
	}
	if _, ok := tree.Xattr(f, "user.b"); ok {
		t.Error("an attribute that is not there is found")
	}
}

func TestContentTellsWhereTheBytesOfAFileAre(t *testing.T) {
	in := indexed(t, stack(
		layer(File("below", "lower"), File("hidden", "never")),
		layer(File("plain", "content"), File("empty", ""), SparsePAX10("sparse", 5000, []Segment{{Offset: 10, Data: "a"}, {Offset: 3000, Data: "bc"}}),
			Link("link", "plain"), Link("down", "below"), File("hidden", "upper"), Dir("dir/"), Symlink("symlink", "plain")),
	))
	tree := merge(t, in).tree
	for n := range layers.Node(tree.Len()) {
		var want []byte
		if size := tree.Attr(n).Size; tree.Attr(n).Mode&syscall.S_IFMT == syscall.S_IFREG && size > 0 {
			want = make([]byte, size)
			if _, err := tree.ReadAt(n, want, 0); err != nil {
				t.Fatal(err)
			}
		}
		layer, extents := tree.Content(n)
		got := make([]byte, len(want))
		for _, e := range extents {
			if _, err := in[layer].tar.ReadAt(got[e.Logical:][:e.Length], e.Offset); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) || (len(want) > 0) != (len(extents) > 0) {
			t.Errorf("%s: layer %d, %v, want the bytes %q", tree.Path(n), layer, extents, want)
		}
	}
}
