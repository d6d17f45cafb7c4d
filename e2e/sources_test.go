package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// TestAnImageIsTheSameFromEverySource has the tools that people use copy an image to all kinds of places, and then mounts it
// from each.
func TestAnImageIsTheSameFromEverySource(t *testing.T) {
	im, r := get(t, theImages).Python(), get(t, theRegistry)
	c := newCopier(t, inRegistry(r, im), r.Addr)
	var mu sync.Mutex
	var copies []copied
	t.Run("copy", func(t *testing.T) {
		for tool, made := range copiers {
			t.Run(tool, func(t *testing.T) {
				t.Parallel()
				more := made(c, t)
				mu.Lock()
				defer mu.Unlock()
				copies = append(copies, more...)
			})
		}
	})
	want, here, remote := umociOracle.tree(t, im), newHost(t), newHost(t)
	t.Run("mount", func(t *testing.T) {
		for _, at := range copies {
			h := here
			if at.isRemote(c) {
				h = remote
			}
			t.Run(c.short(at.ref), func(t *testing.T) {
				t.Parallel()
				h.checkTree(t, at, want, h == here)
				h.checkPlatforms(t, at)
			})
		}
	})
	if blobs := filesBelow(t, filepath.Join(here.cache(), "blobs")); len(blobs) > 0 {
		t.Errorf("what is here has been copied to the cache: %v", blobs)
	}
}

// isRemote tells whether a copy has to be fetched.
func (at *copied) isRemote(c *copier) bool {
	return strings.HasPrefix(at.ref, c.repo) || strings.HasPrefix(at.ref, "tar:https:")
}

// checkTree mounts a copy of an image.
func (h *host) checkTree(t *testing.T, at copied, want treediff.Tree, isHere bool) {
	t.Helper()
	dir := h.mount(t, at.ref, append(at.flags, "--suid", "--dev")...)
	got, blind := scan(t, dir), treediff.Blind{}
	if at.container != nil {
		// It is unpacked: a directory that a layer changes without naming it has the time of that.
		got, want, blind.DirTimes = without(got, at.container), without(want, at.container), true
	}
	sameTree(t, got, want, blind, "umoci")
	if s := h.state(t, dir).Stats; s.Errors != 0 || isHere && s.Requests != 0 {
		t.Errorf("%d errors, and %d requests", s.Errors, s.Requests)
	}
	h.umount(t, dir)
}

// without leaves paths out of a tree.
func without(tree treediff.Tree, paths []string) treediff.Tree {
	return slices.DeleteFunc(slices.Clone(tree), func(e treediff.Entry) bool { return slices.Contains(paths, e.Path) })
}

// checkPlatforms looks into the image of the other platform, where it is, and for one that is not.
func (h *host) checkPlatforms(t *testing.T, at copied) {
	t.Helper()
	if !at.both {
		return
	}
	if got := h.ok(t, "cat", "--platform", otherPlatform, at.ref+":/"+otherFile); got != otherContent {
		t.Errorf("the image for %s holds %q", otherPlatform, got)
	}
	h.fails(t, 2, []string{"linux/s390x", "linux/amd64, " + otherPlatform}, "digest", "--platform", "linux/s390x", at.ref)
}

// TestSchema1 has skopeo push a signed manifest of schema 1 to a registry that still takes such, and mounts it.
func TestSchema1(t *testing.T) {
	im, r := get(t, theImages).Python(), get(t, theRegistry)
	ref := r.Addr + "/test/schema1:v1"
	if err := peer.Copy(timeLimit(t), "oci:"+im.Layout+":"+im.Tag, "docker://"+ref, "--format", "v2s1"); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	if got := h.ok(t, "manifest", ref); !strings.Contains(got, "fsLayers") || strings.Contains(got, "signatures") {
		t.Errorf("the manifest is %s", got)
	}
	dir := h.mount(t, ref)
	sameTree(t, scan(t, dir), umociOracle.tree(t, im), treediff.Blind{}, "umoci")
	h.umount(t, dir)
	d := strings.TrimSpace(h.ok(t, "digest", ref))
	if said, err := peer.Run(timeLimit(t), "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", "docker://"+ref); err != nil ||
		strings.TrimSpace(string(said)) != d {
		t.Errorf("the digest is %s, for skopeo %s (%v)", d, said, err)
	}
	for _, ref := range []string{ref, r.Addr + "/test/schema1@" + d} {
		h.ok(t, "ls", "--offline", ref+":/usr/bin")
		if got := h.ok(t, "history", "--offline", ref); !strings.Contains(got, "MiB") {
			t.Errorf("the history of %s is\n%s", ref, got)
		}
	}
	copied := filepath.Join(t.TempDir(), "dir")
	if err := peer.Copy(timeLimit(t), "docker://"+ref, "dir:"+copied); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(h.ok(t, "digest", copied)); got != d {
		t.Errorf("skopeo's copy has the digest %s, want %s", got, d)
	}
}

// TestLayersThatAreEmptyOrThereTwice has both in one image, in a registry and in an archive.
func TestLayersThatAreEmptyOrThereTwice(t *testing.T) {
	one, last := layerOf(testimage.File("a", "1"), testimage.File("b", "1")), layerOf(testimage.File("b", "2"))
	empty, nothing := layerOf(), testimage.NewLayer(nil, nil)
	image := testimage.Image{Layers: []testimage.Layer{one, empty, last, one, nothing, empty, empty}}
	h, layout, archive := newHost(t), t.TempDir(), filepath.Join(t.TempDir(), "docker.tar")
	writeLayout(t, layout, image.Bundle())
	files, item := image.DockerFiles("a:1")
	if err := os.WriteFile(archive, testimage.Tar(append(files, testimage.DockerManifestFile(item))...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"oci:" + layout, archive} {
		dir := h.mount(t, ref)
		for name, want := range map[string]string{"a": "1", "b": "1"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
				t.Errorf("%s: %s holds %q (%v), want %q", ref, name, b, err, want)
			}
		}
		h.umount(t, dir)
	}
}
