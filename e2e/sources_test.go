package e2e

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// TestAnImageIsTheSameFromEverySource copies an image to all kinds of places with the tools that people use, and mounts it
// from each.
func TestAnImageIsTheSameFromEverySource(t *testing.T) {
	im := get(t, theImages).Python()
	h, ctx := newHost(t), timeLimit(t)
	dir := h.mount(t, inRegistry(get(t, theRegistry), im), "--suid", "--dev")
	want, blobs := scan(t, dir), filesBelow(t, filepath.Join(h.cache(), "blobs"))
	place := t.TempDir()
	at := func(name string) string { return filepath.Join(place, name) }
	copyTo := func(to string) {
		t.Helper()
		if err := peer.Copy(ctx, "oci:"+im.Layout+":"+im.Tag, to); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		if _, err := peer.Run(ctx, name, args...); err != nil {
			t.Fatal(err)
		}
	}
	copyTo("oci:" + at("layout") + ":v1")
	copyTo("oci-archive:" + at("oci.tar") + ":v1")
	copyTo("docker-archive:" + at("docker.tar") + ":debian:12")
	copyTo("dir:" + at("skopeo"))
	run("tar", "--create", "--file", at("rootfs.tar"), "--directory", dir, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", ".")
	h.umount(t, dir)
	for _, name := range []string{"oci.tar", "docker.tar"} {
		run("gzip", "-1", "--keep", at(name))
	}
	zstdFile(t, at("docker.tar"))
	zstdFile(t, at("rootfs.tar"))
	for _, ref := range []string{
		"oci:" + at("layout") + ":v1",
		"oci-archive:" + at("oci.tar") + ":v1",
		"oci-archive:" + at("oci.tar.gz"),
		"docker-archive:" + at("docker.tar") + ":debian:12",
		"docker-archive:" + at("docker.tar.gz") + ":@0",
		at("docker.tar.zst"),
		"dir:" + at("skopeo"),
		"tar:" + at("rootfs.tar"),
		at("rootfs.tar.zst"),
	} {
		t.Run(strings.ReplaceAll(ref, place+"/", ""), func(t *testing.T) {
			dir := h.mount(t, ref, "--suid", "--dev")
			sameTree(t, scan(t, dir), want, treediff.Blind{}, "the registry's")
			if s := h.state(t, dir); s.Stats.Errors != 0 || s.Stats.Requests != 0 {
				t.Errorf("%d errors, and %d requests for files that are here", s.Stats.Errors, s.Stats.Requests)
			}
			h.umount(t, dir)
		})
	}
	if after := filesBelow(t, filepath.Join(h.cache(), "blobs")); len(after) != len(blobs) {
		t.Errorf("what is here has been copied to the cache: %v, and before %v", after, blobs)
	}
}

// zstdFile compresses a file to one of the same name with .zst, in one frame.
func zstdFile(t *testing.T, name string) {
	t.Helper()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(name + ".zst")
	if err != nil {
		t.Fatal(err)
	}
	w, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err == nil {
		_, err = io.Copy(w, in)
	}
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
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
