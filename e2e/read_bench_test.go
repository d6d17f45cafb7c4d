package e2e

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/images"
	"imgfs/index/inflate"
	"imgfs/internal/corpus"
	"imgfs/internal/measure"
	. "imgfs/internal/testimage"
)

// largeFile is an image with one file of some 400 MB, which it returns too, and its layer's blob.
func largeFile(b *testing.B) (im images.Image, content string, blob []byte) {
	b.Helper()
	files, err := corpus.Full(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var all strings.Builder
	for range 4 {
		for _, f := range files {
			if f.By != "gzip-6" {
				continue // the same tar
			}
			_, tar, err := f.Read()
			if err != nil {
				b.Fatal(err)
			}
			all.Write(tar)
		}
	}
	content = all.String()
	tar := Tar(Dir("./"), File("large", content))
	blob = Gzip(tar)
	im = images.Image{Name: "large", Layout: b.TempDir(), Tag: "v1"}
	writeLayout(b, im.Layout, Image{Layers: []Layer{NewLayer(blob, tar)}}.Bundle())
	return im, content, blob
}

// BenchmarkColdRead reads a large file from start to end through the mount, after the kernel has dropped it, beside our decoder
// alone. cores is how many processors the server kept busy; read/decoder*cores is how much of what so many decoders would do
// arrived at the reader. That is the decoder's processor time in parts of the server's.
func BenchmarkColdRead(b *testing.B) {
	im, content, blob := largeFile(b)
	h := newHost(b)
	dir := h.mount(b, inLayout(im))
	file, pid := filepath.Join(dir, "large"), h.state(b, dir).PID
	var cpu, wall time.Duration // of the least read
	least := measure.Contest(b,
		measure.Contestant{Name: "server", Run: func() (time.Duration, error) {
			if err := measure.DropCaches(); err != nil {
				return 0, err
			}
			before, err := measure.ProcessorTime(pid)
			if err != nil {
				return 0, err
			}
			took, err := measure.Wall(func() error { return readLarge(file, len(content)) })
			if err != nil {
				return 0, err
			}
			after, err := measure.ProcessorTime(pid)
			if spent := after - before; cpu == 0 || spent < cpu {
				cpu, wall = spent, took
			}
			return after - before, err
		}},
		measure.Contestant{Name: "decoder", Run: func() (time.Duration, error) {
			return measure.Thread(func() error {
				_, err := io.Copy(io.Discard, inflate.NewReader(bytes.NewReader(blob), nil))
				return err
			})
		}})
	b.ReportMetric(measure.Rate(int64(len(content)), wall), "read-MB/s")
	b.ReportMetric(measure.Rate(int64(len(content)), least["decoder"]), "decoder-MB/s")
	b.ReportMetric(float64(cpu)/float64(wall), "cores")
	b.ReportMetric(float64(least["decoder"])/float64(cpu), "read/decoder*cores")
}

// BenchmarkWarmRead reads a large file that the kernel has, beside the same file on the local file system (native), and on a
// tmpfs, whose pages are of 4 KiB as those of FUSE are, where ext4 and others have larger ones.
func BenchmarkWarmRead(b *testing.B) {
	im, content, _ := largeFile(b)
	h := newHost(b)
	small := h.mkdir(b)
	if err := unix.Mount("none", small, "tmpfs", 0, "huge=never"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			b.Error(err)
		}
	})
	places := []struct{ name, dir string }{{"imgfs", h.mount(b, inLayout(im))}, {"native", h.mkdir(b)}, {"tmpfs", small}}
	var contestants []measure.Contestant
	for _, p := range places {
		file := filepath.Join(p.dir, "large")
		if p.name != "imgfs" {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		if err := readLarge(file, len(content)); err != nil {
			b.Fatal(err)
		}
		contestants = append(contestants, measure.Contestant{Name: p.name, Run: func() (time.Duration, error) {
			return measure.Wall(func() error { return readLarge(file, len(content)) })
		}})
	}
	least := measure.Contest(b, contestants...)
	for _, p := range places {
		b.ReportMetric(measure.Rate(int64(len(content)), least[p.name]), p.name+"-MB/s")
	}
	b.ReportMetric(float64(least["native"])/float64(least["imgfs"]), "imgfs/native")
	b.ReportMetric(float64(least["tmpfs"])/float64(least["imgfs"]), "imgfs/tmpfs")
}

// readLarge reads a file of a size as dd bs=1M does.
func readLarge(name string, size int) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err == nil && n != int64(size) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
