package fetcher

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// A hybrid is an archive as docker save writes it since version 25: a layout, and a list of images for docker load.
type hybrid struct {
	files   []testimage.Entry
	entries []v1.Descriptor
	items   []testimage.DockerItem
}

// add adds an image whose blobs are stored as they are.
func (h *hybrid) add(t testing.TB, b testimage.Bundle, tags ...string) {
	t.Helper()
	m := manifestIn(t, b)
	for _, tag := range tags {
		entry := b.Root
		entry.Annotations = map[string]string{nameAnnotation: "docker.io/library/" + tag, v1.AnnotationRefName: tag[strings.IndexByte(tag, ':')+1:]}
		h.entries = append(h.entries, entry)
	}
	item := testimage.DockerItem{Config: testimage.BlobPath("", m.Config.Digest), RepoTags: tags}
	for _, l := range m.Layers {
		item.Layers = append(item.Layers, testimage.BlobPath("", l.Digest))
	}
	h.items = append(h.items, item)
	for d, content := range b.Blobs {
		h.files = append(h.files, testimage.File(testimage.BlobPath("", d), string(content)))
	}
}

func manifestIn(t testing.TB, b testimage.Bundle) v1.Manifest {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(b.Blobs[b.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// write returns the path of the archive.
func (h *hybrid) write(t testing.TB) string {
	t.Helper()
	index, err := json.Marshal(v1.Index{Manifests: h.entries})
	if err != nil {
		t.Fatal(err)
	}
	files := append(h.files, testimage.File(v1.ImageLayoutFile, `{"imageLayoutVersion": "1.0.0"}`), testimage.File(v1.ImageIndexFile, string(index)))
	return tarFile(t, append(files, testimage.DockerManifestFile(h.items...))...)
}

func hybridOf(t testing.TB, b testimage.Bundle, tags ...string) string {
	t.Helper()
	var h hybrid
	h.add(t, b, tags...)
	return h.write(t)
}

func TestAWholeNameNeedNotBeOneOfDockers(t *testing.T) {
	path := hybridOf(t, imageOf([]byte("x")).Bundle(), "UPPER:12")
	f, _ := newFetcher(t, Options{})
	checkLayers(t, f, resolve(t, f, "oci-archive:"+path+":docker.io/library/UPPER:12"), []byte("x"))
}

func TestAHybridArchiveIsALayoutAndADockerArchive(t *testing.T) {
	content := testimage.Tar(testimage.File("f", "1"))
	for name, blob := range map[string][]byte{"as it is": content, "compressed": gzipped(t, content)} {
		b := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(blob, content)}}.Bundle()
		path := hybridOf(t, b, "debian:12", "debian:bookworm")
		f, _ := newFetcher(t, Options{})
		for ref, transport := range map[string]string{
			path: "oci-archive", path + ":12": "oci-archive", path + ":debian:12": "oci-archive", "oci-archive:" + path + ":docker.io/library/debian:12": "oci-archive",
			"docker-archive:" + path: "docker-archive", "docker-archive:" + path + ":debian:12": "docker-archive", path + ":@0": "docker-archive",
		} {
			im := resolve(t, f, ref)
			if im.Ref.transport != transport || im.Layers[0].DiffID != digest.FromBytes(content) {
				t.Errorf("%s: %s is taken for %s: %+v", name, ref, im.Ref, im.Layers)
			}
			checkLayers(t, f, im, blob)
		}
	}
}

// TestTwoNamesOfOneImageOfAnotherPlatform has what is taken as it is also if it has two names.
func TestTwoNamesOfOneImageOfAnotherPlatform(t *testing.T) {
	image := imageOf([]byte("x"))
	image.Platform = v1.Platform{OS: "linux", Architecture: "s390x"}
	f, _ := newFetcher(t, Options{})
	if im := resolve(t, f, hybridOf(t, image.Bundle(), "a:1", "a:2")); im.Platform.Architecture != "s390x" {
		t.Errorf("got %+v", im.Platform)
	}
}

func TestAHybridArchiveOfSeveralImages(t *testing.T) {
	var h hybrid
	h.add(t, imageOf([]byte("a")).Bundle(), "a:1", "a:2")
	h.add(t, imageOf([]byte("b")).Bundle(), "b:1")
	h.add(t, imageOf([]byte("c")).Bundle()) // the index does not have it
	path := h.write(t)
	f, _ := newFetcher(t, Options{})
	for ref, content := range map[string]string{":a:1": "a", ":2": "a", ":b:1": "b", ":@1": "b", ":@2": "c"} {
		checkLayers(t, f, resolve(t, f, path+ref), []byte(content))
	}
	for _, ref := range []string{"", ":1"} {
		_, err := f.Resolve(t.Context(), parse(t, path+ref))
		if !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), `"docker.io/library/a:1"`) || !strings.Contains(err.Error(), `"docker.io/library/b:1"`) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// TestAnArchiveWhoseIndexDocker25LeftEmpty has no manifests in the index, but in Docker's list.
func TestAnArchiveWhoseIndexDocker25LeftEmpty(t *testing.T) {
	path := hybridOf(t, imageOf([]byte("a")).Bundle())
	f, _ := newFetcher(t, Options{})
	im := resolve(t, f, path)
	if im.Ref.transport != "docker-archive" {
		t.Errorf("it is taken for %s", im.Ref)
	}
	checkLayers(t, f, im, []byte("a"))
	if _, err := f.Resolve(t.Context(), parse(t, "oci-archive:"+path)); !errors.Is(err, ErrNotFound) {
		t.Errorf("as a layout: %v", err)
	}
}

// TestLayersThatAreNotCompressedAreInTheOrderOfTheConfig has Docker 25.0.0's manifests, which have each layer once and in any
// order, and others, for which there is nothing that tells what belongs where.
func TestLayersThatAreNotCompressedAreInTheOrderOfTheConfig(t *testing.T) {
	a, b, c := []byte("a"), []byte("b"), []byte("c")
	f, _ := newFetcher(t, Options{})
	for _, test := range []struct {
		name   string
		config [][]byte
		layers []int // of config
		ok     bool
	}{
		{"in order", [][]byte{a, b, a}, []int{0, 1, 2}, true},
		{"in another order", [][]byte{a, b, c}, []int{2, 0, 1}, true},
		{"each once", [][]byte{a, b, a, c}, []int{3, 1, 0}, true},
		{"one is missing", [][]byte{a, b}, []int{1}, false},
		{"none", [][]byte{a}, nil, false},
	} {
		im, err := f.Resolve(t.Context(), parse(t, hybridOf(t, withLayers(t, imageOf(test.config...).Bundle(), test.layers...), "a:1")))
		if !test.ok {
			if !errors.Is(err, ErrMismatch) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		checkLayers(t, f, im, test.config...)
	}
	more := imageOf(a, b).Bundle()
	for d, content := range imageOf(a).Bundle().Blobs {
		more.Blobs[d] = content
	}
	m := manifestIn(t, more)
	m.Config = manifestIn(t, imageOf(a).Bundle()).Config
	if _, err := f.Resolve(t.Context(), parse(t, hybridOf(t, withManifest(t, more, m), "a:1"))); !errors.Is(err, ErrMismatch) {
		t.Errorf("a layer that the config does not have: %v", err)
	}
}

// withLayers returns an image with those of its layers in its manifest.
func withLayers(t testing.TB, b testimage.Bundle, layers ...int) testimage.Bundle {
	t.Helper()
	m := manifestIn(t, b)
	all := m.Layers
	m.Layers = []v1.Descriptor{}
	for _, i := range layers {
		m.Layers = append(m.Layers, all[i])
	}
	return withManifest(t, b, m)
}

// withManifest returns an image with another manifest.
func withManifest(t testing.TB, b testimage.Bundle, m v1.Manifest) testimage.Bundle {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	changed := testimage.Raw(m.MediaType, raw)
	for d, content := range b.Blobs {
		changed.Blobs[d] = content
	}
	return changed
}
