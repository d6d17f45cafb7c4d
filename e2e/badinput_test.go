package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

func layerOf(entries ...testimage.Entry) testimage.Layer {
	tar := testimage.Tar(entries...)
	return testimage.NewLayer(testimage.Gzip(tar), tar)
}

// tiny is the least image with something in it.
func tiny() testimage.Image {
	return testimage.Image{Layers: []testimage.Layer{layerOf(testimage.File("file", "content"), testimage.File("big", strings.Repeat("0123456789", 1000)))}}
}

func writeLayout(t testing.TB, dir string, b testimage.Bundle) {
	t.Helper()
	if err := testimage.WriteLayout(dir, testimage.Tagged{Tag: "v1", Bundle: b}); err != nil {
		t.Fatal(err)
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// TestBadImagesAreRefusedByName mounts images with one thing wrong each. The
// host's own check sees to it that nothing is left behind; nothing of a
// blob that is not what it should be may be in the cache either.
func TestBadImagesAreRefusedByName(t *testing.T) {
	good := tiny().Layers[0]
	blob := digest.FromBytes(good.Blob)
	other := digest.FromString("something else")
	manifest := tiny().Bundle().Root.Digest
	rest := slices.DeleteFunc(tiny().Bundle().Digests(), func(d digest.Digest) bool { return d == blob || d == manifest })
	config := rest[0]
	wrongDiffID := testimage.Image{Layers: []testimage.Layer{{Blob: good.Blob, DiffID: other}}}
	broken := testimage.NewLayer(good.Blob[:len(good.Blob)-9], nil)
	broken.DiffID = good.DiffID
	tests := []struct {
		name  string
		image testimage.Image
		spoil func(t *testing.T, layout string)
		code  int
		say   []string
	}{
		{"a corrupt layer blob", tiny(), func(t *testing.T, layout string) {
			rewrite(t, testimage.BlobPath(layout, blob), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, 5, []string{blob.String()}},
		{"a short layer blob", tiny(), func(t *testing.T, layout string) {
			rewrite(t, testimage.BlobPath(layout, blob), func(b []byte) []byte { return b[:len(b)-1] })
		}, 5, []string{blob.String()}},
		{"a long layer blob", tiny(), func(t *testing.T, layout string) {
			rewrite(t, testimage.BlobPath(layout, blob), func(b []byte) []byte { return append(b, 0) })
		}, 5, []string{blob.String()}},
		{"a missing layer blob", tiny(), func(t *testing.T, layout string) {
			remove(t, testimage.BlobPath(layout, blob))
		}, 2, []string{blob.Encoded()}},
		{"a corrupt config", tiny(), func(t *testing.T, layout string) {
			rewrite(t, testimage.BlobPath(layout, config), func(b []byte) []byte { return bytes.Replace(b, []byte("linux"), []byte("LINUX"), 1) })
		}, 5, []string{config.String()}},
		{"a corrupt manifest", tiny(), func(t *testing.T, layout string) {
			rewrite(t, testimage.BlobPath(layout, manifest), func(b []byte) []byte { return bytes.Replace(b, []byte("2"), []byte("3"), 1) })
		}, 5, []string{manifest.String()}},
		{"a wrong diff ID", wrongDiffID, nil, 5, []string{blob.String(), other.String(), good.DiffID.String()}},
		{"a truncated gzip stream", testimage.Image{Layers: []testimage.Layer{broken}}, nil, 5,
			[]string{digest.FromBytes(broken.Blob).String()}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h, layout := newHost(t), t.TempDir()
			writeLayout(t, layout, test.image.Bundle())
			if test.spoil != nil {
				test.spoil(t, layout)
			}
			dir := h.mkdir(t)
			h.fails(t, test.code, test.say, "mount", "oci:"+layout+":v1", dir)
			h.fails(t, test.code, test.say, "mount", "-f", "oci:"+layout+":v1", dir)
			if left := h.cachedLayers(t); len(left) > 0 {
				t.Errorf("the cache has %q", left)
			}
		})
	}
}

// TestAMalformedLayerIsRefusedByEntry mounts a layer that is what its digests
// say, but cannot be unpacked.
func TestAMalformedLayerIsRefusedByEntry(t *testing.T) {
	h, layout := newHost(t), t.TempDir()
	layer := layerOf(testimage.File("fine", "x"), testimage.Link("etc/hard", "no/target"))
	writeLayout(t, layout, testimage.Image{Layers: []testimage.Layer{layer}}.Bundle())
	h.fails(t, 5, []string{digest.FromBytes(layer.Blob).String(), "etc/hard"}, "mount", "oci:"+layout+":v1", h.mkdir(t))
}

// cachedLayers lists what the cache keeps of layers.
func (h *host) cachedLayers(t *testing.T) []string {
	t.Helper()
	return append(filesBelow(t, filepath.Join(h.cache(), "blobs")), filesBelow(t, filepath.Join(h.cache(), "indexes"))...)
}

// TestABadLayerFromARegistryIsRefused does the same over HTTP, where a layer
// is streamed into the cache while it is checked.
func TestABadLayerFromARegistryIsRefused(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	bundle := tiny().Bundle()
	blob := digest.FromBytes(tiny().Layers[0].Blob)
	ref := r.Host() + "/test/small:v1"
	tests := []struct {
		name  string
		spoil func()
		code  int
	}{
		{"a corrupt blob", func() {
			b := slices.Clone(bundle.Blobs[blob])
			b[len(b)/2] ^= 1
			r.Replace("test/small", blob, b)
		}, 5},
		{"a missing blob", func() { r.Remove("test/small", blob) }, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r.Push("test/small", "v1", bundle)
			test.spoil()
			h := newHost(t)
			h.fails(t, test.code, []string{blob.String()}, "mount", ref, h.mkdir(t))
			if left := h.cachedLayers(t); len(left) > 0 {
				t.Errorf("the cache has %q", left)
			}
		})
	}
}

func rewrite(t *testing.T, name string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// TestBadCommandLinesAndPlaces is the table of the rest: exit codes, and what
// the message has to name.
func TestBadCommandLinesAndPlaces(t *testing.T) {
	h := newHost(t)
	registry, good := get(t, theRegistry), small(t)
	im := get(t, theImages).PAXTar()
	full, empty := h.mkdir(t), h.mkdir(t)
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := h.mount(t, good)
	tests := []struct {
		name string
		code int
		say  []string
		args []string
	}{
		{"a missing tag", 2, []string{"nosuchtag"}, []string{"mount", registry.Addr + "/test/" + im.Name + ":nosuchtag", empty}},
		{"a missing image", 2, []string{"test/nothing"}, []string{"mount", registry.Addr + "/test/nothing:v1", empty}},
		{"a missing digest", 2, []string{digest.FromString("x").String()},
			[]string{"mount", registry.Addr + "/test/" + im.Name + "@" + digest.FromString("x").String(), empty}},
		{"a missing layout", 2, []string{"/no/such/layout"}, []string{"mount", "oci:/no/such/layout:v1", empty}},
		{"a missing tag of a layout", 2, []string{"nosuchtag"}, []string{"mount", "oci:" + im.Layout + ":nosuchtag", empty}},
		{"a missing platform", 2, []string{"linux/s390x"}, []string{"mount", "--platform", "linux/s390x", good, empty}},
		{"a platform that is none", 3, []string{"nonsense"}, []string{"mount", "--platform", "nonsense", good, empty}},
		{"an unknown flag", 3, []string{"--no-such-flag"}, []string{"mount", "--no-such-flag", good, empty}},
		{"an unknown command", 3, []string{"nosuchcommand"}, []string{"nosuchcommand"}},
		{"too few arguments", 3, []string{"imgfs mount --help"}, []string{"mount"}},
		{"a reference that is none", 3, []string{"UPPER/Case"}, []string{"mount", "UPPER/Case", empty}},
		{"a transport of another tool", 3, []string{"docker-daemon", "docker-archive:FILE"}, []string{"mount", "docker-daemon:x:1", empty}},
		{"a missing archive", 2, []string{"/no/such.tar"}, []string{"mount", "docker-archive:/no/such.tar", empty}},
		{"an archive that is none", 5, []string{"/etc/hostname", "not a tar"}, []string{"mount", "oci-archive:/etc/hostname", empty}},
		{"a path to what is no image", 3, []string{"/etc/hostname", "not an image"}, []string{"mount", "/etc/hostname", empty}},
		{"a log level that is none", 3, []string{"loud"}, []string{"--log-level", "loud", "ps"}},
		{"a non-empty mountpoint", 6, []string{full}, []string{"mount", good, full}},
		{"a busy mountpoint", 6, []string{mounted}, []string{"mount", good, mounted}},
		{"a mountpoint that is a file", 6, []string{full}, []string{"mount", good, filepath.Join(full, "file")}},
		{"a mountpoint that is not there", 6, []string{h.path("missing")}, []string{"mount", good, h.path("missing")}},
		{"an unmount of what is not mounted", 6, []string{empty}, []string{"umount", empty}},
		{"nothing cached and offline", 2, []string{"offline"}, []string{"mount", "--offline", registry.Addr + "/test/x:v1", empty}},
		{"a registry that is not there", 1, []string{"127.0.0.1:1"}, []string{"mount", "127.0.0.1:1/test/x:v1", empty}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { h.fails(t, test.code, test.say, test.args...) })
	}
}
