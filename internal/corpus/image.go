package corpus

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// imageLayers are the layers of the large image, by their packages: 1.1 GB of tar, from machine code to sources.
var imageLayers = [][]string{
	{"cpp-12", "gcc-12", "g++-12", "libstdc++-12-dev", "git", "perl-modules-5.36"},
	{"libllvm14", "libclang-cpp14", "openjdk-17-jre-headless"},
	{"libpython3.11-stdlib", "python3-sympy", "python3-django", "python3-numpy", "python3-scipy", "python3-pandas", "python3-matplotlib", "ansible"},
	{"golang-1.19-src"},
}

// A Large is the large layer: all that the large image holds, in one tar of more than 1 GB.
type Large struct {
	Gzip    string // by gzip -6
	Zstd    string // by zstd -3, in one frame
	TarSize int64
}

// LargeLayer makes or finds the large layer.
func LargeLayer(ctx context.Context) (*Large, error) {
	dir, err := keep("corpus-layer", func(work, out string) error {
		var all []string
		for _, l := range imageLayers {
			all = append(all, l...)
		}
		file := filepath.Join(out, "layer.tar")
		if err := writeTar(ctx, work, file, all, nil); err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		for _, c := range compressors {
			if c.name == "gzip-6" || c.name == "zstd" {
				g.Go(func() error { return c.compress(ctx, file, filepath.Join(out, c.name)) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
		// Nobody reads the tar itself; its size is kept.
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		return errors.Join(os.Remove(file), os.WriteFile(filepath.Join(out, "size"), fmt.Append(nil, info.Size()), 0o600))
	})
	if err != nil {
		return nil, err
	}
	l := &Large{Gzip: filepath.Join(dir, "gzip-6"), Zstd: filepath.Join(dir, "zstd")}
	size, err := os.ReadFile(filepath.Join(dir, "size"))
	if err != nil {
		return nil, err
	}
	_, err = fmt.Sscan(string(size), &l.TarSize)
	return l, err
}

// LargeImage makes or finds an OCI layout with the large image, of four layers by gzip -6, under the tag v1.
func LargeImage(ctx context.Context) (layout string, err error) {
	return keep("corpus-image", func(work, out string) error {
		tars := make([]string, len(imageLayers))
		for i, packages := range imageLayers {
			tars[i] = filepath.Join(work, fmt.Sprintf("layer%d.tar", i))
			if err := writeTar(ctx, work, tars[i], packages, nil); err != nil {
				return err
			}
		}
		layers, err := addLayers(ctx, out, tars)
		if err != nil {
			return err
		}
		return writeIndex(out, map[string][]layer{"v1": layers})
	})
}

// The images of many files are a tree of small files, once in each layer, below a directory with the layer's number.
const (
	filesPerLayer = 40_700
	manyLayers    = 5
	mostLayers    = 8
)

var manyPackages = []string{"libboost1.74-dev", "ansible", "golang-1.19-src"}

// ManyFiles makes or finds an OCI layout with two images of real, small files: over 200,000 of them under the tag many,
// and over 325,000 under the tag most.
func ManyFiles(ctx context.Context) (layout string, err error) {
	return keep("corpus-files", func(work, out string) error {
		var tars []string
		for i := range mostLayers {
			entries := 0
			tars = append(tars, filepath.Join(work, fmt.Sprintf("layer%d.tar", i)))
			err := writeTar(ctx, work, tars[i], manyPackages, func(h *tar.Header) error {
				if entries++; entries > filesPerLayer {
					return errFull
				}
				top := fmt.Sprintf("srv/%d/", i)
				h.Name = top + h.Name
				if h.Typeflag == tar.TypeLink {
					h.Linkname = top + h.Linkname
				}
				return nil
			})
			if !errors.Is(err, errFull) {
				return errors.Join(err, fmt.Errorf("there are only %d files", entries))
			}
		}
		layers, err := addLayers(ctx, out, tars)
		if err != nil {
			return err
		}
		return writeIndex(out, map[string][]layer{"many": layers[:manyLayers], "most": layers})
	})
}

// writeTar makes a tar of all that packages hold. Each header goes through change first, if there is one; errFull of it ends
// the tar and is returned.
func writeTar(ctx context.Context, work, file string, packages []string, change func(*tar.Header) error) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	err = eachPackaged(ctx, work, packages, func(h *tar.Header, r io.Reader) error {
		if change != nil {
			if err := change(h); err != nil {
				return err
			}
		}
		return copyEntry(w, h, r)
	})
	return errors.Join(err, w.Close())
}

// A layer is a tar in a layout.
type layer struct {
	blob   v1.Descriptor
	diffID digest.Digest
}

// addLayers compresses tars, which it removes, into a layout.
func addLayers(ctx context.Context, layout string, tars []string) ([]layer, error) {
	if err := os.MkdirAll(filepath.Join(layout, "blobs", "sha256"), 0o700); err != nil {
		return nil, err
	}
	layers := make([]layer, len(tars))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, tar := range tars {
		g.Go(func() (err error) {
			layers[i], err = addLayer(ctx, layout, tar)
			return err
		})
	}
	return layers, g.Wait()
}

func addLayer(ctx context.Context, layout, tar string) (l layer, err error) {
	i := 0
	for compressors[i].name != "gzip-6" {
		i++
	}
	blob := tar + ".gz"
	if err := compressors[i].compress(ctx, tar, blob); err != nil {
		return l, err
	}
	if l.diffID, _, err = digestOf(tar); err != nil {
		return l, err
	}
	l.blob.MediaType = v1.MediaTypeImageLayerGzip
	if l.blob.Digest, l.blob.Size, err = digestOf(blob); err != nil {
		return l, err
	}
	return l, errors.Join(os.Rename(blob, blobPath(layout, l.blob.Digest)), os.Remove(tar))
}

func digestOf(file string) (d digest.Digest, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return digest.NewDigest(digest.SHA256, h), size, err
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}
