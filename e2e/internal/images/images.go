// Package images makes the images of the end-to-end tests, of real Debian
// packages and by real tools.
//
// Terms: a recipe is a shell script that makes a layer; it runs chrooted in
// the tree that it changes. A set is all the images, in OCI layouts, kept in
// the user's cache directory under a hash of this package, so that a change
// of a recipe makes new ones.
package images

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// source is all that the images depend on, but the Debian mirror.
//
//go:embed *.go recipe
var source embed.FS

// An Image is one tag of one OCI layout.
type Image struct {
	Name   string // unique among the images of a set
	Layout string // the layout's directory
	Tag    string
}

// Set is the images that a build made.
type Set struct {
	dir string
}

// Python is the small image: a Debian base and a layer with python3. The
// image is made by umoci.
func (s *Set) Python() Image { return s.image("umoci", "python") }

// Full is the large images with all that changes: one made by umoci, one by buildah.
func (s *Set) Full() []Image { return []Image{s.image("umoci", "full"), s.image("buildah", "full")} }

// Replaced is umoci's image with files and links in the place of directories,
// which umoci alone reads.
func (s *Set) Replaced() Image { return s.image("umoci", "replaced") }

// PAXTar is an image of layers as GNU tar writes sparse files and long names
// in the PAX format.
func (s *Set) PAXTar() Image { return s.image("umoci", "paxtar") }

// GNUTar is PAXTar and a layer in GNU tar's own old format.
func (s *Set) GNUTar() Image { return s.image("umoci", "gnutar") }

// Zstd is Python with layers of zstd, a single frame each.
func (s *Set) Zstd() Image { return s.image("zstd", "python") }

// Chunked is as Python is, made by buildah with layers of zstd:chunked, which
// are thousands of frames.
func (s *Set) Chunked() Image { return s.image("chunked", "python") }

// Shapes is an image as PAXTar is one, whose layers are a plain tar and zstd in
// rare shapes.
func (s *Set) Shapes() Image { return s.image("shapes", "paxtar") }

// Disputed is a small image of what peers see differently.
func (s *Set) Disputed() Image { return s.image("umoci", "disputed") }

// All is every image that the tests compare.
func (s *Set) All() []Image {
	return append(s.Full(), s.Python(), s.Replaced(), s.PAXTar(), s.GNUTar(), s.Disputed(), s.Zstd(), s.Chunked(), s.Shapes())
}

func (s *Set) image(tool, tag string) Image {
	return Image{Name: tool + "-" + tag, Layout: filepath.Join(s.dir, tool), Tag: tag}
}

// Get returns the set, and makes it when the cache directory has none of this
// recipe. One process makes it; the others wait. log is told what is done.
func Get(ctx context.Context, log func(format string, args ...any)) (*Set, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := recipeHash()
	if err != nil {
		return nil, err
	}
	set := &Set{dir: filepath.Join(dir, key)}
	if _, err := os.Stat(set.dir); err == nil {
		return set, nil
	}
	log("making the images in %s", set.dir)
	return set, makeSet(ctx, dir, set.dir, log)
}

// makeSet builds in a directory beside the final one, and renames it when
// everything is there.
func makeSet(ctx context.Context, parent, final string, log func(string, ...any)) error {
	work, err := os.MkdirTemp(parent, "making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &builder{work: work, out: filepath.Join(work, "set"), log: log}
	if err := b.build(ctx); err != nil {
		return err
	}
	return os.Rename(b.out, final)
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to keep the test images: %w", err)
	}
	return filepath.Join(dir, "imgfs-test"), nil
}

// lock takes an exclusive lock on a file, which the kernel drops with the process.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

func recipeHash() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		b, err := source.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}
