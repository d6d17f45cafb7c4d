package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
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
	return saveCompressed(t, testimage.NewLayer(tar, tar))
}

func saveCompressed(t *testing.T, l testimage.Layer) (string, digest.Digest) {
	t.Helper()
	files, item := testimage.Image{Layers: []testimage.Layer{l}}.DockerFiles("a:1")
	b := testimage.Gzip(testimage.Tar(append(files, testimage.DockerManifestFile(item))...))
	path := filepath.Join(t.TempDir(), "saved.tar.gz")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, digest.FromBytes(b)
}

func TestTheDigestOfACompressedLayerInACompressedArchiveIsRemembered(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("IMGFS_CACHE_DIR", dir)
	tar := testimage.Tar(testimage.File("motd", "hello"))
	blob := testimage.Gzip(tar)
	path, _ := saveCompressed(t, testimage.NewLayer(blob, tar))
	for range 2 {
		if got := output(t, "cat", path+":/motd"); got != "hello" {
			t.Errorf("got %q", got)
		}
	}
	c, err := cache.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, item := testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(blob, tar)}}.DockerFiles()
	if r, err := c.Ref(path + ":" + item.Layers[0]); err != nil || r.Digest != digest.FromBytes(blob) {
		t.Errorf("remembered is %+v (%v)", r, err)
	}
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
	for i := 0; i < len(good); i += 53 {
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
	path, want := savedImage(t)
	open := func(stamp string) (d digest.Digest, err error) {
		s := &session{app: &app{log: slog.New(slog.DiscardHandler), stderr: io.Discard}, cache: c}
		defer s.tars.close()
		f, err := fetcher.New(&fetcher.Options{OpenTar: func(ctx context.Context, file fetcher.TarFile) (fetcher.Tar, error) {
			file.Stamp = stamp
			opened, err := s.openTar(ctx, file)
			if err == nil {
				d = opened.Layer().Digest
			}
			return opened, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := fetcher.ParseReference("docker-archive:" + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Resolve(t.Context(), ref)
		return d, err
	}
	const stamp = "application/x-tar; file=1"
	if d, err := open(stamp); err != nil || d != want {
		t.Fatalf("got %s (%v), want %s", d, err, want)
	}
	wrong := cache.Ref{Name: path, Digest: digest.FromString("another"), MediaType: stamp}
	if err := c.PutRef(wrong); err != nil {
		t.Fatal(err)
	}
	var mismatch *index.MismatchError
	if d, err := open(stamp); !errors.As(err, &mismatch) {
		t.Errorf("the digest of a file that is the same still is computed again: %s (%v)", d, err)
	}
	for _, changed := range []string{"", "application/x-tar; file=2"} {
		if d, err := open(changed); err != nil || d != want {
			t.Errorf("stamp %q: got %s (%v), want %s", changed, d, err, want)
		}
	}
	if r, err := c.Ref(path); err != nil || r.Digest != want || r.MediaType != "application/x-tar; file=2" {
		t.Errorf("remembered is %v (%v)", r, err)
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

func TestATarAtAURLIsFetchedWholeOnce(t *testing.T) {
	cacheDir := t.TempDir()
	t.Setenv("IMGFS_CACHE_DIR", cacheDir)
	tar := testimage.Tar(testimage.File("big", strings.Repeat("0123456789abcdef", 100_000)), testimage.File("etc/motd", "hello"))
	var ranges []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ranges = append(ranges, req.Header.Get("Range"))
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(tar))
	}))
	defer server.Close()
	ref := "tar:" + server.URL + "/rootfs.tar"
	read := func(want ...string) {
		t.Helper()
		ranges = nil
		if got := output(t, "cat", ref+":/etc/motd"); got != "hello" {
			t.Errorf("got %q", got)
		}
		if !slices.Equal(ranges, want) {
			t.Errorf("asked for %q, want %q", ranges, want)
		}
	}
	read("bytes=0-0", "") // the size, and all of it
	read("bytes=0-0")
	output(t, "cache", "rm", "--blobs")
	read("bytes=0-0", "bytes=1572864-1602559")
	output(t, "cache", "rm", ref)
	read("bytes=0-0", "")
}
