package fetcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// places puts a bundle into a registry and into a layout, and returns their references.
func places(t testing.TB, b testimage.Bundle) map[string]string {
	t.Helper()
	r := startRegistry(t)
	r.Push("a/b", "t", b)
	dir := t.TempDir()
	if err := testimage.WriteLayout(dir, testimage.Tagged{Tag: "t", Bundle: b}); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"registry tag":    r.Host() + "/a/b:t",
		"registry digest": r.Host() + "/a/b@" + b.Root.Digest.String(),
		"layout tag":      "oci:" + dir + ":t",
		"layout":          "oci:" + dir,
		"layout digest":   "oci:" + dir + "@" + b.Root.Digest.String(),
	}
}

func onPlatform(im testimage.Image, platform string) testimage.Bundle {
	p := strings.Split(platform+"/", "/")
	im.Platform = v1.Platform{OS: p[0], Architecture: p[1], Variant: p[2]}
	return im.Bundle()
}

func TestAnImageResolvesToItsDocuments(t *testing.T) {
	for _, dialect := range []struct {
		docker   bool
		manifest string
		layer    string
	}{
		{false, v1.MediaTypeImageManifest, v1.MediaTypeImageLayerGzip},
		{true, dockerManifest, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
	} {
		im := imageOf([]byte("one"), []byte("two"), nil)
		im.Docker = dialect.docker
		b := im.Bundle()
		for place, ref := range places(t, b) {
			f, _ := newFetcher(t, Options{})
			got := resolve(t, f, ref)
			if got.Digest != b.Root.Digest || got.ManifestDigest != b.Root.Digest || got.MediaType != dialect.manifest {
				t.Errorf("%s: %s %s %s", place, got.Digest, got.ManifestDigest, got.MediaType)
			}
			if !bytes.Equal(got.Manifest, b.Blobs[b.Root.Digest]) || !bytes.Equal(got.Config, b.Blobs[got.ConfigDigest]) {
				t.Errorf("%s: documents are not those of the image", place)
			}
			if got.Platform.OS != "linux" || got.Platform.Architecture != "amd64" {
				t.Errorf("%s: platform is %v", place, got.Platform)
			}
			for i, want := range im.Layers {
				d := digest.FromBytes(want.Blob)
				if l := got.Layers[i]; !cmp.Equal(l, Layer{Digest: d, MediaType: dialect.layer, Size: int64(len(want.Blob)), DiffID: d}) {
					t.Errorf("%s: layer %d is %+v", place, i, l)
				}
			}
		}
	}
}

// What a layer is compressed with is seen when it is read: programs write all of these, and now and then the wrong one.
func TestTheCompressionThatAnImageTellsOfALayerDoesNotMatter(t *testing.T) {
	types := []string{
		v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd,
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.example.tar+xz",
	}
	for _, docker := range []bool{false, true} {
		im := imageOf(make([][]byte, len(types))...)
		im.Docker = docker
		for i := range types {
			im.Layers[i].MediaType = types[i]
		}
		for place, ref := range places(t, im.Bundle()) {
			f, _ := newFetcher(t, Options{})
			for i, l := range resolve(t, f, ref).Layers {
				if want := types[i]; l.MediaType != want {
					t.Errorf("%s: a layer of type %q is told to be of type %q", place, want, l.MediaType)
				}
			}
		}
	}
}

func TestAnIndexResolvesToThePlatform(t *testing.T) {
	image := func(platform string) testimage.Bundle { return onPlatform(imageOf([]byte(platform)), platform) }
	amd, arm64, v7, v6 := image("linux/amd64"), image("linux/arm64/v8"), image("linux/arm/v7"), image("linux/arm/v6")
	amd3 := image("linux/amd64/v3")
	bare := image("linux/riscv64")
	bare.Root.Platform = nil
	flat := testimage.Index(testimage.Attestation(amd), amd, arm64, v7, v6, testimage.Attestation(arm64))
	nested := testimage.Index(testimage.DockerList(v6, v7), testimage.Index(testimage.Index(amd3, amd)))
	tests := []struct {
		name     string
		index    testimage.Bundle
		platform string
		want     testimage.Bundle
	}{
		{"flat", flat, "linux/amd64", amd},
		{"flat", flat, "linux/arm64", arm64},
		{"flat", flat, "linux/arm64/v8", arm64},
		{"flat", flat, "linux/aarch64", arm64},
		{"flat", flat, "linux/arm", v7},
		{"flat", flat, "linux/arm/v6", v6},
		{"flat", flat, "linux/arm/v8", v7},
		{"flat", flat, "linux/amd64/v3", amd},
		{"Docker's list", testimage.DockerList(arm64, amd), "linux/amd64", amd},
		{"nested", nested, "linux/amd64", amd},
		{"nested", nested, "linux/amd64/v4", amd3},
		{"nested", nested, "linux/arm64", v7},
		{"platform only in the config", testimage.Index(amd, bare), "linux/riscv64", bare},
		{"one image and the platform asked for", amd, "linux/amd64", amd},
	}
	for _, test := range tests {
		for place, ref := range places(t, test.index) {
			f, _ := newFetcher(t, Options{Platform: test.platform})
			got := resolve(t, f, ref)
			if got.ManifestDigest != test.want.Root.Digest || got.Digest != test.index.Root.Digest {
				t.Errorf("%s, %s for %s: got %v", test.name, place, test.platform, platformString(got.Platform))
			}
		}
	}
}

func TestAPlatformThatIsNotThereIsAnErrorThatListsWhatIs(t *testing.T) {
	amd, arm := onPlatform(imageOf(nil), "linux/amd64"), onPlatform(imageOf([]byte("x")), "linux/arm64/v8")
	signature := testimage.Raw(v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json"}}`))
	for _, b := range []testimage.Bundle{testimage.Index(amd, testimage.Attestation(amd), testimage.Index(arm)), testimage.Index(amd, signature, arm)} {
		for place, ref := range places(t, b) {
			f, _ := newFetcher(t, Options{Platform: "windows/amd64"})
			_, err := f.Resolve(t.Context(), parse(t, ref))
			var e *PlatformError
			if !errors.Is(err, ErrNotFound) || !errors.As(err, &e) || fmt.Sprint(e.Have) != "[linux/amd64 linux/arm64/v8]" {
				t.Errorf("%s: %v", place, err)
			}
		}
	}
	for place, ref := range places(t, arm) {
		f, _ := newFetcher(t, Options{})
		resolve(t, f, ref) // nobody asked for a platform
		f, _ = newFetcher(t, Options{Platform: "linux/s390x"})
		if _, err := f.Resolve(t.Context(), parse(t, ref)); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", place, err)
		}
	}
}

func TestALayoutOfSeveralPlatformsUnderOneNameIsAnIndex(t *testing.T) {
	dir := t.TempDir()
	amd, arm := onPlatform(imageOf(nil), "linux/amd64"), onPlatform(imageOf(nil), "linux/arm64")
	if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: amd}, testimage.Tagged{Bundle: arm}); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, Options{Platform: "linux/arm64"})
	if im := resolve(t, f, "oci:"+dir); im.Digest != arm.Root.Digest {
		t.Errorf("got %v", im.Platform)
	}
}

// document returns a manifest as JSON after change has been at it.
func document(t testing.TB, b testimage.Bundle, change func(m map[string]any)) []byte {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(b.Blobs[b.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDocumentsThatAreRefused(t *testing.T) {
	content := []byte("layer")
	im := imageOf(content)
	good := im.Bundle()
	config := good.Blobs[resolveConfig(t, good)]
	altered := func(change func(m map[string]any)) testimage.Bundle {
		return testimage.Raw(v1.MediaTypeImageManifest, document(t, good, change), config, content)
	}
	withConfig := func(config string) testimage.Bundle {
		return testimage.Raw(v1.MediaTypeImageManifest, document(t, good, func(m map[string]any) {
			d := m["config"].(map[string]any)
			d["digest"], d["size"] = digest.FromString(config), len(config)
		}), []byte(config), content)
	}
	deep := testimage.Index(good)
	for range maxDepth {
		deep = testimage.Index(deep)
	}
	miscalled, inverse := good, testimage.Index(good)
	miscalled.Root.MediaType, inverse.Root.MediaType = v1.MediaTypeImageIndex, v1.MediaTypeImageManifest
	many := make([]testimage.Bundle, maxDocuments+1)
	for i := range many {
		many[i] = testimage.Index(onPlatform(imageOf([]byte{byte(i)}), "linux/mips"))
	}
	tests := []struct {
		name   string
		bundle testimage.Bundle
		kind   error
		says   string
	}{
		{"schema 1", testimage.Raw(testimage.DockerSchema1, []byte(`{"schemaVersion":1,"fsLayers":[],"history":[]}`)), ErrMalformed, "0 layers and 0 steps"},
		{"schema 1 and an image at once", altered(func(m map[string]any) { m["schemaVersion"], m["fsLayers"] = 1, []any{} }), ErrMalformed, "schema 1"},
		{"no JSON", testimage.Raw(v1.MediaTypeImageManifest, []byte("<html>")), ErrMalformed, "not valid"},
		{"nothing in it", testimage.Raw(v1.MediaTypeImageManifest, []byte(`{}`)), ErrMalformed, "neither"},
		{"image and index at once", altered(func(m map[string]any) { m["manifests"] = []any{} }), ErrMalformed, "neither"},
		{"an image that says it is an index", altered(func(m map[string]any) { m["mediaType"] = v1.MediaTypeImageIndex }), ErrMalformed, "other content"},
		{"another media type", altered(func(m map[string]any) { m["mediaType"] = "text/html" }), errors.ErrUnsupported, "text/html"},
		{"an artifact", altered(func(m map[string]any) {
			m["config"].(map[string]any)["mediaType"] = "application/vnd.oci.empty.v1+json"
			m["artifactType"] = "application/vnd.example.thing"
		}), errors.ErrUnsupported, "artifact (application/vnd.example.thing)"},
		{"an artifact without a config", altered(func(m map[string]any) { delete(m, "config"); m["artifactType"] = "application/vnd.example.thing" }),
			errors.ErrUnsupported, "artifact (application/vnd.example.thing)"},
		{"an artifact manifest", testimage.Raw("application/vnd.oci.artifact.manifest.v1+json", []byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}`)),
			errors.ErrUnsupported, "not an image"},
		{"no config", altered(func(m map[string]any) { delete(m, "config") }), ErrMalformed, "no config"},
		{"a layer too many", altered(func(m map[string]any) { m["layers"] = append(m["layers"].([]any), m["layers"].([]any)...) }), ErrMismatch, "number of layers"},
		{"a negative size", altered(func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = -1 }), ErrMalformed, "size -1"},
		{"a layer's digest is a path", altered(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["digest"] = "sha256:../../../etc/passwd"
		}), ErrMalformed, "digest"},
		{"a config's digest is a path", altered(func(m map[string]any) { m["config"].(map[string]any)["digest"] = "../x" }), ErrMalformed, "digest"},
		{"a config of another size", altered(func(m map[string]any) { m["config"].(map[string]any)["size"] = 7 }), ErrMismatch, "expected 7"},
		{"a layer that is a document", altered(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["mediaType"] = "application/vnd.in-toto+json"
		}), errors.ErrUnsupported, "not a tar"},
		{"a config that is no JSON", withConfig("}"), ErrMalformed, "config"},
		{"a diff ID that is none", withConfig(`{"rootfs":{"diff_ids":["x"]}}`), ErrMalformed, "diff ID"},
		{"no diff IDs", withConfig(`{}`), ErrMismatch, "expected 0"},
		{"a large config", withConfig(`{"x":"` + strings.Repeat("x", maxConfig) + `"}`), ErrMalformed, "larger than 8 MiB"},
		{"a large manifest", altered(func(m map[string]any) { m["x"] = strings.Repeat("x", maxManifest) }), ErrMalformed, "larger than 4 MiB"},
		{"an image that the index calls an index", testimage.Index(miscalled), ErrMalformed, "is an image"},
		{"an index that the index calls an image", testimage.Index(inverse), ErrMalformed, "is an index"},
		{"an index too deep", deep, ErrMalformed, "nested deeper"},
		{"an index of too much", testimage.Index(many...), ErrMalformed, "more than 64"},
		{"an empty index", testimage.Index(), ErrNotFound, "for any platform"},
	}
	for _, test := range tests {
		for place, ref := range places(t, test.bundle) {
			f, _ := newFetcher(t, Options{})
			_, err := f.Resolve(t.Context(), parse(t, ref))
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, %s: %v", test.name, place, err)
			}
		}
	}
}

func resolveConfig(t testing.TB, b testimage.Bundle) digest.Digest {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(b.Blobs[b.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	return m.Config.Digest
}

func TestDocumentsThatAreNotWhatTheirDigestSays(t *testing.T) {
	b := testimage.Index(imageOf([]byte("x")).Bundle())
	for _, d := range b.Digests() {
		if string(b.Blobs[d]) == "x" {
			continue
		}
		r := startRegistry(t)
		r.Push("a", "t", b)
		r.Replace("a", d, append([]byte(" "), b.Blobs[d]...))
		f, _ := newFetcher(t, Options{Platform: "linux/amd64", Store: newMemory()})
		for _, ref := range []string{":t", "@" + b.Root.Digest.String()} {
			_, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a"+ref))
			var e *MismatchError
			if !errors.Is(err, ErrMismatch) || !errors.As(err, &e) || e.Expected != d.String() {
				t.Errorf("%s altered: %v", d, err)
			}
		}
	}
}

func TestTheVersionOfALayoutIsASmallFile(t *testing.T) {
	dir := t.TempDir()
	if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: imageOf(nil).Bundle()}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/"+v1.ImageLayoutFile, `{"imageLayoutVersion":"1.0.0"}`+strings.Repeat(" ", maxLayoutFile), 0o644)
	f, _ := newFetcher(t, Options{})
	if _, err := f.Resolve(t.Context(), parse(t, "oci:"+dir)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "larger than 4 KiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestDigestsMayBeSHA512(t *testing.T) {
	im := imageOf([]byte("x"))
	im.Algorithm = digest.SHA512
	for place, ref := range places(t, im.Bundle()) {
		f, _ := newFetcher(t, Options{})
		got := resolve(t, f, ref)
		if got.ConfigDigest.Algorithm() != digest.SHA512 || got.Layers[0].Digest != digest.SHA512.FromString("x") {
			t.Errorf("%s: %s %s", place, got.ConfigDigest, got.Layers[0].Digest)
		}
	}
}

func TestWhatIsInTheStoreIsNotFetched(t *testing.T) {
	r := startRegistry(t)
	b := testimage.Index(imageOf([]byte("x")).Bundle())
	r.Push("a", "t", b)
	store := newMemory()
	online, _ := newFetcher(t, Options{Platform: "linux/amd64", Store: store})
	offline, _ := newFetcher(t, Options{Platform: "linux/amd64", Store: store, Offline: true})
	tag, fixed := r.Host()+"/a:t", r.Host()+"/a@"+b.Root.Digest.String()

	for _, ref := range []string{tag, fixed} {
		if _, err := offline.Resolve(t.Context(), parse(t, ref)); !errors.Is(err, ErrOffline) || !errors.Is(err, ErrNotFound) {
			t.Errorf("%s offline, with nothing in the store: %v", ref, err)
		}
	}
	resolve(t, online, tag)
	r.ForgetRequests()
	resolve(t, online, fixed)
	resolve(t, offline, fixed)
	if im := resolve(t, offline, tag); im.Digest != b.Root.Digest {
		t.Errorf("offline the tag names %s", im.Digest)
	}
	if got := r.Requests(nil); len(got) != 0 {
		t.Errorf("requests for what is in the store: %v", got)
	}
	resolve(t, online, tag)
	if got := r.Requests(func(q testimage.Request) bool { return q.Path != "/v2/" }); len(got) != 1 {
		t.Errorf("a tag is resolved by %v, want one request", got)
	}
}

// counting is a Store that counts what is put into it.
type counting struct {
	*memory
	puts int
}

func (c *counting) PutDocument(d digest.Digest, b []byte) error {
	c.puts++
	return c.memory.PutDocument(d, b)
}

func (c *counting) PutTag(ref string, d digest.Digest, mediaType string) error {
	c.puts++
	return c.memory.PutTag(ref, d, mediaType)
}

func TestATagThatNamesWhatIsStoredIsResolvedWithoutADocument(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf([]byte("x")).Bundle())
	next := imageOf([]byte("y")).Bundle()
	store := &counting{memory: newMemory()}
	f, c := newFetcher(t, Options{Store: store})
	resolved := func(puts int, methods string) {
		t.Helper()
		r.ForgetRequests()
		store.puts = 0
		resolve(t, f, r.Host()+"/a:t")
		var got string
		for _, q := range r.Requests(func(q testimage.Request) bool { return strings.HasSuffix(q.Path, "/manifests/t") }) {
			got += q.Method + " "
		}
		if store.puts != puts || got != methods {
			t.Errorf("requests: %s; %d times something was put into the store; want %s and %d", got, store.puts, methods, puts)
		}
	}
	resolved(3, "HEAD GET ") // manifest, config, tag
	resolved(0, "HEAD ")
	r.Push("a", "t", next)
	resolved(3, "HEAD GET ")
	for _, status := range []int{404, 405} {
		r.Inject(testimage.Fault{On: testimage.Manifests, Kind: testimage.Refuse, Status: status, Times: 1})
		resolved(0, "HEAD GET ")
	}
	r.Inject(testimage.Fault{On: testimage.Manifests, Kind: testimage.Refuse, Status: 429, RetryAfter: "7", Times: 1})
	resolved(0, "HEAD GET ")
	if c.total() != 7*time.Second {
		t.Errorf("Retry-After of 7 s: waited %v", c.total())
	}
}

func TestAStoreThatHasOtherBytesIsNotBelieved(t *testing.T) {
	r := startRegistry(t)
	b := imageOf([]byte("x")).Bundle()
	r.Push("a", "t", b)
	store := newMemory()
	for d := range b.Blobs {
		store.docs[d] = []byte("{}")
	}
	f, _ := newFetcher(t, Options{Store: store})
	if im := resolve(t, f, r.Host()+"/a@"+b.Root.Digest.String()); len(im.Layers) != 1 {
		t.Errorf("got %v", im.Layers)
	}
}

func TestWhatIsMissingIsNotFound(t *testing.T) {
	r := startRegistry(t)
	b := imageOf([]byte("x")).Bundle()
	r.Push("a", "t", b)
	r.Push("noconfig", "t", b)
	r.Remove("noconfig", resolveConfig(t, b))
	f, c := newFetcher(t, Options{})
	for _, ref := range []string{"/a:u", "/nosuch:t", "/a@" + sum, "/noconfig:t"} {
		_, err := f.Resolve(t.Context(), parse(t, r.Host()+ref))
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), r.Host()+strings.TrimRight(ref, "t")[:4]) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if c.total() != 0 {
		t.Errorf("what is not there was asked for again")
	}
}
