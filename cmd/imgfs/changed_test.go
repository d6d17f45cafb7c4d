package main

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"imgfs/internal/testimage"
)

func TestAnArchiveThatIsChangedUnderItsReadersGivesNoOtherBytes(t *testing.T) {
	content := make([]byte, 6<<20)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(content)
	tar := testimage.Tar(testimage.File("file", string(content)))
	save := func(l testimage.Layer) []byte {
		files, item := testimage.Image{Layers: []testimage.Layer{l}}.DockerFiles("a:1")
		return testimage.Tar(append(files, testimage.DockerManifestFile(item))...)
	}
	plain, packed := save(testimage.NewLayer(tar, tar)), save(testimage.NewLayer(testimage.Gzip(tar), tar))
	layout := testimage.Tar(testimage.LayoutFiles(testimage.Tagged{Bundle: testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(tar, tar)}}.Bundle()})...)
	// Some of it may still be in memory: what is right stays right.
	for name, archive := range map[string][]byte{
		"docker save": plain, "docker save, compressed": testimage.Gzip(plain), "layers compressed": packed, "both compressed": testimage.Gzip(packed),
		"a layout": layout, "a root file system": tar, "a compressed root file system": testimage.Gzip(tar),
	} {
		for change, do := range map[string]func(path string) error{
			"cut":         func(path string) error { return os.Truncate(path, int64(len(archive)/2)) },
			"overwritten": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{'x'}, len(archive)), 0o600) },
			"moved by a block": func(path string) error {
				return os.WriteFile(path, append(make([]byte, 512), archive...), 0o600)
			},
		} {
			path := filepath.Join(t.TempDir(), "archive")
			if err := os.WriteFile(path, archive, 0o600); err != nil {
				t.Fatal(err)
			}
			a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
			s, err := a.newSession(&imageFlags{cacheFlags: cacheFlags{dir: t.TempDir()}, memory: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			im, err := s.open(t.Context(), path)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			for off := int64(0); off < int64(len(tar)); off += 1 << 16 {
				p := make([]byte, min(1<<16, int64(len(tar))-off))
				if n, err := im.layers[0].ReadAt(p, off); err == nil && !bytes.Equal(p[:n], tar[off:][:n]) {
					t.Errorf("%s, %s: other bytes at %d", name, change, off)
				}
			}
			im.close()
			s.close()
		}
	}
}
