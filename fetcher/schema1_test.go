package fetcher

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

var oldSteps = []testimage.Step{
	{Command: "ADD base", Layer: []byte("base")},
	{Command: "ENV a", Layer: []byte("empty"), ThrowAway: true},
	{Command: "RUN x", Layer: []byte("x")},
	{Command: "RUN x again", Layer: []byte("x")},
	{Command: "CMD", Layer: []byte("empty"), ThrowAway: true},
}

func TestSchema1IsAnImageWithAConfigOfItsHistory(t *testing.T) {
	for _, signed := range []bool{false, true} {
		b := testimage.Schema1(signed, oldSteps...)
		r := startRegistry(t)
		r.Push("a", "t", b)
		for name, ref := range map[string]string{
			"tag": r.Host() + "/a:t", "digest": r.Host() + "/a@" + b.Root.Digest.String(), "skopeo": "dir:" + skopeoCopy(t, b),
		} {
			f, _ := newFetcher(t, Options{Platform: "linux/amd64"})
			im := resolve(t, f, ref)
			if im.Digest != b.Root.Digest || digest.FromBytes(im.Manifest) != b.Root.Digest || im.MediaType != dockerSchema1 || im.ConfigDigest != digest.FromBytes(im.Config) {
				t.Errorf("%s, signed %v: %s %s %s", name, signed, im.Digest, im.MediaType, im.Manifest)
			}
			checkLayers(t, f, im, []byte("base"), []byte("x"), []byte("x"))
			var config struct {
				v1.Image
				ID, Parent string
			}
			if err := json.Unmarshal(im.Config, &config); err != nil {
				t.Fatal(err)
			}
			var history []string
			for _, h := range config.History {
				history = append(history, fmt.Sprintf("%s %s %v", h.Created.Format("05"), h.CreatedBy, h.EmptyLayer))
			}
			want := []string{"00 /bin/sh -c ADD base false", "01 /bin/sh -c ENV a true", "02 /bin/sh -c RUN x false",
				"03 /bin/sh -c RUN x again false", "04 /bin/sh -c CMD true"}
			if !slices.Equal(history, want) || config.ID != "" || config.Parent != "" || !slices.Equal(config.Config.Env, []string{"A=b"}) ||
				config.OS != "linux" || config.Architecture != "amd64" || config.RootFS.Type != "layers" || im.Layers[0].DiffID != "" {
				t.Errorf("%s, signed %v: the config is %s", name, signed, im.Config)
			}
		}
	}
}

func TestSchema1IsResolvedOfflineOnceItsLayersAreKnown(t *testing.T) {
	b := testimage.Schema1(true, oldSteps...)
	r := startRegistry(t)
	r.Push("a", "t", b)
	store := newMemory()
	online, _ := newFetcher(t, Options{Store: store})
	im := resolve(t, online, r.Host()+"/a:t")
	offline, _ := newFetcher(t, Options{Store: store, Offline: true})
	if _, err := offline.Resolve(t.Context(), im.Ref); !errors.Is(err, ErrOffline) {
		t.Errorf("sizes that nobody knows: %v", err)
	}
	store.sizes = map[digest.Digest]int64{digest.FromString("base"): 4, digest.FromString("x"): 1}
	for _, f := range []*Fetcher{offline, online} {
		r.ForgetRequests()
		again, err := f.Resolve(t.Context(), im.Ref)
		if err != nil || !cmp.Equal(again.Layers, im.Layers) || !bytes.Equal(again.Config, im.Config) {
			t.Errorf("%+v (%v)", again, err)
		}
		if n := len(r.Requests(func(q testimage.Request) bool { return q.Method == http.MethodGet && q.Path != "/v2/" })); n > 0 {
			t.Errorf("%d requests for what is known", n)
		}
	}
}

func TestSizesAreAskedForAsRegistriesAnswer(t *testing.T) {
	d := digest.FromString("x")
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		size  int64
		kind  error
	}{
		"a range":          {chunked(206, "bytes 0-0/70", []byte("x")), 70, nil},
		"all of it":        {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 70)) }, 70, nil},
		"nothing to range": {chunked(416, "bytes */0", nil), 0, nil},
		"no total":         {chunked(206, "bytes 0-0/*", []byte("x")), 0, errors.ErrUnsupported},
		"no length":        {chunked(200, "", []byte("x")), 0, errors.ErrUnsupported},
		"less than none":   {chunked(206, "bytes 0-0/-1", nil), 0, errors.ErrUnsupported},
		"not there":        {chunked(404, "", nil), 0, ErrNotFound},
	} {
		f, _ := newFetcher(t, Options{})
		src, ok := sourceOf(t, f, parse(t, oddRegistry(t, test.serve)+"/a")).(sizer)
		if !ok {
			t.Fatal("a registry tells no sizes")
		}
		if size, err := src.size(t.Context(), d); size != test.size || !errors.Is(err, test.kind) {
			t.Errorf("%s: %d (%v), want %d (%v)", name, size, err, test.size, test.kind)
		}
	}
}

func TestSchema1ThatIsWrong(t *testing.T) {
	good := testimage.Schema1(false, oldSteps...)
	plain := string(good.Blobs[good.Root.Digest])
	protected := func(headers ...string) testimage.Bundle {
		var signatures []string
		for _, h := range headers {
			signatures = append(signatures, fmt.Sprintf(`{"protected":%q}`, base64.RawURLEncoding.EncodeToString([]byte(h))))
		}
		signed := fmt.Sprintf(`%s,"signatures":[%s]}`, strings.TrimSuffix(plain, "}"), strings.Join(signatures, ","))
		return testimage.Raw(testimage.DockerSchema1, []byte(signed))
	}
	edit := func(old, new string) testimage.Bundle {
		if !strings.Contains(plain, old) {
			t.Fatalf("there is no %s in %s", old, plain)
		}
		b := testimage.Raw(testimage.DockerSchema1Plain, []byte(strings.ReplaceAll(plain, old, new)))
		for d, blob := range good.Blobs {
			if d != good.Root.Digest {
				b.Blobs[d] = blob
			}
		}
		return b
	}
	for _, test := range []struct {
		name   string
		bundle testimage.Bundle
		kind   error
		say    string
	}{
		{"no history", testimage.Raw(testimage.DockerSchema1, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"`+sum+`"}],"history":[]}`)), ErrMalformed, "1 layers and 0 steps"},
		{"a digest that is none", edit(`"blobSum": "sha256:`, `"blobSum": "sha256:x`), ErrMalformed, "digest"},
		{"a step that is no JSON", edit(`"v1Compatibility": "{`, `"v1Compatibility": "`), ErrMalformed, "history"},
		{"a step that is null", testimage.Raw(testimage.DockerSchema1, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"`+sum+`"}],`+
			`"history":[{"v1Compatibility":"null"}]}`), []byte("base")), ErrMalformed, "history"},
		{"another parent", edit(`\"parent\":\"`, `\"parent\":\"0`), ErrMalformed, "parent"},
		{"a signature of more than there is", protected(`{"formatLength":9999999}`), ErrMalformed, "makes no sense"},
		{"a signature of less than nothing", protected(`{"formatLength":-1}`), ErrMalformed, "makes no sense"},
		{"a signature of nothing", protected(`{}`), ErrMalformed, "makes no sense"},
		{"a signature of half a manifest", protected(`{"formatLength":20}`), ErrMismatch, "does not match"},
		{"signatures of two things", protected(fmt.Sprintf(`{"formatLength":%d,"formatTail":"Cn0K"}`, len(plain)-2), `{"formatLength":20}`), ErrMalformed, "makes no sense"},
		{"a signature that is no JSON", protected(`x`), ErrMalformed, "makes no sense"},
	} {
		r := startRegistry(t)
		r.Push("a", "t", test.bundle)
		f, _ := newFetcher(t, Options{})
		_, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	layout := t.TempDir()
	if err := testimage.WriteLayout(layout, testimage.Tagged{Bundle: good}); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, Options{})
	if _, err := f.Resolve(t.Context(), parse(t, "oci:"+layout)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("in a layout: %v", err)
	}
}

func TestASignedManifestIsWhatWasSigned(t *testing.T) {
	b := testimage.Schema1(true, oldSteps...)
	b.Blobs[b.Root.Digest] = bytes.Replace(b.Blobs[b.Root.Digest], []byte(`"tag": "t"`), []byte(`"tag": "u"`), 1)
	r := startRegistry(t)
	r.Push("a", "t", b)
	for _, ref := range []string{"/a:t", "/a@" + b.Root.Digest.String()} {
		f, _ := newFetcher(t, Options{})
		if _, err := f.Resolve(t.Context(), parse(t, r.Host()+ref)); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	// What stands outside of it counts for nothing.
	b = testimage.Schema1(true, oldSteps...)
	b.Blobs[b.Root.Digest] = bytes.Replace(b.Blobs[b.Root.Digest], []byte(`"signatures": [`), []byte(`"fsLayers": [], "signatures": [`), 1)
	dir := skopeoCopy(t, b)
	f, _ := newFetcher(t, Options{})
	if im := resolve(t, f, "dir:"+dir); im.Digest != b.Root.Digest || len(im.Layers) != 3 {
		t.Errorf("%s is %+v", filepath.Base(dir), im)
	}
}

func TestStepsThatAreRepeatedCountOnce(t *testing.T) {
	b := testimage.Schema1(false, oldSteps[0])
	var m struct {
		SchemaVersion int   `json:"schemaVersion"`
		FSLayers      []any `json:"fsLayers"`
		History       []any `json:"history"`
	}
	if err := json.Unmarshal(b.Blobs[b.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	m.FSLayers, m.History = slices.Repeat(m.FSLayers, 3), slices.Repeat(m.History, 3)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r := startRegistry(t)
	r.Push("a", "t", testimage.Raw(testimage.DockerSchema1Plain, raw, []byte("base")))
	f, _ := newFetcher(t, Options{})
	checkLayers(t, f, resolve(t, f, r.Host()+"/a:t"), []byte("base"))
}

// FuzzManifest parses any manifest, as it comes from a registry.
func FuzzManifest(f *testing.F) {
	for _, b := range []testimage.Bundle{
		testimage.Schema1(true, oldSteps...), testimage.Schema1(false, oldSteps...), imageOf(nil).Bundle(), testimage.Index(imageOf(nil).Bundle()),
	} {
		f.Add(b.Blobs[b.Root.Digest])
	}
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + sum + `"}],"history":[{"v1Compatibility":"null"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		payload, err := withoutSignatures("a", b)
		if err != nil {
			return
		}
		m, err := parseManifest("a", payload)
		if err != nil || m.schema1 == nil {
			return
		}
		config, err := m.schema1.config()
		if err != nil {
			return
		}
		var parsed v1.Image
		if err := json.Unmarshal(config, &parsed); err == nil && len(parsed.History) != len(m.schema1.FSLayers) {
			t.Errorf("%d steps of %d: %s", len(parsed.History), len(m.schema1.FSLayers), config)
		}
	})
}
