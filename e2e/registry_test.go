package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// TestForeignLayersAreFetchedFromTheirURLsWhereThatIsAllowed has skopeo push an image of which one layer is elsewhere, as those of
// Windows were.
func TestForeignLayersAreFetchedFromTheirURLsWhereThatIsAllowed(t *testing.T) {
	foreign := layerOf(testimage.File("foreign", "2"))
	var mu sync.Mutex
	var asked []http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		asked = append(asked, req.Header)
		mu.Unlock()
		http.ServeContent(w, req, "", time.Time{}, strings.NewReader(string(foreign.Blob)))
	}))
	defer server.Close()
	foreign.MediaType, foreign.URLs = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []string{server.URL + "/layer"}
	image := testimage.Image{Layers: []testimage.Layer{layerOf(testimage.File("base", "1")), foreign}}
	layout := t.TempDir()
	must(t, testimage.WriteLayout(layout, testimage.Tagged{Tag: "v1", Bundle: image.Bundle()}))
	remove(t, testimage.BlobPath(layout, digest.FromBytes(foreign.Blob)))
	r := startRegistry(t, t.TempDir(), &peer.RegistryOptions{Auth: true, Foreign: "^http://127"})
	ref, creds := r.Addr+"/test/foreign:v1", peer.User+":"+peer.Password
	must(t, peer.Copy(timeLimit(t), "oci:"+layout+":v1", "docker://"+ref, "--dest-creds", creds))

	h := newHost(t)
	h.fails(t, 2, []string{"foreign layer", "not allowed"}, "mount", "--creds", creds, ref, h.mkdir(t))
	mu.Lock()
	if len(asked) > 0 {
		t.Errorf("the URL is asked: %v", asked)
	}
	mu.Unlock()
	dir := h.mount(t, ref, "--creds", creds, "--allow-foreign-layers")
	for name, want := range map[string]string{"base": "1", "foreign": "2"} {
		if got := readFile(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, header := range asked {
		if header.Get("Authorization") != "" {
			t.Errorf("the URL is sent %v", header)
		}
	}
}

// TestAnArtifactIsToldToBeOne has skopeo push what is no image, as other tools push charts and signatures.
func TestAnArtifactIsToldToBeOne(t *testing.T) {
	const kind, content = "application/vnd.example.chart", "a chart"
	layout := t.TempDir()
	must(t, testimage.WriteLayout(layout))
	manifest := encodeJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": v1.MediaTypeImageManifest, "artifactType": kind,
		"config": writeBlob(t, layout, "application/vnd.oci.empty.v1+json", "{}"), "layers": []v1.Descriptor{writeBlob(t, layout, kind, content)},
	})
	root := writeBlob(t, layout, v1.MediaTypeImageManifest, manifest)
	root.Annotations = map[string]string{v1.AnnotationRefName: "v1"}
	must(t, os.WriteFile(filepath.Join(layout, v1.ImageIndexFile), []byte(encodeJSON(t, v1.Index{Manifests: []v1.Descriptor{root}})), 0o600))
	ref := get(t, theRegistry).Addr + "/test/artifact:v1"
	must(t, peer.Copy(timeLimit(t), "oci:"+layout+":v1", "docker://"+ref, "--preserve-digests"))
	h := newHost(t)
	for _, ref := range []string{ref, "oci:" + layout + ":v1"} {
		for _, args := range [][]string{{"mount", ref, h.mkdir(t)}, {"inspect", ref}, {"ls", ref}} {
			h.fails(t, 1, []string{"artifact (" + kind + "), not an image"}, args...)
		}
	}
}

// TestAProxyThatServesNoRangesHasEachLayerFetchedAsAWhole has one in front of a registry, which ignores what part is asked for, or
// refuses it.
func TestAProxyThatServesNoRangesHasEachLayerFetchedAsAWhole(t *testing.T) {
	im, r := get(t, theImages).PAXTar(), get(t, theRegistry)
	direct := inRegistry(r, im)
	for name, status := range map[string]int{"200": 0, "416": http.StatusRequestedRangeNotSatisfiable, "501": http.StatusNotImplemented} {
		t.Run(name, func(t *testing.T) {
			h, proxy := newHost(t), &rangeless{status: status, blobs: map[string]int{}}
			proxy.to = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Addr})
			server := httptest.NewServer(proxy)
			defer server.Close()
			ref := strings.Replace(direct, r.Addr, server.Listener.Addr().String(), 1)
			h.umount(t, h.mount(t, direct))
			h.ok(t, "cache", "rm", "--blobs")
			for ref, says := range map[string]string{direct: "Ranges:      yes\n", ref: "Ranges:      no"} {
				if got := h.ok(t, "inspect", ref); !strings.Contains(got, says) {
					t.Errorf("inspect %s says %s", ref, got)
				}
			}
			proxy.asked()
			dir := h.mount(t, ref)
			sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
			s := h.state(t, dir)
			blobs := proxy.asked()
			if log := readFile(t, s.Log); s.Stats.Errors != 0 || strings.Count(log, "does not serve ranges") != len(blobs) {
				t.Errorf("%d errors, the log says %s", s.Stats.Errors, log)
			}
			h.umount(t, dir)
			for blob, n := range blobs {
				if n != 2 { // for a range, and for the whole
					t.Errorf("%s is asked for %d times", blob, n)
				}
			}
		})
	}
}

// A rangeless is a proxy that serves no ranges of blobs.
type rangeless struct {
	to     http.Handler
	status int // for a range; 0 is the whole

	mu    sync.Mutex     // protects the following
	blobs map[string]int // times that each is asked for
}

// asked tells what has been asked for since the last time.
func (p *rangeless) asked() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	blobs := p.blobs
	p.blobs = map[string]int{}
	return blobs
}

func (p *rangeless) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.Contains(req.URL.Path, "/blobs/") {
		p.mu.Lock()
		p.blobs[req.URL.Path]++
		p.mu.Unlock()
		if req.Header.Get("Range") != "" && p.status != 0 {
			w.WriteHeader(p.status)
			return
		}
		req.Header.Del("Range")
	}
	p.to.ServeHTTP(w, req)
}
