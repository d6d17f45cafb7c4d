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
	if s, i := unsafe.Sizeof(spot{}), unsafe.Sizeof(inode{}); s > 32 || i > 48 {
		t.Errorf("a spot has %d bytes and an inode %d", s, i)
	}
}

// TestBounds comes close to bounds that no test could fill.
func TestBounds(t *testing.T) {
	m := &merger{walker: walker{draft: newDraft()}, layer: &Layer{}}
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
