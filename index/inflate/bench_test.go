package inflate_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"imgfs/index/inflate"
	"imgfs/internal/corpus"
	"imgfs/internal/measure"
)

// benchSpan is the span that the index asks for.
const benchSpan = 512 << 10

// How many times a file is decoded to be timed once. The kernel tells user mode from its own by where it finds a process at
// ticks, so programs must run for some of them.
const (
	timesARun        = 4
	timesAProgramRun = 12
)

func TestEverySpanOfTheCorpusEqualsItsTar(t *testing.T) {
	files, err := corpus.Small(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Gzip() {
			t.Run(f.Data+"/"+f.By, func(t *testing.T) {
				file, tar, err := f.Read()
				if err != nil {
					t.Fatal(err)
				}
				check(t, file, tar, 100_000)
			})
		}
	}
}

// BenchmarkInflate compares decoders on one thread, by processor time in user mode: ours by spans, which checks no CRC, and
// ours by whole files (reader); packages of Go's, in this process; and programs, which read the file and write to
// /dev/null, for libdeflate (its gunzip), ISA-L (igzip) and zlib (pigz -p 1, which calls it). A run is the file several times,
// so that the start of programs doesn't count. A metric A/B is how many times as fast as B A is.
//
// Before a file is measured, all its spans are compared with its tar.
func BenchmarkInflate(b *testing.B) {
	files, err := corpus.Full(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		if f.Gzip() {
			b.Run(fmt.Sprintf("data=%s/by=%s", f.Data, f.By), func(b *testing.B) { benchmarkFile(b, f) })
		}
	}
}

func benchmarkFile(b *testing.B, f corpus.File) {
	file, tar, err := f.Read()
	if err != nil {
		b.Fatal(err)
	}
	contestants := append(packages(file, int64(len(tar)), spansOf(b, file, tar)), programs(f.Path)...)
	least := measure.Contest(b, contestants...)
	for _, c := range contestants {
		b.ReportMetric(measure.Rate(int64(len(tar)), least[c.Name]), c.Name+"-MB/s")
	}
	for _, pair := range [][2]string{
		{"span", "klauspost"}, {"span", "libdeflate"}, {"span", "igzip"}, {"span", "zlib"},
		{"reader", "std"}, {"reader", "klauspost"}, {"reader", "libdeflate"},
	} {
		b.ReportMetric(float64(least[pair[1]])/float64(least[pair[0]]), pair[0]+"/"+pair[1])
	}
}

// packages are the decoders that run in this process.
func packages(file []byte, size int64, spans []span) []measure.Contestant {
	onThread := func(name string, decode func() error) measure.Contestant {
		return measure.Contestant{Name: name, Run: func() (time.Duration, error) {
			took, err := measure.Thread(func() (err error) {
				for i := 0; i < timesARun && err == nil; i++ {
					err = decode()
				}
				return err
			})
			return took / timesARun, err
		}}
	}
	decoder := func(name string, open func(r io.Reader) (io.Reader, error)) measure.Contestant {
		return onThread(name, func() error {
			z, err := open(bytes.NewReader(file))
			if err != nil {
				return err
			}
			if n, err := io.Copy(io.Discard, z); err != nil || n != size {
				return fmt.Errorf("%d bytes of %d, %w", n, size, err)
			}
			return nil
		})
	}
	return []measure.Contestant{
		onThread("span", func() error { return decodeAll(spans) }),
		decoder("reader", func(r io.Reader) (io.Reader, error) { return inflate.NewReader(r, nil), nil }),
		decoder("std", func(r io.Reader) (io.Reader, error) { return stdgzip.NewReader(r) }),
		decoder("klauspost", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }),
	}
}

// programs are the decoders that have programs.
func programs(path string) []measure.Contestant {
	program := func(name, debian string, command ...string) measure.Contestant {
		command = append(command, slices.Repeat([]string{path}, timesAProgramRun)...)
		return measure.Contestant{Name: name, Run: func() (time.Duration, error) {
			cmd, err := corpus.Tool(context.Background(), debian, command...)
			if err != nil {
				return 0, err
			}
			took, err := measure.Command(cmd) // its output goes to /dev/null
			return took / timesAProgramRun, err
		}}
	}
	return []measure.Contestant{
		program("libdeflate", "libdeflate-tools", "libdeflate-gunzip", "-k", "-c"),
		program("igzip", "isal", "igzip", "-d", "-c"),
		program("zlib", "pigz", "pigz", "-d", "-k", "-c", "-p", "1"),
	}
}

type span struct {
	from     inflate.Checkpoint
	end      int64
	src, dst []byte
}

func decodeAll(spans []span) error {
	for i := range spans {
		if s := &spans[i]; inflate.Decode(s.dst, s.src, &s.from, s.end) != nil {
			return fmt.Errorf("span %d", i)
		}
	}
	return nil
}

// spansOf returns the spans of a file, once it has seen that each of them is what the tar has there.
func spansOf(b *testing.B, file, tar []byte) []span {
	b.Helper()
	_, cps, err := checkpoints(bytes.NewReader(file), benchSpan)
	if err != nil {
		b.Fatal(err)
	}
	var spans []span
	for i, cp := range cps[:len(cps)-1] {
		next := cps[i+1]
		spans = append(spans, span{from: cp, end: next.In, src: file[cp.In/8 : (next.In+7)/8], dst: make([]byte, next.Out-cp.Out)})
	}
	if err := decodeAll(spans); err != nil {
		b.Fatal(err)
	}
	for i, s := range spans {
		if !bytes.Equal(s.dst, tar[s.from.Out:][:len(s.dst)]) {
			b.Fatalf("span %d isn't what the tar has there", i)
		}
	}
	return spans
}
