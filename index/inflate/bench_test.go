package inflate_test

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"

	"imgfs/index/inflate"
)

// corpusSize is the most bytes of each kind of data that the benchmarks decode.
const corpusSize = 48 << 20

// corpus is real data: the Go toolchain's sources and its compiler.
var corpus = sync.OnceValues(func() (map[string][]byte, error) {
	root, err := exec.Command("go", "env", "GOROOT", "GOTOOLDIR").Output()
	if err != nil {
		return nil, err
	}
	dirs := strings.Fields(string(root))
	source, err := tarOf(filepath.Join(dirs[0], "src"))
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(filepath.Join(dirs[1], "compile"))
	return map[string][]byte{"source": source, "binary": binary}, err
})

// tarOf returns the first corpusSize bytes of a tar of a directory.
func tarOf(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || b.Len() >= corpusSize {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

// BenchmarkInflate compares decoders on one thread, by whole files and by spans.
//
//	go test -run '^$' -bench Inflate -cpu 1 ./index/inflate
func BenchmarkInflate(b *testing.B) {
	corpus, err := corpus()
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"source", "binary"} {
		data := corpus[name]
		for _, level := range []int{1, 6, 9} {
			file := compress(b, data, level)
			for _, d := range decoders(b, file) {
				b.Run(fmt.Sprintf("data=%s/level=%d/decoder=%s", name, level, d.name), func(b *testing.B) {
					b.SetBytes(int64(len(data)))
					for b.Loop() {
						if n, err := d.decode(); err != nil || n != int64(len(data)) {
							b.Fatalf("%d bytes, %v", n, err)
						}
					}
				})
			}
		}
	}
}

func compress(b *testing.B, data []byte, level int) []byte {
	var file bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&file, level)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return file.Bytes()
}

type decoder struct {
	name   string
	decode func() (int64, error)
}

// decoders returns the ways to decode a file: ours by spans (which checks nothing) and whole, and the peers.
func decoders(b *testing.B, file []byte) []decoder {
	spans := spansOf(b, file)
	return []decoder{
		{"span", func() (n int64, err error) {
			for _, s := range spans {
				if err := inflate.Decode(s.dst, s.src, &s.from); err != nil {
					return n, err
				}
				n += int64(len(s.dst))
			}
			return n, nil
		}},
		{"reader", func() (int64, error) {
			return io.Copy(io.Discard, inflate.NewReader(bytes.NewReader(file), nil))
		}},
		{"klauspost", func() (int64, error) {
			z, err := gzip.NewReader(bytes.NewReader(file))
			if err != nil {
				return 0, err
			}
			return io.Copy(io.Discard, z)
		}},
		{"std", func() (int64, error) {
			z, err := stdgzip.NewReader(bytes.NewReader(file))
			if err != nil {
				return 0, err
			}
			return io.Copy(io.Discard, z)
		}},
	}
}

type span struct {
	from     inflate.Checkpoint
	src, dst []byte
}

// spansOf returns the spans of a file. They share the room for their bytes, as spans that are decoded into a cache do.
func spansOf(b *testing.B, file []byte) []span {
	var spans []span
	end := func(in, out int64) {
		if len(spans) > 0 {
			s := &spans[len(spans)-1]
			s.src = file[s.from.In/8 : in]
			s.dst = make([]byte, out-s.from.Out)
		}
	}
	z := inflate.NewReader(bytes.NewReader(file), &inflate.Options{Checkpoint: func(cp inflate.Checkpoint) error {
		end((cp.In+7)/8, cp.Out)
		cp.Window = bytes.Clone(cp.Window)
		cp.Block = bytes.Clone(cp.Block)
		spans = append(spans, span{from: cp})
		return nil
	}})
	size, err := io.Copy(io.Discard, z)
	if err != nil {
		b.Fatal(err)
	}
	end(z.End(), size)
	return spans
}
