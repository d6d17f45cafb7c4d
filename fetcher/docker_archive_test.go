package fetcher

import (
	"bytes"
	gz "compress/gzip"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// dockerSave returns the path of an archive as docker save wrote it before version 25.
func dockerSave(t testing.TB, im testimage.Image, tags ...string) string {
	t.Helper()
	files, item := im.DockerFiles(tags...)
	return tarFile(t, append(files, testimage.DockerManifestFile(item))...)
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gz.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// checkLayers reads the layers of an image, which have to hold the contents.
func checkLayers(t *testing.T, f *Fetcher, im *Image, contents ...[]byte) {
	t.Helper()
	if len(im.Layers) != len(contents) {
		t.Fatalf("%s has %d layers, want %d", im.Ref, len(im.Layers), len(contents))
	}
	for i, want := range contents {
		b, err := f.Blob(t.Context(), im, im.Layers[i])
		if err != nil {
			t.Fatal(err)
		}
		got, err := operations["the stream"](t.Context(), b)
		if err != nil || !bytes.Equal(got, want) || im.Layers[i].Digest != digest.FromBytes(want) || im.Layers[i].Size != int64(len(want)) {
			t.Errorf("layer %d of %s, %+v, is %d bytes (%v), want %d", i, im.Ref, im.Layers[i], len(got), err, len(want))
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestADockerArchiveHasTheImageThatWasSaved(t *testing.T) {
	one, two := testimage.Tar(testimage.File("one", "1")), testimage.Tar(testimage.File("two", "2"))
	image := imageOf(one, two, one, nil)
	path := dockerSave(t, image, "debian:12", "reg.example/a:b")
	f, _ := newFetcher(t, Options{})
	for _, ref := range []string{
		"docker-archive:" + path, "docker-archive:" + path + ":debian:12", "docker-archive:" + path + ":docker.io/library/debian:12",
		"docker-archive:" + path + ":reg.example/a:b", "docker-archive:" + path + ":@0", path, path + ":debian:12",
	} {
		im := resolve(t, f, ref)
		if im.MediaType != dockerManifest || im.Digest != digest.FromBytes(im.Manifest) || im.ConfigDigest != digest.FromBytes(im.Config) {
			t.Errorf("%s: %s %s", ref, im.MediaType, im.Digest)
		}
		if !strings.HasPrefix(im.Ref.String(), "docker-archive:"+path) || im.Platform.Architecture != "amd64" {
			t.Errorf("%s is %s for %v", ref, im.Ref, im.Platform)
		}
		for i, l := range im.Layers {
			if l.DiffID != image.Layers[i].DiffID || l.Digest != l.DiffID || l.MediaType != dockerLayers[plain] {
				t.Errorf("%s: layer %d is %+v", ref, i, l)
			}
		}
		checkLayers(t, f, im, one, two, one, nil)
	}
	for ref, say := range map[string]string{":debian": "docker.io/library/debian:latest", ":debian:11": `"debian:12", "reg.example/a:b"`, ":@1": "@0"} {
		if _, err := f.Resolve(t.Context(), parse(t, "docker-archive:"+path+ref)); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestADockerArchiveOfSeveralImages(t *testing.T) {
	a, itemA := imageOf([]byte("a")).DockerFiles("a:1", "a:2")
	b, itemB := imageOf([]byte("b")).DockerFiles()
	arm := imageOf([]byte("arm"))
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	c, itemC := arm.DockerFiles("a:2")
	path := tarFile(t, append(slices.Concat(a, b, c), testimage.DockerManifestFile(itemA, itemB, itemC))...)
	f, _ := newFetcher(t, Options{Platform: "linux/amd64"})
	armed, _ := newFetcher(t, Options{Platform: "linux/arm64"})
	for _, test := range []struct {
		f             *Fetcher
		ref, contents string
	}{{f, ":a:1", "a"}, {f, ":@1", "b"}, {f, ":a:2", "a"}, {armed, ":a:2", "arm"}, {armed, ":@2", "arm"}} {
		checkLayers(t, test.f, resolve(t, test.f, "docker-archive:"+path+test.ref), []byte(test.contents))
	}
	if _, err := f.Resolve(t.Context(), parse(t, path)); !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), `"a:1", "a:2", "@1", "a:2"`) {
		t.Errorf("without a name: %v", err)
	}
	if _, err := f.Resolve(t.Context(), parse(t, path+":@2")); !errors.As(err, new(*PlatformError)) {
		t.Errorf("the other platform: %v", err)
	}
}

func TestCompressedLayersOfADockerArchiveHaveTheirOwnDigest(t *testing.T) {
	content := testimage.Tar(testimage.File("f", "1"))
	blob := gzipped(t, content)
	path := dockerSave(t, testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(blob, content), testimage.NewLayer(blob, content)}})
	f, _ := newFetcher(t, Options{})
	im := resolve(t, f, "docker-archive:"+path)
	if l := im.Layers[1]; l.DiffID != digest.FromBytes(content) || l.MediaType != dockerLayers[gzip] {
		t.Errorf("got %+v", l)
	}
	checkLayers(t, f, im, blob, blob)
	var asked []TarFile
	remembers, _ := newFetcher(t, Options{Digest: func(_ context.Context, file TarFile) (digest.Digest, error) {
		asked = append(asked, TarFile{Name: file.Name, Stamp: file.Stamp})
		return sum, nil
	}})
	im = resolve(t, remembers, "docker-archive:"+path)
	_, item := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(blob, content)}}.DockerFiles()
	if len(asked) != 1 || asked[0].Name != path+":"+item.Layers[0] || im.Layers[0].Digest != sum || im.Layers[1].Digest != sum {
		t.Errorf("asked for %+v, got %+v", asked, im.Layers)
	}
}

func TestDockerArchivesThatAreWrong(t *testing.T) {
	files, item := imageOf([]byte("a")).DockerFiles("a:1")
	other, unlike := imageOf([]byte("b"), []byte("c")).DockerFiles("b:1")
	with := func(change func(*testimage.DockerItem)) string {
		changed := item
		change(&changed)
		return tarFile(t, append(slices.Clone(files), testimage.DockerManifestFile(changed))...)
	}
	xz, xzItem := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer([]byte("\xfd7zXZ\x00"), nil)}}.DockerFiles()
	f, _ := newFetcher(t, Options{})
	for _, test := range []struct {
		name, path string
		kind       error
		say        string
	}{
		{"no manifest.json", tarFile(t, files[:3]...), ErrNotFound, "manifest.json"},
		{"no images in it", tarFile(t, testimage.File("manifest.json", `[{"name":"an extension"}]`)), ErrMalformed, "something else"},
		{"no image", tarFile(t, testimage.DockerManifestFile()), ErrNotFound, "no image"},
		{"no JSON", tarFile(t, testimage.File("manifest.json", "x")), ErrMalformed, "not valid"},
		{"no config", with(func(i *testimage.DockerItem) { i.Config = "nosuch" }), ErrNotFound, "nosuch"},
		{"no layer", with(func(i *testimage.DockerItem) { i.Layers = []string{"nosuch"} }), ErrNotFound, "nosuch"},
		{"fewer layers", with(func(i *testimage.DockerItem) { i.Layers = nil }), ErrMismatch, "number of layers"},
		{"a config under the name of another", tarFile(t, append(slices.Clone(files),
			testimage.File(unlike.Config, `{"rootfs":{}}`), testimage.DockerManifestFile(testimage.DockerItem{Config: unlike.Config}))...), ErrMismatch, "config"},
		{"a layer that cannot be read at random", tarFile(t, append(xz, testimage.DockerManifestFile(xzItem))...), errors.ErrUnsupported, "xz"},
		{"an image of another number of layers", tarFile(t, append(slices.Concat(files, other),
			testimage.DockerManifestFile(testimage.DockerItem{Config: item.Config, Layers: unlike.Layers}))...), ErrMismatch, "number of layers"},
	} {
		_, err := f.Resolve(t.Context(), parse(t, "docker-archive:"+test.path))
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.say) || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAnArchiveThatListsAnImageWithoutEndIsRefused(t *testing.T) {
	files, item := imageOf([]byte("a")).DockerFiles("a:1")
	path := tarFile(t, append(files, testimage.DockerManifestFile(slices.Repeat([]testimage.DockerItem{item}, maxDocuments+1)...))...)
	f, _ := newFetcher(t, Options{})
	if _, err := f.Resolve(t.Context(), parse(t, fmt.Sprintf("docker-archive:%s:a:1", path))); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}
