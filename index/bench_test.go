package index

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"imgfs/index/inflate"
	"imgfs/internal/corpus"
	"imgfs/internal/measure"
)

func largeLayer(b *testing.B) *corpus.Large {
	b.Helper()
	l, err := corpus.LargeLayer(b.Context())
	check(b, err)
	return l
}

// BenchmarkBuild indexes a layer of more than 1 GB of tar, beside our decoder alone (which checks the CRC) and
// "gzip -dc | sha256sum", which does less: no digest of the blob, no entries, no spans. It counts the time that passes: all have
// both processors to themselves. A metric A/B is how many times as fast as B A is; two is two builds side by side.
func BenchmarkBuild(b *testing.B) {
	l := largeLayer(b)
	benchmarkBuild(b, l.Gzip, l.TarSize, "gzip", ungzip)
}

// BenchmarkBuildZstd is BenchmarkBuild with a layer that is a single zstd frame, whose tar is compressed anew. The decoder is that of
// klauspost/compress, which Build uses, and the program is zstd.
func BenchmarkBuildZstd(b *testing.B) {
	l := largeLayer(b)
	benchmarkBuild(b, l.Zstd, l.TarSize, "zstd", unzstd)
}

func benchmarkBuild(b *testing.B, path string, size int64, program string, decode func(io.Reader) (io.Reader, error)) {
	build := func() error { return buildFile(path, io.Discard) }
	command := program + "+sha256sum"
	contestants := []measure.Contestant{
		wall("build", build),
		wall("two", func() error {
			var g errgroup.Group
			g.Go(build)
			g.Go(build)
			return g.Wait()
		}),
		wall("decoder", func() error { return decodeFile(path, decode) }),
		wall(command, func() error { return pipeline(program+" -dc", path).Run() }),
	}
	least := measure.Contest(b, contestants...)
	least["two"] /= 2 // a layer's share
	for _, c := range contestants {
		b.ReportMetric(measure.Rate(size, least[c.Name]), c.Name+"-MB/s")
	}
	b.ReportMetric(float64(least["decoder"])/float64(least["build"]), "build/decoder")
	b.ReportMetric(float64(least[command])/float64(least["build"]), "build/"+command)
	b.ReportMetric(float64(least["build"])/float64(least["two"]), "two/build")
}

// BenchmarkBuildCPU is BenchmarkBuild by processor time in user mode: what a build costs where others want the processors too.
func BenchmarkBuildCPU(b *testing.B) {
	l := largeLayer(b)
	process := func(name string, work func() error) measure.Contestant {
		return measure.Contestant{Name: name, Run: func() (time.Duration, error) { return measure.Process(work) }}
	}
	contestants := []measure.Contestant{
		process("build", func() error { return buildFile(l.Gzip, io.Discard) }),
		process("decoder", func() error { return decodeFile(l.Gzip, ungzip) }),
		{Name: "gzip+sha256sum", Run: func() (time.Duration, error) { return measure.Command(pipeline("gzip -dc", l.Gzip)) }},
	}
	least := measure.Contest(b, contestants...)
	for _, c := range contestants {
		b.ReportMetric(measure.Rate(l.TarSize, least[c.Name]), c.Name+"-MB/s")
	}
	b.ReportMetric(float64(least["decoder"])/float64(least["build"]), "build/decoder")
	b.ReportMetric(float64(least["gzip+sha256sum"])/float64(least["build"]), "build/gzip+sha256sum")
}

func wall(name string, work func() error) measure.Contestant {
	return measure.Contestant{Name: name, Run: func() (time.Duration, error) { return measure.Wall(work) }}
}

// pipeline runs a program that decompresses its input, and sha256sum after it.
func pipeline(program, path string) *exec.Cmd {
	return exec.Command("sh", "-c", program+` < "$1" | sha256sum`, "sh", path)
}

func buildFile(path string, w io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return Build(f, Want{Size: -1}, Output{Index: w, Frames: func() (io.Writer, error) { return io.Discard, nil }})
}

func decodeFile(path string, decode func(io.Reader) (io.Reader, error)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := decode(f)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, z)
	return err
}

func ungzip(r io.Reader) (io.Reader, error) { return inflate.NewReader(r, nil), nil }

func unzstd(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) }

// BenchmarkSize gives the size of indexes, in parts of a hundred of the blob, and of that what the entries take, what decoders
// must know (windows), and the table, most of which is digests of spans. The data is one tar by several compressors.
func BenchmarkSize(b *testing.B) {
	l := largeLayer(b)
	b.Run("data=image/by=gzip-6", func(b *testing.B) { benchmarkSize(b, l.Gzip) })
	files, err := corpus.Full(b.Context())
	check(b, err)
	for _, f := range files {
		if f.Gzip() {
			b.Run(fmt.Sprintf("data=%s/by=%s", f.Data, f.By), func(b *testing.B) { benchmarkSize(b, f.Path) })
		}
	}
}

func benchmarkSize(b *testing.B, path string) {
	var x bytes.Buffer
	for b.Loop() {
		x.Reset()
		check(b, buildFile(path, &x))
	}
	info, err := os.Stat(path)
	check(b, err)
	table := mustOpen(b, x.Bytes()).t
	var windows, entries int
	for i := range table.states {
		windows += int(table.states[i].len)
	}
	for i := range table.pieces {
		entries += int(table.pieces[i].len)
	}
	percent := func(n int) float64 { return 100 * float64(n) / float64(info.Size()) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(percent(x.Len()), "%index")
	b.ReportMetric(percent(windows), "%windows")
	b.ReportMetric(percent(entries), "%entries")
	b.ReportMetric(percent(x.Len()-windows-entries), "%table")
}

// BenchmarkEntries gives the time to list the entries of an index.
func BenchmarkEntries(b *testing.B) {
	var data bytes.Buffer
	check(b, buildFile(largeLayer(b).Gzip, &data))
	x := mustOpen(b, data.Bytes())
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range x.Entries() {
			if err != nil { // check takes as long as an entry does
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(x.NumEntries()), "ns/entry")
}

// BenchmarkSequential reads a tar by its index from start to end, in 128 KiB as the kernel asks for a large file; the blob is in
// memory. A metric A/B is how many times as fast as B A is; the decoder alone has one processor.
func BenchmarkSequential(b *testing.B) {
	eachReader(b, func(b *testing.B, file, tar []byte, open func(spans int) *Reader) {
		size := int64(len(tar))
		least := measure.Contest(b, wall("read", func() error {
			return readAll(io.NewSectionReader(open(8), 0, size))
		}), wall("decoder", func() error {
			return readAll(inflate.NewReader(bytes.NewReader(file), nil))
		}))
		b.ReportMetric(measure.Rate(size, least["read"]), "read-MB/s")
		b.ReportMetric(measure.Rate(size, least["decoder"]), "decoder-MB/s")
		b.ReportMetric(float64(least["decoder"])/float64(least["read"]), "read/decoder")
	})
}

// BenchmarkRandom reads 4 KiB here and there, and decodes a span for each.
func BenchmarkRandom(b *testing.B) {
	eachReader(b, func(b *testing.B, file, tar []byte, open func(spans int) *Reader) {
		r, p, rnd := open(0), make([]byte, 4<<10), rand.New(rand.NewPCG(1, 1))
		b.ReportAllocs()
		for b.Loop() {
			_, err := r.ReadAt(p, rnd.Int64N(int64(len(tar)-len(p))))
			check(b, err)
		}
	})
}

// eachReader runs a benchmark with each kind of data. open gives a reader with memory for some spans, none of which is in it.
func eachReader(b *testing.B, run func(b *testing.B, file, tar []byte, open func(spans int) *Reader)) {
	files, err := corpus.Full(b.Context())
	check(b, err)
	for _, f := range files {
		if f.By != "gzip-6" {
			continue
		}
		file, tar, err := f.Read()
		check(b, err)
		x := mustOpen(b, mustBuild(b, file))
		b.Run("data="+f.Data, func(b *testing.B) {
			run(b, file, tar, func(spans int) *Reader {
				return NewReader(x, discardless{bytes.NewReader(file)}, nil, newMemory(spans))
			})
		})
	}
}

func readAll(r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 128<<10))
	return err
}

// discardless is a blob that is never wrong.
type discardless struct{ io.ReaderAt }

func (discardless) Discard(off, n int64) error { return nil }
func (discardless) Fetch(off, n int64) error   { return nil }
