package testimage

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func sample() (Bundle, [][]byte) {
	layers := [][]byte{[]byte("bottom"), []byte("middle"), []byte("top")}
	im := Image{Config: v1.ImageConfig{Cmd: []string{"sh"}}}
	for _, l := range layers {
		im.Layers = append(im.Layers, NewLayer(l, l))
	}
	amd := im.Bundle()
	im.Docker = true
	im.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	return Index(amd, DockerList(im.Bundle()), Attestation(amd)), layers
}

// A client that is not ours is the judge: it pulls what was pushed.
func TestARealClientReadsTheRegistry(t *testing.T) {
	bundle, layers := sample()
	for _, auth := range []func(*Registry){
		func(*Registry) {},
		func(r *Registry) { r.RequireBasic("me", "secret") },
		func(r *Registry) { r.RequireBearer("me", "secret") },
		func(r *Registry) { r.RequireBearer("me", "secret"); r.RedirectBlobs(http.StatusTemporaryRedirect) },
	} {
		r := StartRegistry()
		defer r.Close()
		r.Push("a/b", "t", bundle)
		auth(r)
		ref, err := name.ParseReference(r.Host() + "/a/b:t")
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"}))
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, layers)
	}
}

func TestARealClientReadsTheLayout(t *testing.T) {
	bundle, layers := sample()
	dir := t.TempDir()
	if err := WriteLayout(dir, Tagged{Tag: "t", Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Annotations[v1.AnnotationRefName] != "t" {
		t.Fatalf("index: %+v, %v", list, err)
	}
	inner, err := index.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	children, err := inner.IndexManifest()
	if err != nil || len(children.Manifests) != 3 {
		t.Fatalf("children: %+v, %v", children, err)
	}
	image, err := inner.Image(children.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image, layers)
}

func checkImage(t *testing.T, image ggcr.Image, want [][]byte) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil || fmt.Sprint(config.Config.Cmd) != "[sh]" || len(config.RootFS.DiffIDs) != len(want) {
		t.Fatalf("config: %+v, %v", config, err)
	}
	got, err := image.Layers()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d layers, %v", len(got), err)
	}
	for i, l := range got {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(content, want[i]) {
			t.Errorf("layer %d: %q, %v", i, content, err)
		}
	}
}

// get makes a request for a range of the blob of ten bytes, and returns status, Content-Range and body.
func get(t *testing.T, r *Registry, ranges string) (string, error) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+r.Host()+"/v2/a/blobs/"+digest.FromString("0123456789").String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Content-Range"), body)), err
}

func TestRangesAndFaultsAreAsSaid(t *testing.T) {
	r := StartRegistry()
	defer r.Close()
	content := []byte("0123456789")
	r.Push("a", "", Image{Layers: []Layer{NewLayer(content, content)}}.Bundle())
	on := func(k Kind, after int64) Fault { return Fault{On: Blobs, Kind: k, Times: 1, After: after} }
	for _, test := range []struct {
		fault Fault
		asked string
		want  string
	}{
		{Fault{}, "", "200  0123456789"},
		{Fault{}, "bytes=2-4", "206 bytes 2-4/10 234"},
		{Fault{}, "bytes=7-", "206 bytes 7-9/10 789"},
		{Fault{}, "bytes=7-99", "206 bytes 7-9/10 789"},
		{Fault{}, "bytes=10-", "416 bytes */10"},
		{Fault{}, "bytes=-2", "200  0123456789"},
		{on(IgnoreRange, 0), "bytes=2-4", "200  0123456789"},
		{on(WrongRange, 0), "bytes=2-4", "206 bytes 3-5/10 234"},
		{on(WrongTotal, 0), "bytes=2-4", "206 bytes 2-4/11 234"},
		{on(ShortRange, 2), "bytes=2-4", "206 bytes 2-3/10 23"},
		{on(Corrupt, 1), "bytes=2-4", "206 bytes 2-4/10 224"},
		{Fault{On: Blobs, Kind: Refuse, Status: 503, Times: 1}, "", `503  {"errors":[{"code":"FAULT","message":"as the test wants it"}]}`},
	} {
		if test.fault.Kind != none {
			r.Inject(test.fault)
		}
		if got, err := get(t, r, test.asked); got != test.want || err != nil {
			t.Errorf("%+v, %q: %q, %v; want %q", test.fault, test.asked, got, err, test.want)
		}
		if test.fault.Kind != none && r.Hits(test.fault.Kind) != 1 {
			t.Errorf("%+v struck %d times", test.fault, r.Hits(test.fault.Kind))
		}
	}
	r.Inject(on(Cut, 4))
	if got, err := get(t, r, ""); got != "200  0123" || err != io.ErrUnexpectedEOF {
		t.Errorf("a cut body: %q, %v", got, err)
	}
}

func TestRequestsAreRemembered(t *testing.T) {
	r := StartRegistry()
	defer r.Close()
	if _, err := get(t, r, "bytes=1-2"); err != nil {
		t.Fatal(err)
	}
	all := r.Requests(func(q Request) bool { return q.Range == "bytes=1-2" })
	if len(all) != 1 || all[0].Server != "registry" || all[0].Method != http.MethodGet || all[0].Authorization != "" {
		t.Errorf("log: %+v", all)
	}
	r.ForgetRequests()
	if n := len(r.Requests(nil)); n != 0 {
		t.Errorf("%d requests are remembered", n)
	}
}
