package layers

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"imgfs/index"
)

func TestANodeIsACacheLine(t *testing.T) {
	if n := unsafe.Sizeof(node{}); n != 64 {
		t.Errorf("a node has %d bytes", n)
	}
	if s, i := unsafe.Sizeof(spot{}), unsafe.Sizeof(inode{}); s != 32 || i != 48 {
		t.Errorf("a spot has %d bytes and an inode %d", s, i)
	}
	if x, e := unsafe.Sizeof(index.Xattr{}), unsafe.Sizeof(index.Extent{}); x != xattrSize || e != extentSize {
		t.Errorf("an attribute has %d bytes and an extent %d", x, e)
	}
}

// TestWhatIsReplacedIsNotKept looks for what a tree should have left behind.
func TestWhatIsReplacedIsNotKept(t *testing.T) {
	sparse := []index.Extent{{Logical: 1, Length: 1}}
	entries := []index.Entry{
		{Name: "f", Type: index.TypeRegular, Xattrs: []index.Xattr{{Name: "user.a"}}, Size: 9, Extents: sparse},
		{Name: "f", Type: index.TypeRegular, Xattrs: []index.Xattr{{Name: "user.b"}}, Size: 9, Extents: sparse},
		{Name: "g", Type: index.TypeLink, Linkname: "f", Xattrs: []index.Xattr{{Name: "user.c"}}},
		{Name: "s", Type: index.TypeSymlink, Linkname: "long target"},
		{Name: "s", Type: index.TypeSymlink, Linkname: "t"},
	}
	tree, _, err := Merge([]Layer{{Entries: func(yield func(*index.Entry, error) bool) {
		for i := range entries {
			if !yield(&entries[i], nil) {
				return
			}
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.xattrs) != 2 || len(tree.sparse) != 1 || tree.text != "fgst" {
		t.Errorf("the tree holds the attributes %q, %d sparse files and the text %q", tree.xattrs, len(tree.sparse), tree.text)
	}
}

// TestBounds comes close to bounds that no test could fill.
func TestBounds(t *testing.T) {
	m := &merger{walker: walker{draft: newDraft(0)}, layer: &Layer{}}
	m.room = 2
	for _, name := range []string{"a", "b"} {
		if err := m.apply(&index.Entry{Name: name, Type: index.TypeRegular}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.apply(&index.Entry{Name: "c/d", Type: index.TypeRegular}); !errors.Is(err, errTooMany) {
		t.Errorf("a third name where there is room for two: %v", err)
	}
	if err := m.apply(&index.Entry{Name: "b", Type: index.TypeDir}); err != nil {
		t.Errorf("a name that is there already: %v", err)
	}
	m.held = freeHeld - 3
	if err := m.apply(&index.Entry{Name: "b", Type: index.TypeSymlink, Linkname: "abc"}); err != nil {
		t.Errorf("the last bytes of what may be held: %v", err)
	}
	if err := m.apply(&index.Entry{Name: "b", Type: index.TypeSymlink, Linkname: "a"}); !errors.Is(err, errHeld) {
		t.Errorf("one byte too many: %v", err)
	}
	m.now = maxEntries + 1
	if err := m.apply(&index.Entry{Name: "b", Type: index.TypeDir}); !errors.Is(err, errTooManyEntries) {
		t.Errorf("one entry too many: %v", err)
	}
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"": "", ".": "", "./": "", "/": "", "//": "", "./.": "", "..": "", "../..": "", "a/..": "",
		"a": "a", "./a": "a", "/a/": "a", "././/a//b/./c/": "a/b/c", "a/../b": "b", "../a": "a", "a/b/..": "a", "/./../a": "a",
		"...": "...", "..a": "..a", "a..": "a..", ".a/.b": ".a/.b", " ": " ", "a/ /b": "a/ /b",
	} {
		got, dots := clean(name)
		isDots := strings.Contains("/"+name+"/", "/../")
		if got != want || dots != isDots {
			t.Errorf("clean(%q) = %q, %v, want %q, %v", name, got, dots, want, isDots)
		}
	}
}
