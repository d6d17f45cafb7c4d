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
	layout, cacheDir = t.TempDir(), t.TempDir()
	tar := testimage.Tar(testimage.File("file", string(make([]byte, 8<<20))))
	image := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(testimage.Zstd(tar), tar)}}
	if err := testimage.WriteLayout(layout, testimage.Tagged{Tag: "v1", Bundle: image.Bundle()}); err != nil {
		t.Fatal(err)
	}
	a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	s, err := a.newSession(&imageFlags{cacheFlags: cacheFlags{dir: cacheDir}, memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	im, err := s.open(t.Context(), "oci:"+layout+":v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(im.close)
	return im.layers[0], layout, cacheDir
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
