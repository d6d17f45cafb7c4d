package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkMemoryHoldHit(b *testing.B) {
	m := NewMemory(64 << 20)
	hold := func(span int) {
		_, release, err := m.Hold(layerA, span%32, 1<<20, func([]byte) error { return nil })
		must(b, err)
		release()
	}
	for span := range 32 {
		hold(span)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for span := 0; pb.Next(); span++ {
			hold(span)
		}
	})
}

func BenchmarkMemoryHoldMiss(b *testing.B) {
	m := NewMemory(16 << 20)
	b.ReportAllocs()
	span := 0
	for b.Loop() {
		_, release, err := m.Hold(layerA, span, 1<<20+span%64, func([]byte) error { return nil })
		must(b, err)
		release()
		span++
	}
}

// BenchmarkReadAtHit reads a cached blob of many pieces (Blob), its file alone
// (Sparse), and a plain file of the same bytes (File).
func BenchmarkReadAtHit(b *testing.B) {
	const size = 32 << 20
	dir := filepath.Join(b.TempDir(), "cache")
	c, err := Open(dir, nil)
	must(b, err)
	defer c.Close()
	s := sourceOf(randomBytes(0, size))
	blob, err := c.Blob(s.digest, size, s)
	must(b, err)
	defer blob.Close()
	for off := int64(0); off < size; off += 128 << 10 { // holes between all pieces
		if _, err := blob.ReadAt(make([]byte, 64<<10), off); err != nil {
			b.Fatal(err)
		}
	}
	must(b, blob.landed())
	plain := filepath.Join(dir, "plain")
	must(b, os.WriteFile(plain, s.data, 0o600))
	file, err := os.Open(plain)
	must(b, err)
	defer file.Close()
	for _, n := range []int{4 << 10, 64 << 10} {
		for _, peer := range []struct {
			name string
			r    io.ReaderAt
		}{{"Blob", blob}, {"Sparse", io.NewSectionReader(blob.file.f, dataStart, size)}, {"File", file}} {
			b.Run(fmt.Sprintf("%s/%dKiB", peer.name, n>>10), func(b *testing.B) {
				p := make([]byte, n)
				rnd := rand.New(rand.NewPCG(1, 1))
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := peer.r.ReadAt(p, rnd.Int64N(size/(128<<10))*(128<<10)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkReadAtMiss is what the cache adds to a fetch that costs nothing.
func BenchmarkReadAtMiss(b *testing.B) {
	const size, step = 32 << 20, 256 << 10
	c, err := Open(filepath.Join(b.TempDir(), "cache"), nil)
	must(b, err)
	defer c.Close()
	s := sourceOf(randomBytes(0, size))
	blob, err := c.Blob(s.digest, size, s)
	must(b, err)
	defer blob.Close()
	p := make([]byte, step)
	b.SetBytes(step)
	off := int64(0)
	for b.Loop() {
		if _, err := blob.ReadAt(p, off); err != nil {
			b.Fatal(err)
		}
		if off += step; off == size {
			b.StopTimer()
			must(b, blob.Discard(0, size))
			off = 0
			b.StartTimer()
		}
	}
}

// BenchmarkStream is a Stream of what is missing, and of what is there, beside
// a plain file that takes the same bytes and gives them back.
func BenchmarkStream(b *testing.B) {
	const size = 64 << 20
	c, err := Open(filepath.Join(b.TempDir(), "cache"), nil)
	must(b, err)
	defer c.Close()
	s := sourceOf(randomBytes(0, size))
	blob, err := c.Blob(s.digest, size, s)
	must(b, err)
	defer blob.Close()
	file, err := os.Create(filepath.Join(b.TempDir(), "file"))
	must(b, err)
	defer file.Close()
	buf := make([]byte, 128<<10)
	run := func(name string, before func() error, r func() io.Reader, w io.Writer) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				must(b, before())
				b.StartTimer()
				if n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r()}, buf); n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
	nothing := func() error { return nil }
	stream := func() io.Reader { return blob.Stream(context.Background()) }
	run("Missing/Blob", func() error { return blob.Discard(0, size) }, stream, io.Discard)
	run("Missing/File", func() error {
		_, err := file.Seek(0, io.SeekStart)
		return errors.Join(err, file.Truncate(0))
	}, func() io.Reader { return bytes.NewReader(s.data) }, file)
	run("There/Blob", nothing, stream, io.Discard)
	run("There/File", nothing, func() io.Reader { return io.NewSectionReader(file, 0, size) }, io.Discard)
}

// BenchmarkCollect collects in a cache of 5000 blobs of a few pieces each: with room left, and with none but what a blob takes.
func BenchmarkCollect(b *testing.B) {
	c, err := Open(filepath.Join(b.TempDir(), "cache"), nil)
	must(b, err)
	defer c.Close()
	for i := range 5000 {
		s := sourceOf(randomBytes(uint64(i), 256<<10))
		blob, err := c.Blob(s.digest, int64(len(s.data)), s)
		must(b, err)
		for off := int64(0); off < int64(len(s.data)); off += 64 << 10 {
			if _, err := blob.ReadAt(make([]byte, 16<<10), off); err != nil {
				b.Fatal(err)
			}
		}
		must(b, blob.Close())
	}
	b.Run("within", func(b *testing.B) {
		c.bounds.Limits = Limits{Size: 1 << 40}
		for b.Loop() {
			_, err := c.Collect(b.Context())
			must(b, err)
		}
	})
	b.Run("over", func(b *testing.B) {
		for b.Loop() {
			room, err := c.room()
			must(b, err)
			c.bounds.Limits = Limits{Size: room.Disk - 1}
			_, err = c.Collect(b.Context())
			must(b, err)
		}
	})
}
