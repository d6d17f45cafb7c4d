package fetcher

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// skopeoCopy writes a bundle as skopeo copy --all dir:DIR does, and returns DIR.
func skopeoCopy(t testing.TB, b testimage.Bundle) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) { writeFile(t, filepath.Join(dir, name), string(content), 0o600) }
	write("version", []byte("Directory Transport Version: 1.1\n"))
	for d, content := range b.Blobs {
		switch {
		case d == b.Root.Digest:
			write("manifest.json", content)
		case b.Types[d] != "":
			write(d.Encoded()+".manifest.json", content)
		default:
			write(d.Encoded(), content)
		}
	}
	return dir
}

func TestADirectoryOfSkopeosHasTheImage(t *testing.T) {
	amd, arm := onPlatform(imageOf([]byte("amd")), "linux/amd64"), onPlatform(imageOf([]byte("arm"), nil), "linux/arm64")
	f, _ := newFetcher(t, Options{Platform: "linux/arm64"})
	for name, b := range map[string]testimage.Bundle{"an image": arm, "an index": testimage.Index(amd, arm)} {
		dir := skopeoCopy(t, b)
		for _, ref := range []string{"dir:" + dir, dir} {
			im := resolve(t, f, ref)
			if im.Digest != b.Root.Digest || im.ManifestDigest != arm.Root.Digest || !bytes.Equal(im.Config, arm.Blobs[im.ConfigDigest]) ||
				im.Ref.String() != "dir:"+dir {
				t.Errorf("%s, %s: %s %s", name, ref, im.Digest, im.ManifestDigest)
			}
			checkLayers(t, f, im, []byte("arm"), nil)
		}
	}
}

func TestDirectoriesOfSkopeosThatAreWrong(t *testing.T) {
	b := imageOf([]byte("layer")).Bundle()
	layer := imageOf([]byte("layer")).Layers[0].DiffID
	for _, test := range []struct {
		name  string
		spoil func(dir string) error
		kind  error
	}{
		{"another config", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, resolveConfig(t, b).Encoded()), []byte("{}"), 0o600)
		}, ErrMismatch},
		{"a shorter layer", func(dir string) error { return os.Truncate(filepath.Join(dir, layer.Encoded()), 1) }, ErrMismatch},
		{"no layer", func(dir string) error { return os.Remove(filepath.Join(dir, layer.Encoded())) }, ErrNotFound},
		{"no manifest", func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) }, ErrNotFound},
		{"no directory", os.RemoveAll, ErrNotFound},
		{"another version", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "version"), []byte("Directory Transport Version: 2.0"), 0o600)
		}, errors.ErrUnsupported},
	} {
		dir := skopeoCopy(t, b)
		if err := test.spoil(dir); err != nil {
			t.Fatal(err)
		}
		f, _ := newFetcher(t, Options{})
		im, err := f.Resolve(t.Context(), parse(t, "dir:"+dir))
		if err == nil {
			_, err = f.Blob(t.Context(), im, im.Layers[0])
		}
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
