package upper

import (
	"bytes"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/index"
	"imgfs/internal/testimage"
	"imgfs/layers"
)

// treeOf is the tree of a layer.
func treeOf(t testing.TB, entries ...testimage.Entry) *layers.Tree {
	t.Helper()
	tree, _ := faultyTree(t, entries...)
	return tree
}

// faultyTree is treeOf, with its tar.
func faultyTree(t testing.TB, entries ...testimage.Entry) (*layers.Tree, *faultyTar) {
	t.Helper()
	tar := testimage.Tar(entries...)
	blob := testimage.Gzip(tar)
	d := digest.FromBytes(blob)
	var b bytes.Buffer
	must(t, index.Build(bytes.NewReader(blob), index.Want{Blob: d, Size: -1}, index.Output{Index: &b}))
	x, err := index.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	f := &faultyTar{ReaderAt: bytes.NewReader(tar)}
	tree, _, err := layers.Merge([]layers.Layer{{Digest: d, Entries: x.Entries(), Tar: f}})
	must(t, err)
	return tree, f
}
