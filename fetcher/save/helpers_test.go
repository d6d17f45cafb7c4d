package save

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
	"imgfs/internal/testimage"
)

// resolveAll returns all that a reference names.
func resolveAll(t testing.TB, ref string) *fetcher.Bundle {
	t.Helper()
	for _, env := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(env, t.TempDir())
	}
	f, err := fetcher.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := fetcher.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.ResolveAll(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bundleOf returns a bundle as fetcher has it.
func bundleOf(t testing.TB, b testimage.Bundle) *fetcher.Bundle {
	t.Helper()
	dir := t.TempDir()
	if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: b}); err != nil {
		t.Fatal(err)
	}
	return resolveAll(t, "oci:"+dir)
}

func imageOf(contents ...string) testimage.Image {
	var im testimage.Image
	for _, c := range contents {
		im.Layers = append(im.Layers, testimage.NewLayer([]byte(c), []byte(c)))
	}
	return im
}

// destination parses one of a transport.
func destination(t testing.TB, s string) fetcher.Destination {
	t.Helper()
	to, err := fetcher.ParseDestination(s)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func write(t testing.TB, s string, b *fetcher.Bundle) error {
	t.Helper()
	return Write(t.Context(), destination(t, s), b, nil)
}

func mustWrite(t testing.TB, s string, b *fetcher.Bundle) {
	t.Helper()
	if err := write(t, s, b); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
}

// checkHolds compares all that a reference names with what it should be.
func checkHolds(t testing.TB, ref string, want testimage.Bundle) {
	t.Helper()
	b := resolveAll(t, ref)
	if root := b.Root(); root.Digest != want.Root.Digest || root.MediaType != want.Root.MediaType {
		t.Errorf("%s is the %s %s, want the %s %s", ref, root.MediaType, root.Digest, want.Root.MediaType, want.Root.Digest)
	}
	got := map[digest.Digest][]byte{}
	for _, doc := range append(slices.Clone(b.Manifests), b.Configs...) {
		got[doc.Digest] = doc.Content
	}
	for _, l := range b.Layers {
		got[l.Digest] = readLayer(t, b, l)
	}
	if diff := cmp.Diff(want.Blobs, got); diff != "" {
		t.Errorf("%s: %s", ref, diff)
	}
}

func readLayer(t testing.TB, b *fetcher.Bundle, l v1.Descriptor) (content []byte) {
	t.Helper()
	err := b.ReadLayer(t.Context(), l, func(r io.Reader) (err error) {
		content, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return content
}

// tree returns the content of all files below a directory.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// failing makes a bundle's layer of that content fail as said, once, unless doubt is nil.
func failing(b *fetcher.Bundle, content string, with func() io.Reader, doubt func(v1.Descriptor) bool) {
	open := b.Open
	failed := false
	b.Open = func(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
		if d.Digest != digest.FromString(content) || failed && doubt != nil {
			return open(ctx, d)
		}
		failed = true
		return io.NopCloser(with()), nil
	}
	b.Doubt = doubt
}

var errBroken = errors.New("broken")

// breaks gives a half of a content, and an error.
func breaks(content string) func() io.Reader {
	return func() io.Reader {
		return io.MultiReader(strings.NewReader(content[:len(content)/2]), errorReader{errBroken})
	}
}

// wrong gives a content with another last byte.
func wrong(content string) func() io.Reader {
	return func() io.Reader { return strings.NewReader(content[:len(content)-1] + "!") }
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }
