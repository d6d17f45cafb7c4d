package layers_test

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"imgfs/index"
	. "imgfs/internal/testimage"
	"imgfs/layers"
)

// A layerIn is a layer of a test: its tar, or its entries and what their content is read from.
type layerIn struct {
	digest  digest.Digest
	entries []*index.Entry
	tar     io.ReaderAt
}

// stack is some layers, bottom first.
func stack(l ...[]byte) [][]byte { return l }

// layer is a layer of entries.
func layer(entries ...Entry) []byte { return Tar(entries...) }

// indexed reads the tars as a mount does: each as a blob, by its index.
func indexed(t testing.TB, tars [][]byte) []layerIn {
	t.Helper()
	var in []layerIn
	for _, tar := range tars {
		in = append(in, indexedOne(t, tar))
	}
	return in
}

func indexedOne(t testing.TB, tar []byte) layerIn {
	t.Helper()
	blob := Gzip(tar)
	d := digest.FromBytes(blob)
	var b bytes.Buffer
	err := index.Build(bytes.NewReader(blob), index.Want{Blob: d, Size: -1}, index.Output{Index: &b})
	if err != nil {
		t.Fatalf("index of a layer: %v", err)
	}
	x, err := index.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatalf("index of a layer: %v", err)
	}
	l := layerIn{digest: d, tar: bytes.NewReader(tar)}
	for e, err := range x.Entries() {
		if err != nil {
			t.Fatalf("entries of a layer: %v", err)
		}
		own := *e
		own.Extents = slices.Clone(e.Extents)
		l.entries = append(l.entries, &own)
	}
	return l
}

// each gives entries one at a time, in the same place, so that one that is kept is seen.
func each(entries []*index.Entry) iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		var e index.Entry
		for i := range entries {
			e = *entries[i]
			e.Xattrs, e.Extents = slices.Clone(e.Xattrs), slices.Clone(e.Extents)
			if !yield(&e, nil) {
				return
			}
			clear(e.Xattrs)
			clear(e.Extents)
		}
	}
}

// A result is what came of a merge.
type result struct {
	tree     *layers.Tree
	warnings []layers.Warning
	err      error
}

// merge merges layers and checks what must hold whatever is in them: the tree is well-formed, merging again gives
// the same one, and it is what a naive unpack makes of the layers.
func merge(t testing.TB, in []layerIn) result {
	t.Helper()
	r := mergeOnce(in)
	again := mergeOnce(in)
	model, modelErr := unpack(in)
	if (r.err == nil) != (modelErr == nil) {
		t.Fatalf("Merge: %v, but the model: %v", r.err, modelErr)
	}
	if r.err != nil {
		var got, want *layers.EntryError
		if !errors.As(r.err, &got) || !errors.As(modelErr, &want) || got.Layer != want.Layer || got.Entry != want.Entry {
			t.Fatalf("Merge: %v, but the model: %v", r.err, modelErr)
		}
		return r
	}
	checkInvariants(t, r.tree)
	list := listing(t, r.tree)
	if diff := cmp.Diff(list, listing(t, again.tree)); diff != "" {
		t.Fatalf("the second merge gives another tree:\n%s", diff)
	}
	if diff := cmp.Diff(model.listing(), list, ignoreInodes); diff != "" {
		t.Fatalf("(-model +merged)\n%s", diff)
	}
	return r
}

func mergeOnce(in []layerIn) (r result) {
	var ls []layers.Layer
	for _, l := range in {
		ls = append(ls, layers.Layer{Digest: l.digest, Entries: each(l.entries), Tar: l.tar})
	}
	r.tree, r.warnings, r.err = layers.Merge(ls)
	return r
}

// A check is a wish about a result.
type check func(*testing.T, result)

func checks(c ...check) []check { return c }

// at is a check of what is at a path.
func at(path string, c func(t *testing.T, tree *layers.Tree, n layers.Node)) check {
	return func(t *testing.T, r result) {
		t.Helper()
		if r.err != nil {
			t.Fatalf("Merge: %v", r.err)
		}
		n, err := r.tree.Resolve(path, false)
		if err != nil {
			t.Fatal(err)
		}
		c(t, r.tree, n)
	}
}

// isA wants a type at a path.
func isA(kind uint32, path string) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := tree.Attr(n).Mode & syscall.S_IFMT; got != kind {
			t.Errorf("%s is of type %o, want %o", path, got, kind)
		}
	})
}

func hasDir(path string) check  { return isA(syscall.S_IFDIR, path) }
func hasFifo(path string) check { return isA(syscall.S_IFIFO, path) }

func hasFile(path, content string) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := string(read(t, tree, n)); got != content {
			t.Errorf("%s holds %.100q, want %.100q", path, got, content)
		}
	})
}

func hasSymlink(path, target string) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := tree.Readlink(n); got != target || tree.Attr(n).Mode != syscall.S_IFLNK|0o777 {
			t.Errorf("%s is a link to %q with mode %o, want one to %q", path, got, tree.Attr(n).Mode, target)
		}
	})
}

func hasDevice(path string, kind, major, minor uint32) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		a := tree.Attr(n)
		if a.Mode&syscall.S_IFMT != kind || a.Major != major || a.Minor != minor {
			t.Errorf("%s is %o %d:%d", path, a.Mode, a.Major, a.Minor)
		}
	})
}

func hasMode(path string, mode uint32) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := tree.Attr(n).Mode & 0o7777; got != mode {
			t.Errorf("%s has mode %o, want %o", path, got, mode)
		}
	})
}

func hasOwner(path string, uid, gid uint32) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if a := tree.Attr(n); a.UID != uid || a.GID != gid {
			t.Errorf("%s is owned by %d:%d, want %d:%d", path, a.UID, a.GID, uid, gid)
		}
	})
}

func hasMtime(path string, want time.Time) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		a := tree.Attr(n)
		if got := time.Unix(a.MtimeSec, int64(a.MtimeNsec)); !got.Equal(want) {
			t.Errorf("%s has time %v, want %v", path, got, want)
		}
	})
}

func hasSize(path string, size, blocks uint64) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if a := tree.Attr(n); a.Size != size || a.Blocks != blocks {
			t.Errorf("%s has size %d and %d blocks, want %d and %d", path, a.Size, a.Blocks, size, blocks)
		}
	})
}

func hasNlink(path string, nlink uint32) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := tree.Attr(n).Nlink; got != nlink {
			t.Errorf("%s has %d links, want %d", path, got, nlink)
		}
	})
}

func hasXattrs(path string, want ...index.Xattr) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if diff := cmp.Diff(want, slices.Clone(tree.Xattrs(n))); diff != "" {
			t.Errorf("attributes of %s (-want +got)\n%s", path, diff)
		}
	})
}

func fromLayer(path string, want int) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if got := tree.Layer(n); got != want {
			t.Errorf("%s comes from layer %d, want %d", path, got, want)
		}
	})
}

// holds wants exactly these names in a directory.
func holds(path string, names ...string) check {
	return at(path, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		var got []string
		for lo, hi := tree.Children(n); lo < hi; lo++ {
			got = append(got, tree.Name(lo))
		}
		if diff := cmp.Diff(names, got); diff != "" {
			t.Errorf("names in %s (-want +got)\n%s", path, diff)
		}
	})
}

func areOneFile(first string, others ...string) check {
	return at(first, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		for _, other := range others {
			m, err := tree.Resolve(other, false)
			if err != nil {
				t.Fatal(err)
			}
			if tree.Inode(n) != tree.Inode(m) || tree.Attr(n) != tree.Attr(m) {
				t.Errorf("%s and %s are two files", first, other)
			}
		}
	})
}

func areTwoFiles(a, b string) check {
	return at(a, func(t *testing.T, tree *layers.Tree, n layers.Node) {
		if m, err := tree.Resolve(b, false); err != nil || tree.Inode(n) == tree.Inode(m) {
			t.Errorf("%s and %s are one file (%v)", a, b, err)
		}
	})
}

// warns wants a warning about an entry, and nothing else to be warned of.
func warns(entry, text string) check {
	return func(t *testing.T, r result) {
		t.Helper()
		if len(r.warnings) != 1 || r.warnings[0].Entry != entry || !strings.Contains(r.warnings[0].String(), text) {
			t.Errorf("warnings: %q, want one on %q: %s", r.warnings, entry, text)
		}
	}
}

func warnsNot(t *testing.T, r result) {
	t.Helper()
	if len(r.warnings) > 0 {
		t.Errorf("warnings: %q", r.warnings)
	}
}

// rejects wants an error that names an entry.
func rejects(entry, text string) check {
	return func(t *testing.T, r result) {
		t.Helper()
		var e *layers.EntryError
		if !errors.As(r.err, &e) || e.Entry != entry || !strings.Contains(r.err.Error(), text) || !strings.Contains(r.err.Error(), e.Layer.String()) {
			t.Errorf("Merge: %v, want an error on %.100q: %s", r.err, entry, text)
		}
	}
}

func read(t testing.TB, tree *layers.Tree, n layers.Node) []byte {
	t.Helper()
	p := make([]byte, tree.Attr(n).Size)
	if got, err := tree.ReadAt(n, p, 0); got != len(p) || err != nil && len(p) > 0 {
		t.Fatalf("reading %s: %d bytes, %v", tree.Path(n), got, err)
	}
	return p
}
