package index

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// gorootTar writes a layer of the Go toolchain, sources and programs, and gives its path and the size of its tar.
func gorootTar(b *testing.B) (path string, size int64) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "layer.tar.gz")
	out, err := exec.Command("sh", "-c", `tar -C "$1" -cf - src bin pkg/tool | tee "$2.tar" | gzip -6 > "$2"`, "sh", goroot(b), path).CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(path + ".tar")
	check(b, err)
	check(b, os.Remove(path+".tar"))
	return path, info.Size()
}

// BenchmarkBuild gives the rate in bytes of tar, beside that of "gzip -dc | sha256sum", which does less: no digest of
// the blob, no entries, no spans. It has both processors; Build takes one.
func BenchmarkBuild(b *testing.B) {
	path, size := gorootTar(b)
	b.Run("imgfs", func(b *testing.B) {
		b.SetBytes(size)
		var n countWriter
		for b.Loop() {
			n = 0
			f, err := os.Open(path)
			check(b, err)
			check(b, Build(f, Want{Size: -1}, Output{Index: &n}))
			check(b, f.Close())
		}
		info, err := os.Stat(path)
		check(b, err)
		b.ReportMetric(100*float64(n)/float64(info.Size()), "%index/blob")
	})
	b.Run("gzip+sha256sum", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			check(b, exec.Command("sh", "-c", `gzip -dc < "$1" | sha256sum`, "sh", path).Run())
		}
	})
}

type countWriter int64

func (w *countWriter) Write(p []byte) (int, error) {
	*w += countWriter(len(p))
	return len(p), nil
}

// BenchmarkEntries gives the time to list the entries of an index.
func BenchmarkEntries(b *testing.B) {
	path, _ := gorootTar(b)
	data, err := os.ReadFile(path)
	check(b, err)
	x := mustOpen(b, mustBuild(b, data))
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range x.Entries() {
			check(b, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(x.NumEntries()), "ns/entry")
}

// BenchmarkReadAt reads a tar from start to end, each span decoded once.
func BenchmarkReadAt(b *testing.B) {
	path, size := gorootTar(b)
	data, err := os.ReadFile(path)
	check(b, err)
	z := NewReader(mustOpen(b, mustBuild(b, data)), discardless{bytes.NewReader(data)}, nil, newMemory(2))
	b.SetBytes(size)
	for b.Loop() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.NewSectionReader(z, 0, size)}, make([]byte, 128<<10))
		check(b, err)
	}
}

// discardless is a blob that is never wrong.
type discardless struct{ io.ReaderAt }

func (discardless) Discard(off, n int64) error { return nil }
