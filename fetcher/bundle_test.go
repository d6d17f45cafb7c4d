package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// bundleFrom returns the bundle of what s names: the image alone, or all of it.
func bundleFrom(t testing.TB, f *Fetcher, s string, all bool) *Bundle {
	t.Helper()
	var b *Bundle
	var err error
	if all {
		b, err = f.ResolveAll(t.Context(), parse(t, s))
	} else {
		b, err = resolve(t, f, s).Bundle()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents returns all of a bundle by digest, layers read by ReadLayer.
func contents(t testing.TB, b *Bundle) map[digest.Digest][]byte {
	t.Helper()
	all := map[digest.Digest][]byte{}
	for _, doc := range append(slices.Clone(b.Manifests), b.Configs...) {
		all[doc.Digest] = doc.Content
	}
	for _, l := range b.Layers {
		err := b.ReadLayer(t.Context(), l, func(r io.Reader) (err error) {
			all[l.Digest], err = io.ReadAll(r)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	return all
}

// everywhere returns references to a bundle in each kind of place that has its documents.
func everywhere(t testing.TB, want testimage.Bundle) map[string]string {
	t.Helper()
	r, layout := startRegistry(t), t.TempDir()
	r.Push("a", "t", want)
	tagged := testimage.Tagged{Tag: "t", Bundle: want}
	if err := testimage.WriteLayout(layout, tagged); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"a registry": r.Host() + "/a:t", "a digest": r.Host() + "/a@" + want.Root.Digest.String(),
		"a layout": "oci:" + layout + ":t", "an archive": "oci-archive:" + tarFile(t, testimage.LayoutFiles(tagged)...),
	}
}

func TestABundleIsAllThatThereIs(t *testing.T) {
	amd, arm := imageOf(noise(70_000), []byte{}), imageOf(noise(500))
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	twice := imageOf(noise(10), noise(20), noise(10))
	for name, want := range map[string]testimage.Bundle{
		"an image":           amd.Bundle(),
		"the same layer":     twice.Bundle(),
		"a nested index":     testimage.Index(amd.Bundle(), testimage.Attestation(amd.Bundle()), testimage.Index(arm.Bundle(), amd.Bundle())),
		"an empty index":     testimage.Index(),
		"a list of Docker's": testimage.DockerList(amd.Bundle(), arm.Bundle()),
	} {
		for place, ref := range everywhere(t, want) {
			f, _ := newFetcher(t, Options{})
			b := bundleFrom(t, f, ref, true)
			if diff := cmp.Diff(want.Blobs, contents(t, b)); diff != "" {
				t.Errorf("%s in %s: %s", name, place, diff)
			}
			root := b.Root()
			if root.Digest != want.Root.Digest || root.MediaType != want.Root.MediaType || root.Size != want.Root.Size {
				t.Errorf("%s in %s is the %s %s of %d bytes", name, place, root.MediaType, root.Digest, root.Size)
			}
			if b.From.String() != parse(t, ref).String() {
				t.Errorf("%s in %s is from %s", name, place, b.From)
			}
			if _, err := NewBundle(b.Manifests, b.Configs, b.Open); err != nil {
				t.Errorf("%s in %s, once more: %v", name, place, err)
			}
		}
	}
}

func TestBundlesThatAreRefused(t *testing.T) {
	image := imageOf(noise(100))
	good := image.Bundle()
	lacks := func(d digest.Digest) testimage.Bundle {
		b := testimage.Index(image.Bundle())
		delete(b.Blobs, d)
		return b
	}
	deep := good
	for range maxDepth + 1 {
		deep = testimage.Index(deep)
	}
	var many []testimage.Bundle
	for i := range maxAllDocuments {
		many = append(many, imageOf([]byte{byte(i), byte(i >> 8)}).Bundle())
	}
	wrongSize := good
	wrongSize.Root.Size++
	var m v1.Manifest
	if err := json.Unmarshal(good.Blobs[good.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		bundle testimage.Bundle
		kind   error
	}{
		"a manifest is missing":   {lacks(good.Root.Digest), ErrNotFound},
		"a config is missing":     {lacks(m.Config.Digest), ErrNotFound},
		"nested too deep":         {deep, ErrMalformed},
		"too many":                {testimage.Index(many...), ErrMalformed},
		"of another size":         {testimage.Index(wrongSize), ErrMismatch},
		"of schema 1":             {testimage.Schema1(false, testimage.Step{Layer: noise(10)}), errors.ErrUnsupported},
		"a config without digest": {testimage.Raw(v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{"digest":"x"}}`)), ErrMalformed},
		"a negative size":         {testimage.Raw(v1.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"digest":%q,"size":-1}]}`, good.Root.Digest)), ErrMalformed},
		"something else below it": {testimage.Index(testimage.Raw("application/x", []byte(`{"mediaType":"application/x","config":{}}`))), errors.ErrUnsupported},
	} {
		r := startRegistry(t)
		r.Push("a", "t", test.bundle)
		f, _ := newFetcher(t, Options{})
		if _, err := f.ResolveAll(t.Context(), parse(t, r.Host()+"/a:t")); !errors.Is(err, test.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABundleOfNewDocumentsRefersToNothingElse(t *testing.T) {
	layer := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString("layer"), Size: 5}
	open := func(context.Context, v1.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("layer")), nil
	}
	document := func(mediaType string, v any) Text {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return Text{v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b}
	}
	config := document(v1.MediaTypeImageConfig, v1.Image{})
	manifest := document(v1.MediaTypeImageManifest, v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config.Descriptor, Layers: []v1.Descriptor{layer}})
	index := document(v1.MediaTypeImageIndex, v1.Index{Manifests: []v1.Descriptor{manifest.Descriptor}})
	if b, err := NewBundle([]Text{manifest, index}, []Text{config}, open); err != nil || len(b.Layers) != 1 || b.Root().Digest != index.Digest {
		t.Errorf("%+v, %v", b, err)
	}
	other := layer
	other.Size++
	lying := document(v1.MediaTypeImageManifest, v1.Manifest{Config: config.Descriptor, Layers: []v1.Descriptor{other}})
	for name, test := range map[string]struct {
		manifests, configs []Text
		kind               error
	}{
		"no config":              {[]Text{manifest}, nil, ErrMalformed},
		"an index before it":     {[]Text{index, manifest}, []Text{config}, ErrMalformed},
		"two sizes of one layer": {[]Text{manifest, lying}, []Text{config}, ErrMismatch},
		"no manifest":            {nil, []Text{config}, ErrMalformed},
		"a config as a manifest": {[]Text{config}, nil, ErrMalformed},
	} {
		if _, err := NewBundle(test.manifests, test.configs, open); !errors.Is(err, test.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheLastBytesOfALayerComeWhenAllAreRight(t *testing.T) {
	content := noise(10_000)
	layer := v1.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	wrong := slices.Clone(content)
	wrong[7] ^= 1
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		source io.Reader
		kind   error
	}{
		"all right":      {bytes.NewReader(content), nil},
		"one bit":        {bytes.NewReader(wrong), ErrMismatch},
		"too few":        {bytes.NewReader(content[1:]), ErrMismatch},
		"too many":       {bytes.NewReader(append(slices.Clone(content), 0)), ErrMismatch},
		"nothing":        {bytes.NewReader(nil), ErrMismatch},
		"an error":       {io.MultiReader(bytes.NewReader(content[:50]), errorReader{broken}), broken},
		"one at the end": {io.MultiReader(bytes.NewReader(content), errorReader{broken}), broken},
	} {
		b := &Bundle{Open: func(context.Context, v1.Descriptor) (io.ReadCloser, error) { return io.NopCloser(test.source), nil }}
		var got []byte
		err := b.ReadLayer(t.Context(), layer, func(r io.Reader) (err error) {
			got, err = io.ReadAll(r)
			return err
		})
		if !errors.Is(err, test.kind) || test.kind == nil && !bytes.Equal(got, content) || test.kind != nil && len(got) >= len(content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	b := &Bundle{Open: func(context.Context, v1.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
	if err := b.ReadLayer(t.Context(), layer, func(io.Reader) error { return nil }); err == nil {
		t.Error("who has not read the layer is told nothing")
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestWrongBytesAreReadAnewAsLongAsThereAreOthers(t *testing.T) {
	layer := v1.Descriptor{Digest: digest.FromString("right"), Size: 5}
	opened := 0
	b := &Bundle{
		Open: func(context.Context, v1.Descriptor) (io.ReadCloser, error) {
			opened++
			return io.NopCloser(strings.NewReader([]string{"wrong", "other", "right"}[opened-1])), nil
		},
		Doubt: func(v1.Descriptor) bool { return opened < 3 },
	}
	var got []byte
	err := b.ReadLayer(t.Context(), layer, func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	if err != nil || string(got) != "right" || opened != 3 {
		t.Errorf("%q, %v, opened %d times", got, err, opened)
	}
}

func TestAnImageOfSchema1BecomesOneOfOCI(t *testing.T) {
	base, top := noise(300), noise(200)
	r := startRegistry(t)
	r.Push("a", "t", testimage.Schema1(true, testimage.Step{Command: "base", Layer: base}, testimage.Step{Command: "env", Layer: noise(1), ThrowAway: true},
		testimage.Step{Command: "top", Layer: top}))
	f, _ := newFetcher(t, Options{})
	im := resolve(t, f, r.Host()+"/a:t")
	if _, err := im.Bundle(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("as it is: %v", err)
	}
	if _, err := im.WithDiffIDs([]digest.Digest{digest.FromString("one")}); err == nil {
		t.Error("one diff ID for two layers")
	}
	diffIDs := []digest.Digest{digest.FromString("base"), digest.FromString("top")}
	made, err := im.WithDiffIDs(diffIDs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := made.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	all := contents(t, b)
	if len(all) != 4 || !bytes.Equal(all[digest.FromBytes(base)], base) || !bytes.Equal(all[digest.FromBytes(top)], top) {
		t.Errorf("%d blobs", len(all))
	}
	r.Push("b", "t", testimage.Raw(b.Root().MediaType, b.Root().Content, b.Configs[0].Content, base, top))
	again := resolve(t, f, r.Host()+"/b:t")
	if again.Layers[0].DiffID != diffIDs[0] || again.Layers[1].DiffID != diffIDs[1] || again.ConfigDigest != made.ConfigDigest || again.Digest != made.Digest {
		t.Errorf("read back it is %+v", again)
	}
	var config v1.Image
	if err := json.Unmarshal(again.Config, &config); err != nil || len(config.History) != 3 || !slices.Equal(config.Config.Env, []string{"A=b"}) {
		t.Errorf("the config is %s (%v)", again.Config, err)
	}
}
