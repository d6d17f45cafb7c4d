package layers_test

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"runtime"
	"strings"
	"testing"

	"imgfs/index"
	"imgfs/layers"
)

// mergeEntries merges one layer of entries, which is made as it is read.
func mergeEntries(entries iter.Seq[index.Entry]) result {
	var r result
	l := layers.Layer{Digest: "sha256:hostile", Entries: func(yield func(*index.Entry, error) bool) {
		for e := range entries {
			if !yield(&e, nil) {
				return
			}
		}
	}}
	r.tree, r.warnings, r.err = layers.Merge([]layers.Layer{l})
	return r
}

// These layers are small for what they are. If anything in Merge went over a directory, a subtree or a set of
// attributes once for each entry, that would be 10^11 steps and more: the test would run into
// go test's limit of time.
func TestLayersThatWantToTakeLong(t *testing.T) {
	const many = 500_000
	file := func(name string, args ...any) index.Entry {
		return index.Entry{Name: fmt.Sprintf(name, args...), Type: index.TypeRegular}
	}
	for name, test := range map[string]struct {
		entries iter.Seq[index.Entry]
		want    int // names
	}{
		"a huge directory, opaque after each of its files": {func(yield func(index.Entry) bool) {
			for i := range many {
				if !yield(file("d/%d", many-i)) || !yield(file("d/.wh..wh..opq")) {
					return
				}
			}
		}, many + 2},
		"a huge directory that is replaced, made again and hidden, over and over": {func(yield func(index.Entry) bool) {
			for i := range many {
				if !yield(file("d/e/%d", i)) {
					return
				}
			}
			for range many {
				if !yield(file("d")) || !yield(index.Entry{Name: "d", Type: index.TypeDir}) || !yield(file("d/x")) || !yield(file(".wh.d")) {
					return
				}
			}
		}, 3},
		"the deepest of paths, again and again": {func(yield func(index.Entry) bool) {
			deep := strings.Repeat("d/", 2000)
			for i := range many / 50 {
				if !yield(file("%s%d", deep, i)) || !yield(file("%s.wh.%d", deep, i)) {
					return
				}
			}
		}, 1 + 2000 + many/50},
		"a file with as many names as there can be": {func(yield func(index.Entry) bool) {
			if !yield(file("t")) {
				return
			}
			for i := range many {
				if !yield(index.Entry{Name: fmt.Sprint(i), Linkname: "t", Type: index.TypeLink}) {
					return
				}
			}
		}, 2 + many},
		"a file with a MiB of attributes and as many names as there can be": {func(yield func(index.Entry) bool) {
			if !yield(index.Entry{Name: "t", Type: index.TypeRegular, Xattrs: mebibyte()}) {
				return
			}
			for i := range many {
				if !yield(index.Entry{Name: fmt.Sprint(i), Linkname: "t", Type: index.TypeLink}) {
					return
				}
			}
		}, 2 + many},
	} {
		t.Run(name, func(t *testing.T) {
			r := mergeEntries(test.entries)
			if r.err != nil || r.tree.Len() != test.want {
				t.Fatalf("%v, %v", r.tree.Len(), r.err)
			}
			checkCounts(t, r.tree)
		})
	}
}

// mebibyte is as many attributes as an entry can have.
func mebibyte() (x []index.Xattr) {
	for i := range 16 {
		x = append(x, index.Xattr{Name: fmt.Sprintf("user.%02d", i), Value: strings.Repeat("v", 1<<16)})
	}
	return x
}

// checkCounts checks that all nodes are children, in order: what checkInvariants does, without the paths.
func checkCounts(t *testing.T, tree *layers.Tree) {
	t.Helper()
	next := layers.Node(1)
	for n := range layers.Node(tree.Len()) {
		lo, hi := tree.Children(n)
		if lo == hi {
			continue
		}
		if lo != next {
			t.Fatalf("children of %d start at %d, not %d", n, lo, next)
		}
		next = hi
	}
	if int(next) != tree.Len() {
		t.Fatalf("%d children, %d nodes", next, tree.Len())
	}
}

func TestLayersThatWantTooMuch(t *testing.T) {
	const enough = 1 << 20 // entries, at which any bound is long passed
	const memory = "too much memory"
	long := strings.Repeat("a/../", 800)
	for name, test := range map[string]struct {
		entries iter.Seq[index.Entry]
		text    string
	}{
		"thousands of missing parents for each entry": {func(yield func(index.Entry) bool) {
			deep := strings.Repeat("d/", 2000)
			for i := range enough {
				if !yield(index.Entry{Name: fmt.Sprintf("%d/%sx", i, deep), Type: '0'}) {
					return
				}
			}
		}, "missing parents"},
		"long links to walk for each entry": {func(yield func(index.Entry) bool) {
			if !yield(index.Entry{Name: "a", Type: '5'}) || !yield(index.Entry{Name: "l0", Linkname: long, Type: '2'}) {
				return
			}
			for i := range 39 {
				if !yield(index.Entry{Name: fmt.Sprintf("l%d", i+1), Linkname: long + fmt.Sprintf("l%d", i), Type: '2'}) {
					return
				}
			}
			for i := range enough {
				if !yield(index.Entry{Name: fmt.Sprintf("x%d", i), Linkname: "l39/nothing", Type: '2'}) || !yield(index.Entry{Name: fmt.Sprintf("l%d/x", 37+i%2), Type: '0'}) {
					return
				}
			}
		}, "lead too far"},
		"a map of many extents for each entry": {func(yield func(index.Entry) bool) {
			extents := make([]index.Extent, 100_000)
			for i := range extents {
				extents[i] = index.Extent{Logical: 2 * int64(i), Length: 1}
			}
			for range enough {
				if !yield(index.Entry{Name: "same", Type: '0', Size: 1 << 20, Extents: extents}) {
					return
				}
			}
		}, memory},
		"other attributes for the same file, over and over": {func(yield func(index.Entry) bool) {
			for i := range enough {
				x := append(mebibyte(), index.Xattr{Name: "user.number", Value: fmt.Sprint(i)})
				if !yield(index.Entry{Name: "same", Type: '0', Xattrs: x}) {
					return
				}
			}
		}, memory},
		"another attribute with each hard link": {func(yield func(index.Entry) bool) {
			if !yield(index.Entry{Name: "t", Type: '0', Xattrs: mebibyte()}) {
				return
			}
			for i := range enough {
				x := []index.Xattr{{Name: "user.number", Value: fmt.Sprint(i)}}
				if !yield(index.Entry{Name: fmt.Sprint(i), Linkname: "t", Type: '1', Xattrs: x}) {
					return
				}
			}
		}, memory},
		"one of two attributes with each hard link": {func(yield func(index.Entry) bool) {
			if !yield(index.Entry{Name: "t", Type: '0', Xattrs: mebibyte()}) {
				return
			}
			for i := range enough {
				x := []index.Xattr{{Name: "user.number", Value: fmt.Sprint(i % 2)}}
				if !yield(index.Entry{Name: fmt.Sprint(i), Linkname: "t", Type: '1', Xattrs: x}) {
					return
				}
			}
		}, memory},
		"one of two modes with each hard link to a file with an ACL": {func(yield func(index.Entry) bool) {
			x := append([]index.Xattr{{Name: "system.posix_acl_access", Value: acl("u6 U7 g4 m7 o4")}}, mebibyte()...)
			if !yield(index.Entry{Name: "t", Type: '0', Xattrs: x}) {
				return
			}
			for i := range enough {
				if !yield(index.Entry{Name: fmt.Sprint(i), Linkname: "t", Type: '1', Mode: uint32(i % 2)}) {
					return
				}
			}
		}, memory},
		"a long target for a link, over and over": {func(yield func(index.Entry) bool) {
			for range enough {
				if !yield(index.Entry{Name: "same", Linkname: long[:4000], Type: '2'}) {
					return
				}
			}
		}, memory},
	} {
		t.Run(name, func(t *testing.T) {
			if r := mergeEntries(test.entries); r.err == nil || !strings.Contains(r.err.Error(), test.text) {
				t.Errorf("Merge: %v", r.err)
			}
		})
	}
}

func TestWarningsAreNotWithoutEnd(t *testing.T) {
	r := mergeEntries(func(yield func(index.Entry) bool) {
		for i := range 5000 {
			if !yield(index.Entry{Name: fmt.Sprintf("%d/.wh.", i), Type: '0'}) {
				return
			}
		}
	})
	if len(r.warnings) != 1001 || r.warnings[1000].String() != "4000 more warnings" {
		t.Errorf("%d warnings, the last %q", len(r.warnings), r.warnings[len(r.warnings)-1])
	}
	if got := r.warnings[7].String(); got != `layer sha256:hostile: entry "7/.wh.": malformed whiteout marker: ignored` {
		t.Errorf("a warning reads %q", got)
	}
}

func TestMessagesAreFitToBePrinted(t *testing.T) {
	e := layers.EntryError{Layer: "sha256:1", Entry: "\x1b[31m" + strings.Repeat("x", 1000), Err: fs.ErrInvalid}
	if s := e.Error(); strings.ContainsRune(s, 0x1b) || len(s) > 400 || !errors.Is(&e, fs.ErrInvalid) {
		t.Errorf("%q", s)
	}
}

func TestAnErrorOfTheEntriesEndsTheMerge(t *testing.T) {
	_, _, err := layers.Merge([]layers.Layer{{Digest: "sha256:1", Entries: func(yield func(*index.Entry, error) bool) {
		if yield(&index.Entry{Name: "a", Type: '0'}, nil) {
			yield(nil, fs.ErrClosed)
		}
	}}})
	if !errors.Is(err, fs.ErrClosed) || !strings.Contains(err.Error(), "sha256:1") {
		t.Errorf("Merge: %v", err)
	}
}

func TestThereAreNotMoreThan65535Layers(t *testing.T) {
	empty := layers.Layer{Entries: func(func(*index.Entry, error) bool) {}}
	ls := make([]layers.Layer, 65536)
	for i := range ls {
		ls[i] = empty
	}
	if _, _, err := layers.Merge(ls); err == nil {
		t.Error("65536 layers are merged")
	}
	if tree, _, err := layers.Merge(ls[1:]); err != nil || tree.Len() != 1 {
		t.Errorf("65535 layers: %v", err)
	}
}

// The target of a symbolic link is in the tree once, however many names the link has. Were there memory for each of them, a
// layer of a few MB could ask for 64 GiB.
func TestNamesOfOneLinkDoNotTakeItsTargetEach(t *testing.T) {
	const names = 50_000
	target := strings.Repeat("t", 4095)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := mergeEntries(func(yield func(index.Entry) bool) {
		if !yield(index.Entry{Name: "l", Type: index.TypeSymlink, Linkname: target}) {
			return
		}
		for i := range names {
			if !yield(index.Entry{Name: fmt.Sprint("n", i), Type: index.TypeLink, Linkname: "l"}) {
				return
			}
		}
	})
	runtime.ReadMemStats(&after)
	if r.err != nil || r.tree.Len() != names+2 || r.tree.Readlink(layers.Node(r.tree.Len()-1)) != target {
		t.Fatalf("%d names: %v", r.tree.Len(), r.err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > names*4095/2 {
		t.Errorf("%d bytes for %d names", n, names)
	}
}
