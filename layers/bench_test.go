package layers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/index"
	"imgfs/internal/corpus"
	"imgfs/internal/measure"
	"imgfs/layers"
)

// debian is a layer like one of Debian's: so many packages, each with what packages have, about 45 names.
func debian(packages int) []*index.Entry {
	var entries []*index.Entry
	seen := make(map[string]bool)
	offset := int64(0)
	add := func(typ byte, target, format string, args ...any) {
		e := &index.Entry{Name: "./" + fmt.Sprintf(format, args...), Linkname: target, Type: typ, Mode: 0o644, MtimeSec: 1_700_000_000 + offset%1000}
		if seen[e.Name] {
			return
		}
		seen[e.Name] = true
		if typ == index.TypeRegular {
			e.Size = 100 + offset%50_000
			e.Extents = []index.Extent{{Offset: offset + 512, Length: e.Size}}
			offset += 512 + (e.Size+511)&^511
		}
		entries = append(entries, e)
	}
	dirs := func(paths ...string) {
		for _, p := range paths {
			add(index.TypeDir, "", "%s/", p)
		}
	}
	dirs("usr", "usr/bin", "usr/lib", "usr/lib/python3", "usr/lib/python3/dist-packages", "usr/lib/x86_64-linux-gnu", "usr/share", "usr/share/doc",
		"usr/share/man", "usr/share/man/man1", "usr/share/locale", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info")
	languages := []string{"de", "es", "fr", "it", "ja", "nl", "pl", "pt_BR", "ru", "sv", "uk", "zh_CN"}
	for _, l := range languages {
		dirs("usr/share/locale/"+l, "usr/share/locale/"+l+"/LC_MESSAGES")
	}
	for i := range packages {
		p := fmt.Sprintf("%s%d", []string{"libfoo", "python3-bar", "gcc-base", "x11-things"}[i%4], i)
		for _, suffix := range []string{"list", "md5sums", "postinst", "prerm", "triggers"} {
			add('0', "", "var/lib/dpkg/info/%s:amd64.%s", p, suffix)
		}
		add('0', "", "usr/bin/%s", p)
		add('0', "", "usr/share/man/man1/%s.1.gz", p)
		dirs("usr/share/doc/" + p)
		add('0', "", "usr/share/doc/%s/changelog.Debian.gz", p)
		add('0', "", "usr/share/doc/%s/copyright", p)
		add('0', "", "usr/lib/x86_64-linux-gnu/%s.so.1.%d", p, i%10)
		add('2', p+".so.1", "usr/lib/x86_64-linux-gnu/%s.so.1", p)
		for _, l := range languages {
			add('0', "", "usr/share/locale/%s/LC_MESSAGES/%s.mo", l, p)
		}
		dirs("usr/lib/python3/dist-packages/"+p, "usr/lib/python3/dist-packages/"+p+"/__pycache__")
		for _, m := range []string{"__init__", "_compat", "client", "exceptions", "models", "server", "types", "util"} {
			add('0', "", "usr/lib/python3/dist-packages/%s/%s.py", p, m)
			add('0', "", "usr/lib/python3/dist-packages/%s/__pycache__/%s.cpython-311.pyc", p, m)
		}
	}
	return entries
}

// merged is a tree of entries, and how many bytes it has in memory.
func merged(t testing.TB, entries []*index.Entry) (tree *layers.Tree, size uint64) {
	t.Helper()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	tree, _, err := layers.Merge([]layers.Layer{{Entries: slice(entries)}})
	if err != nil {
		t.Fatal(err)
	}
	after := heap()
	runtime.KeepAlive(entries)
	runtime.KeepAlive(tree)
	return tree, after - min(before, after)
}

func slice(entries []*index.Entry) iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// textOf is how many bytes of names and targets a tree has.
func textOf(tree *layers.Tree) (n uint64) {
	for i := range layers.Node(tree.Len()) {
		n += uint64(len(tree.Name(i)) + len(tree.Readlink(i)))
	}
	return n
}

func TestAFileTakes64BytesAndItsName(t *testing.T) {
	tree, size := merged(t, debian(2600))
	files := uint64(tree.Len())
	if files < 100_000 {
		t.Fatalf("%d files", files)
	}
	// The allocator rounds up, and the runtime has things of its own on the heap.
	if want, most := 64*files+textOf(tree), 72*files+textOf(tree); size < want || size > most {
		t.Errorf("%d files have %d bytes, want from %d to %d", files, size, want, most)
	}
}

// BenchmarkMerge merges over 100,000 files. Besides the time a file it reports what a file
// costs in the tree, and how much of that is names and link targets.
func BenchmarkMerge(b *testing.B) {
	entries := debian(2600)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := layers.Merge([]layers.Layer{{Entries: slice(entries)}}); err != nil {
			b.Fatal(err)
		}
	}
	spent := b.Elapsed()
	tree, size := merged(b, entries)
	files := float64(tree.Len())
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N)/files, "ns/file")
	b.ReportMetric(files, "files")
	b.ReportMetric(float64(size)/files, "B/file")
	b.ReportMetric(float64(textOf(tree))/files, "text-B/file")
}

// BenchmarkMount is what a mount does once its indexes are there: it decodes the entries of all layers and merges them, here those of
// an image of over 200,000 real files in five layers. It gives the time that passes (entries are decoded beside the merge) and that of
// the processors, and all memory that is allocated on the way, part of which is given back before the end.
func BenchmarkMount(b *testing.B) {
	ls := manyFiles(b)
	files := 0
	mount := func() error {
		tree, _, err := layers.Merge(ls)
		if err == nil {
			files = tree.Len()
		}
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := mount(); err != nil {
		b.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	least := measure.Contest(b,
		measure.Contestant{Name: "ns/file", Run: func() (time.Duration, error) { return measure.Wall(mount) }},
		measure.Contestant{Name: "cpu-ns/file", Run: func() (time.Duration, error) { return measure.Process(mount) }},
	)
	for name, took := range least {
		b.ReportMetric(float64(took)/float64(files), name)
	}
	b.ReportMetric(float64(files), "files")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(files), "allocated-B/file")
}

// manyFiles are the layers of the image of many files, indexed.
func manyFiles(b *testing.B) []layers.Layer {
	b.Helper()
	layout, err := corpus.ManyFiles(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var images v1.Index
	readJSON(b, filepath.Join(layout, v1.ImageIndexFile), &images)
	var ls []layers.Layer
	for _, image := range images.Manifests {
		if image.Annotations[v1.AnnotationRefName] != "many" {
			continue
		}
		var manifest v1.Manifest
		readJSON(b, blobPath(layout, image.Digest), &manifest)
		for _, l := range manifest.Layers {
			ls = append(ls, indexedFile(b, blobPath(layout, l.Digest)))
		}
	}
	return ls
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func readJSON(b *testing.B, path string, into any) {
	b.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// indexedFile is the layer of a blob, without its content.
func indexedFile(b *testing.B, blob string) layers.Layer {
	b.Helper()
	f, err := os.Open(blob)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var data bytes.Buffer
	if err := index.Build(f, index.Want{Size: -1}, index.Output{Index: &data}); err != nil {
		b.Fatal(err)
	}
	x, err := index.Open(bytes.NewReader(data.Bytes()), int64(data.Len()))
	if err != nil {
		b.Fatal(err)
	}
	return layers.Layer{Digest: x.Blob(), Entries: x.Entries(), NumEntries: x.NumEntries()}
}

// BenchmarkLookup finds every name in its directory.
func BenchmarkLookup(b *testing.B) {
	tree := mergeOnce([]layerIn{{entries: debian(2600)}}).tree
	n := layers.Node(0)
	for b.Loop() {
		if n++; int(n) == tree.Len() {
			n = 1
		}
		if _, ok := tree.Lookup(tree.Parent(n), tree.Name(n)); !ok {
			b.Fatal("a name is not found")
		}
	}
}
