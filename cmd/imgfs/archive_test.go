package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/internal/testimage"
)

// output runs the program, which has to succeed, and returns what it prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(args, &stdout, &stderr); code != exitOK {
		t.Fatalf("%q: exit code %d, %s", args, code, stderr.String())
	}
	return stdout.String()
}

// savedImage returns the path of a docker archive that is compressed, and its digest.
func savedImage(t *testing.T) (string, digest.Digest) {
	t.Helper()
	tar := testimage.Tar(testimage.Dir("etc"), testimage.File("etc/motd", "hello"))
	image := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(tar, tar)}}
	files, item := image.DockerFiles("a:1")
	b := testimage.Gzip(testimage.Tar(append(files, testimage.DockerManifestFile(item))...))
	path := filepath.Join(t.TempDir(), "saved.tar.gz")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, digest.FromBytes(b)
}

func TestAnArchiveWhoseIndexIsDamagedIsIndexedAnew(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("IMGFS_CACHE_DIR", dir)
	path, d := savedImage(t)
	if got := output(t, "cat", path+":/etc/motd"); got != "hello" {
		t.Fatalf("got %q", got)
	}
	name := filepath.Join(dir, "indexes", "sha256-"+d.Encoded())
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good); i += 17 {
		bad := bytes.Clone(good)
		bad[i] ^= 0xff
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := output(t, "cat", path+":/etc/motd"); got != "hello" {
			t.Errorf("byte %d: got %q", i, got)
		}
	}
}

func TestTheDigestOfAFileIsComputedOnce(t *testing.T) {
	c, err := cache.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := &session{app: &app{log: slog.New(slog.DiscardHandler)}, cache: c}
	old := "archive_test.go" // older than a second
	digestOf := func(name string) digest.Digest {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		d, err := s.fileDigest(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	content, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	want, other := digest.FromBytes(content), digest.FromString("another")
	if got := digestOf(old); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	abs, err := filepath.Abs(old)
	if err != nil {
		t.Fatal(err)
	}
	known, err := c.Ref(abs)
	if err != nil || known.Digest != want {
		t.Fatalf("remembered is %v (%v)", known, err)
	}
	known.Digest = other
	for stamp, want := range map[string]digest.Digest{known.MediaType: other, strings.Replace(known.MediaType, "=", "=1", 1): want} {
		known.MediaType = stamp
		if err := c.PutRef(known); err != nil {
			t.Fatal(err)
		}
		if got := digestOf(old); got != want {
			t.Errorf("%s: got %s, want %s", stamp, got, want)
		}
	}
	path, d := savedImage(t)
	if got := digestOf(path); got != d {
		t.Errorf("got %s, want %s", got, d)
	}
	if r, err := c.Ref(path); err == nil {
		t.Errorf("a file that may yet change unnoticed is remembered: %v", r)
	}
}

func TestASparseFileOfAnArchiveIsNotInOnePiece(t *testing.T) {
	t.Setenv("IMGFS_CACHE_DIR", t.TempDir())
	path := filepath.Join(t.TempDir(), "archive.tar.gz")
	tar := testimage.Tar(testimage.SparseGNU("manifest.json", 9, []testimage.Segment{{Offset: 0, Data: "[]"}, {Offset: 9}}))
	if err := os.WriteFile(path, testimage.Gzip(tar), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"ls", "docker-archive:" + path}, &stdout, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "stored as a sparse file") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}
