package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"imgfs/internal/testimage"
)

// openedLayer opens the only layer of a layout, of a zstd frame that can't be entered, and returns it with the directories
// of the layout and of the cache.
func openedLayer(t *testing.T) (l *layer, layout, cacheDir string) {
	t.Helper()
	layout = t.TempDir()
	tar := testimage.Tar(testimage.File("file", string(make([]byte, 8<<20))))
	image := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(testimage.Zstd(tar), tar)}}
	if err := testimage.WriteLayout(layout, testimage.Tagged{Tag: "v1", Bundle: image.Bundle()}); err != nil {
		t.Fatal(err)
	}
	l, cacheDir = openLayerOf(t, "oci:"+layout+":v1")
	return l, layout, cacheDir
}

// openLayerOf opens the only layer of an image, with a cache that is new.
func openLayerOf(t *testing.T, reference string) (l *layer, cacheDir string) {
	t.Helper()
	cacheDir = t.TempDir()
	a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	s, err := a.newSession(&imageFlags{cacheFlags: cacheFlags{dir: cacheDir}, memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	im, err := s.open(t.Context(), reference)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(im.close)
	return im.layers[0], cacheDir
}

func cut(t *testing.T, name string) {
	t.Helper()
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
}

func TestWhoWaitedWhileAnIndexCouldNotBeBuiltAnewDoesNotTryAgain(t *testing.T) {
	l, layout, cacheDir := openedLayer(t)
	cut(t, filepath.Join(cacheDir, "frames", "sha256-"+l.Digest.Encoded()))
	cut(t, testimage.BlobPath(layout, l.Digest))
	before, damaged := l.failed.Load(), l.current.Load()
	_, first := l.rebuiltSince(before, damaged, os.ErrInvalid)
	_, waited := l.rebuiltSince(before, damaged, os.ErrInvalid)
	_, later := l.rebuilt(damaged, os.ErrInvalid)
	if first == nil || waited != first || later == nil || later == first {
		t.Errorf("first: %v; who waited: %v; later: %v", first, waited, later)
	}
}

func TestAnIndexThatKeepsBeingDamagedIsNotBuiltAnewForEver(t *testing.T) {
	l, _, cacheDir := openedLayer(t)
	for i := range maxRebuilds + 1 {
		cut(t, filepath.Join(cacheDir, "frames", "sha256-"+l.Digest.Encoded()))
		_, err := l.ReadAt(make([]byte, 10), int64(i)<<21) // what is not in memory yet
		if (err == nil) != (i < maxRebuilds) {
			t.Errorf("damaged %d times: %v", i+1, err)
		}
	}
}

func TestAnIndexAndABlobThatAreBothDamagedAreMadeAnew(t *testing.T) {
	u := newUser(t)
	l, cacheDir := openLayerOf(t, u.ref())
	name := "sha256-" + l.Digest.Encoded()
	cut(t, filepath.Join(cacheDir, "indexes", name))
	blob, err := os.OpenFile(filepath.Join(cacheDir, "blobs", name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if _, err := blob.WriteAt(make([]byte, 100), 1<<20); err != nil {
		t.Fatal(err)
	}
	got, end := make([]byte, 100), len(u.content)-100 // which is not where the blob is damaged
	if _, err := l.ReadAt(got, 512+int64(end)); err != nil || string(got) != u.content[end:] {
		t.Errorf("wrong bytes, or error: %v", err)
	}
}
