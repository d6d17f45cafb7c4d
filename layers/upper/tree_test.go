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
	tar := testimage.Tar(entries...)
	blob := testimage.Gzip(tar)
	d := digest.FromBytes(blob)
	var b bytes.Buffer
	must(t, index.Build(bytes.NewReader(blob), index.Want{Blob: d, Size: -1}, index.Output{Index: &b}))
	x, err := index.Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	tree, _, err := layers.Merge([]layers.Layer{{Digest: d, Entries: x.Entries(), Tar: bytes.NewReader(tar)}})
	must(t, err)
	return tree
}
