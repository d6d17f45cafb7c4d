package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// bundleOf reads an image out of its layout.
func bundleOf(t *testing.T, im images.Image) (b testimage.Bundle, layers []v1.Descriptor) {
	t.Helper()
	var index v1.Index
	decode(t, filepath.Join(im.Layout, v1.ImageIndexFile), &index)
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == im.Tag })
	if i < 0 {
		t.Fatalf("the layout has no %s", im.Tag)
	}
	b = testimage.Bundle{Root: index.Manifests[i], Blobs: map[digest.Digest][]byte{}}
	b.Types = map[digest.Digest]string{b.Root.Digest: b.Root.MediaType}
	var manifest v1.Manifest
	decode(t, testimage.BlobPath(im.Layout, b.Root.Digest), &manifest)
	for _, d := range append(manifest.Layers, manifest.Config, b.Root) {
		content, err := os.ReadFile(testimage.BlobPath(im.Layout, d.Digest))
		if err != nil {
			t.Fatal(err)
		}
		b.Blobs[d.Digest] = content
	}
	return b, manifest.Layers
}

func decode(t *testing.T, name string, v any) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(content, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// cachedBytes is how much the cache has of each blob.
func (h *host) cachedBytes(t *testing.T) map[digest.Digest]int64 {
	t.Helper()
	cached := map[digest.Digest]int64{}
	for _, item := range parseJSON[[]struct {
		Kind   string
		Digest digest.Digest
		Cached int64
	}](t, h.ok(t, "cache", "ls", "--json")) {
		if item.Kind == "blob" {
			cached[item.Digest] = item.Cached
		}
	}
	return cached
}

// TestAnInterruptedFirstLookGoesOnWhereItWas ends the first look at an image
// when a part of each layer has come, gently and not. What has come stays, and
// nothing else; the second look asks for the rest, and sees the whole image.
func TestAnInterruptedFirstLookGoesOnWhereItWas(t *testing.T) {
	const mib, part = 1 << 20, 3<<20 + 300_000 // of each layer
	im := get(t, theImages).Python()
	bundle, layers := bundleOf(t, im)
	r := testimage.StartRegistry()
	t.Cleanup(r.Close)
	r.Push("test/python", im.Tag, bundle)
	ref := r.Host() + "/test/python:" + im.Tag
	for _, what := range []string{"mount", "ls"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(fmt.Sprintf("%s/%v", what, signal), func(t *testing.T) {
				h := newHost(t)
				r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, After: part})
				cmd := h.command(append(strings.Fields(what), ref)...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "a part of each layer is here", func() bool {
					cached := h.cachedBytes(t)
					return !slices.ContainsFunc(layers, func(l v1.Descriptor) bool { return cached[l.Digest] < part/mib*mib })
				})
				running := h.processes(t)
				for _, pid := range running {
					if signal != syscall.SIGKILL && pid != cmd.Process.Pid {
						continue
					}
					if err := unix.Kill(pid, signal); err != nil && err != unix.ESRCH { // a server ends with its parent
						t.Fatal(err)
					}
				}
				for _, pid := range running {
					if !waitExit(t, pid) { // only then are its locks gone
						t.Errorf("process %d is left", pid)
					}
				}
				if err := cmd.Wait(); err == nil {
					t.Error("it ended with success")
				}
				if signal != syscall.SIGKILL {
					h.checkOnlyParts(t)
				}
				cached := h.cachedBytes(t) // clears away what the killed have left
				h.checkOnlyParts(t)
				r.Heal()
				r.ForgetRequests()
				h.look(t, what, ref, im)
				for _, l := range layers {
					rest := fmt.Sprintf("bytes=%d-%d", cached[l.Digest], l.Size-1)
					asked := r.Requests(func(q testimage.Request) bool { return strings.HasSuffix(q.Path, l.Digest.String()) })
					if had := cached[l.Digest]; had < part/mib*mib || had > part || len(asked) != 1 || asked[0].Range != rest {
						t.Errorf("%d bytes of a layer were here; then it was asked for %+v", had, asked)
					}
				}
			})
		}
	}
}

// look is the second look at an image.
func (h *host) look(t *testing.T, what, ref string, im images.Image) {
	if what == "ls" {
		h.ok(t, "ls", "-R", ref)
		return
	}
	dir := h.mount(t, ref)
	if s := h.state(t, dir).Stats; s.BytesFetched >= s.ImageBytes {
		t.Errorf("%d bytes were fetched, as if nothing had been here", s.BytesFetched)
	}
	sameTree(t, scan(t, dir), umociOracle.tree(t, im), treediff.Blind{}, "umoci")
	h.umount(t, dir)
}

// checkOnlyParts finds nothing but parts of layers, and documents.
func (h *host) checkOnlyParts(t *testing.T) {
	t.Helper()
	for _, place := range []string{h.path("run/imgfs"), filepath.Join(h.cache(), "indexes"), filepath.Join(h.cache(), "frames"),
		filepath.Join(h.cache(), "tmp"), filepath.Join(h.cache(), "locks")} {
		for _, name := range filesBelow(t, place) {
			t.Errorf("a file is left: %s", name)
		}
	}
	if made, _ := os.ReadDir(h.path("run/imgfs/mnt")); len(made) > 0 {
		t.Errorf("a mountpoint is left: %v", made)
	}
	h.checkNoMounts(t)
}
