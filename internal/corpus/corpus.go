// Package corpus makes the data that the benchmarks run on, and some tests: real files of Debian packages and of the Go
// toolchain, compressed by the programs that compress layers. Nothing here is for other use.
//
// The packages come from the mirror that apt is set up with. What is made is kept in the user's cache directory, under a
// hash of this package and the version of Go; remove the directory to have it made anew.
package corpus

import (
	"context"
	"embed"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"imgfs/internal/kept"
)

// recipe is all that the corpus depends on, but the Debian mirror and the Go toolchain.
//
//go:embed *.go
var recipe embed.FS

// Sizes of the tars that compressed files are made of, in bytes.
const (
	smallTar = 1 << 20
	fullTar  = 24 << 20
)

// A File is a tar of one kind of data, compressed.
type File struct {
	Data string // elf, text, python or go
	By   string // what compressed it: gzip-1, gzip-6, gzip-9, pigz, go, klauspost, zstd (one frame), pzstd (several)
	Path string
	Tar  string // the path of the tar
}

// Gzip tells whether the file is a gzip file; the others are zstd's.
func (f File) Gzip() bool { return f.By != "zstd" && f.By != "pzstd" }

// Read returns the file and its tar.
func (f File) Read() (file, tar []byte, err error) {
	if file, err = os.ReadFile(f.Path); err != nil {
		return nil, nil, err
	}
	tar, err = os.ReadFile(f.Tar)
	return file, tar, err
}

// Small returns files with tars of 1 MiB each, enough for a test.
func Small(ctx context.Context) ([]File, error) { return files(ctx, "corpus-small", smallTar) }

// Full returns files with tars of 24 MiB each, enough to measure with.
func Full(ctx context.Context) ([]File, error) { return files(ctx, "corpus-full", fullTar) }

// files makes or finds a file of every kind of data by every compressor.
func files(ctx context.Context, name string, size int64) ([]File, error) {
	dir, err := keep(name, func(work, out string) error { return makeFiles(ctx, work, out, size) })
	if err != nil {
		return nil, err
	}
	var all []File
	for _, k := range kinds {
		for _, c := range compressors {
			all = append(all, fileIn(dir, k.name, c.name))
		}
	}
	return all, nil
}

func fileIn(dir, data, by string) File {
	tar := filepath.Join(dir, data+".tar")
	f := File{Data: data, By: by, Path: tar + "." + by, Tar: tar}
	f.Path += map[bool]string{true: ".gz", false: ".zst"}[f.Gzip()]
	return f
}

func keep(name string, make func(work, out string) error) (string, error) {
	return kept.Dir(name, recipe, runtime.Version(), make)
}

func makeFiles(ctx context.Context, work, out string, size int64) error {
	for _, k := range kinds {
		if err := k.write(ctx, work, filepath.Join(out, k.name+".tar"), size); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, k := range kinds {
		for _, c := range compressors {
			f := fileIn(out, k.name, c.name)
			g.Go(func() error { return c.compress(ctx, f.Tar, f.Path) })
		}
	}
	return g.Wait()
}
