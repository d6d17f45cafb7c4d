package fs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"imgfs/index"
	"imgfs/layers"
)

// A builder collects the entries of one layer, and the bytes of its tar.
type builder struct {
	entries []*index.Entry
	tar     bytes.Buffer
}

// add appends an entry with content, which stands in the tar in one piece.
func (b *builder) add(e index.Entry, content string) {
	if content != "" {
		e.Size = int64(len(content))
		e.Extents = []index.Extent{{Offset: int64(b.tar.Len()), Length: e.Size}}
		b.tar.WriteString(content)
	}
	b.entries = append(b.entries, &e)
}

func (b *builder) dir(name string, mode uint32) {
	b.add(index.Entry{Name: name, Type: index.TypeDir, Mode: mode}, "")
}

func (b *builder) file(name, content string) {
	b.add(index.Entry{Name: name, Type: index.TypeRegular, Mode: 0o644}, content)
}

// sparse appends a file of size bytes with data at 64 KiB, and holes before and after it.
func (b *builder) sparse(name string, size int64, data string) {
	extent := index.Extent{Logical: 64 << 10, Offset: int64(b.tar.Len()), Length: int64(len(data))}
	b.tar.WriteString(data)
	e := index.Entry{Name: name, Type: index.TypeRegular, Mode: 0o600, Size: size, Extents: []index.Extent{extent}}
	b.entries = append(b.entries, &e)
}

// tree merges the layer by itself.
func (b *builder) tree(t testing.TB) *layers.Tree {
	t.Helper()
	return b.treeOver(t, bytes.NewReader(b.tar.Bytes()))
}

// treeOver is tree with a tar that misbehaves.
func (b *builder) treeOver(t testing.TB, tar io.ReaderAt) *layers.Tree {
	t.Helper()
	tree, err := b.merge(tar)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (b *builder) merge(tar io.ReaderAt) (*layers.Tree, error) {
	entries := func(yield func(*index.Entry, error) bool) {
		for _, e := range b.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
	tree, warnings, err := layers.Merge([]layers.Layer{{Digest: "sha256:0123456789abcdef", Entries: entries, Tar: tar}})
	if err == nil && len(warnings) > 0 {
		err = fmt.Errorf("a warning: %v", warnings[0])
	}
	return tree, err
}

// sampleTree is the sample in a process that is no test.
func sampleTree() (*layers.Tree, error) {
	b := sample()
	return b.merge(bytes.NewReader(b.tar.Bytes()))
}

// capability is a security.capability attribute as Linux checks it: struct vfs_cap_data, revision 2, cap_net_raw=ep.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// acl lets user 65534 read and write, and nobody else: the format of posix_acl_xattr.h, version 2.
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + // owner rw
	"\x02\x00\x06\x00\xfe\xff\x00\x00" + // user 65534 rw
	"\x04\x00\x00\x00\xff\xff\xff\xff" + // group none
	"\x10\x00\x06\x00\xff\xff\xff\xff" + // mask rw
	"\x20\x00\x00\x00\xff\xff\xff\xff" // others none

// noise is n bytes that do not repeat, the same in each call.
func noise(n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return string(b)
}

// bigSize is the size of /big: several requests, and not a whole number of pages.
const bigSize = 3<<20 + 123

// sample has one of everything.
func sample() *builder {
	b := new(builder)
	b.add(index.Entry{Name: "./", Type: index.TypeDir, Mode: 0o755, MtimeSec: 1700000000, MtimeNsec: 5}, "")
	b.dir("etc", 0o755)
	b.file("etc/hostname", "imgfs\n")
	b.file("empty", "")
	b.file("big", noise(bigSize))
	b.sparse("sparse", 1<<20, noise(100_000))
	b.sparse("huge", 1<<42, "data")
	b.dir("tmp", 0o1777)
	b.dir("tmp/nothing", 0o700)
	b.dir("setgid", 0o2755)
	b.add(index.Entry{Name: "setuid", Type: index.TypeRegular, Mode: 0o4755}, "#!/bin/sh\n")
	b.add(index.Entry{Name: "nobody", Type: index.TypeRegular, Mode: 0o600, UID: 65534, GID: 65534}, "mine\n")
	b.add(index.Entry{Name: "owner", Type: index.TypeRegular, Mode: 0o640, UID: 1<<32 - 2, GID: 1<<32 - 2}, "")
	b.add(index.Entry{Name: "old", Type: index.TypeRegular, Mode: 0o644, MtimeSec: -2208988800, MtimeNsec: 999999999}, "")
	b.add(index.Entry{Name: "late", Type: index.TypeRegular, Mode: 0o644, MtimeSec: 1 << 34, MtimeNsec: 1}, "")
	b.add(index.Entry{Name: "link", Type: index.TypeSymlink, Mode: 0o777, Linkname: "etc/hostname"}, "")
	b.add(index.Entry{Name: "dangling", Type: index.TypeSymlink, Mode: 0o777, Linkname: "/no/such/file"}, "")
	b.add(index.Entry{Name: "long", Type: index.TypeSymlink, Mode: 0o777, Linkname: strings.Repeat("x/", 2047) + "y"}, "")
	b.add(index.Entry{Name: "tmp/hard", Type: index.TypeLink, Linkname: "etc/hostname"}, "")
	b.add(index.Entry{Name: "hardlink-of-link", Type: index.TypeLink, Linkname: "link"}, "")
	b.add(index.Entry{Name: "fifo", Type: index.TypeFIFO, Mode: 0o622}, "")
	b.add(index.Entry{Name: "null", Type: index.TypeChar, Mode: 0o666, Major: 1, Minor: 3}, "")
	b.add(index.Entry{Name: "disk", Type: index.TypeBlock, Mode: 0o660, Major: 4095, Minor: 1<<20 - 1}, "")
	b.add(index.Entry{Name: "zero", Type: index.TypeChar, Mode: 0o600}, "")
	b.file(strings.Repeat("n", 255), "a long name\n")
	b.file("odd \n\t\\name,\xff☃", "an odd name\n")
	b.add(index.Entry{Name: "xattrs", Type: index.TypeRegular, Mode: 0o755, Xattrs: []index.Xattr{
		{Name: "security.capability", Value: capability},
		{Name: "user.binary", Value: "a\x00b"},
		{Name: "user.empty", Value: ""},
		{Name: "user.large", Value: strings.Repeat("v", 5000)},
	}}, "")
	b.add(index.Entry{Name: "acl", Type: index.TypeRegular, Mode: 0o660, Xattrs: []index.Xattr{
		{Name: "system.posix_acl_access", Value: acl},
	}}, "for nobody\n")
	b.dir("many", 0o755)
	for i := range 1000 {
		b.file(fmt.Sprintf("many/%04d", i), "")
	}
	return b
}

// wide is a directory of n files, at /d.
func wide(n int) *builder {
	b := new(builder)
	b.dir("d", 0o755)
	for i := range n {
		b.file(fmt.Sprintf("d/file-%06d", i), "")
	}
	return b
}

// find returns the node of a path that has to be there.
func find(t testing.TB, tree *layers.Tree, path string) layers.Node {
	t.Helper()
	n, err := tree.Resolve(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// id is a path's node ID.
func id(t testing.TB, tree *layers.Tree, path string) uint64 {
	t.Helper()
	return uint64(tree.Inode(find(t, tree, path))) + rootID
}

// names are a directory's children, in the tree's order.
func names(tree *layers.Tree, dir layers.Node) []string {
	lo, hi := tree.Children(dir)
	var names []string
	for n := lo; n < hi; n++ {
		names = append(names, tree.Name(n))
	}
	return slices.Clip(names)
}
