package fetcher

import (
	"bytes"
	gz "compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// memoryTar is a Tar that is in memory.
type memoryTar struct {
	*bytes.Reader
	layer Layer
}

func (m memoryTar) Layer() Layer { return m.layer }
func (m memoryTar) Entries() iter.Seq2[TarEntry, error] {
	return tarEntries(io.NewSectionReader(m, 0, m.Size()))
}

// unzip is an Options.OpenTar.
func unzip(ctx context.Context, file TarFile) (Tar, error) {
	defer file.Blob.Close()
	r, err := file.Blob.Open(ctx, 0, file.Blob.Size())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	l := Layer{Digest: digest.FromBytes(b), Size: int64(len(b)), MediaType: v1.MediaTypeImageLayer}
	if r, err := gz.NewReader(bytes.NewReader(b)); err == nil {
		if b, err = io.ReadAll(r); err != nil {
			return nil, err
		}
		l.MediaType = v1.MediaTypeImageLayerGzip
	}
	l.DiffID = digest.FromBytes(b)
	return memoryTar{bytes.NewReader(b), l}, nil
}

func TestARootFileSystemIsAnImageOfOneLayer(t *testing.T) {
	content := testimage.Tar(testimage.Dir("etc"), testimage.File("etc/passwd", "root"), testimage.File("manifest.json", "[]x"))
	f, _ := newFetcher(t, Options{OpenTar: unzip, Platform: "linux/arm64"})
	for mediaType, blob := range map[string][]byte{v1.MediaTypeImageLayer: content, v1.MediaTypeImageLayerGzip: gzipped(t, content)} {
		path := writeArchive(t, blob)
		for _, ref := range []string{"tar:" + path, path} {
			im := resolve(t, f, ref)
			l := im.Layers[0]
			if im.Ref.String() != "tar:"+path || l.DiffID != digest.FromBytes(content) || l.MediaType != mediaType {
				t.Errorf("%s is %s: %+v", ref, im.Ref, l)
			}
			if im.Platform.Architecture != "arm64" || im.Digest != digest.FromBytes(im.Manifest) || im.ConfigDigest != digest.FromBytes(im.Config) {
				t.Errorf("%s: documents that do not fit: %s", ref, im.Config)
			}
			checkLayers(t, f, im, blob)
			var config v1.Image
			if err := json.Unmarshal(im.Config, &config); err != nil || config.RootFS.DiffIDs[0] != l.DiffID {
				t.Errorf("%s: config %s (%v)", ref, im.Config, err)
			}
		}
		if _, err := f.Resolve(t.Context(), parse(t, path+":tag")); !errors.Is(err, ErrReference) {
			t.Errorf("a tag of a root file system: %v", err)
		}
	}
}

func TestCompressedArchivesAreReadInPlace(t *testing.T) {
	content := noise(5000)
	image := imageOf(content)
	files, item := image.DockerFiles("a:1")
	f, _ := newFetcher(t, Options{OpenTar: unzip})
	for transport, b := range map[string][]byte{
		"oci-archive":    testimage.Tar(testimage.LayoutFiles(testimage.Tagged{Tag: "a", Bundle: image.Bundle()})...),
		"docker-archive": testimage.Tar(append(files, testimage.DockerManifestFile(item))...),
	} {
		path := writeArchive(t, gzipped(t, b))
		for _, ref := range []string{transport + ":" + path, path} {
			im := resolve(t, f, ref)
			if im.Ref.transport != transport {
				t.Errorf("%s is taken for %s", ref, im.Ref)
			}
			checkLayers(t, f, im, content)
			blob := openBlob(t, f, ref, 0)
			if err := blob.Close(); err != nil {
				t.Error(err)
			}
			if _, err := blob.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: a blob that is closed is read: %v", ref, err)
			}
		}
		without, _ := newFetcher(t, Options{})
		if _, err := without.Resolve(t.Context(), parse(t, path)); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("without an index: %v", err)
		}
	}
}

func TestWhatAPathIsTakenForIsSaid(t *testing.T) {
	b := imageOf([]byte("x")).Bundle()
	layout := t.TempDir()
	if err := testimage.WriteLayout(layout, testimage.Tagged{Bundle: b}); err != nil {
		t.Fatal(err)
	}
	both := skopeoCopy(t, b)
	if err := testimage.WriteLayout(both, testimage.Tagged{Bundle: b}); err != nil {
		t.Fatal(err)
	}
	many := make([]testimage.Entry, maxMembers+1)
	for i := range many {
		many[i] = testimage.Dir("d")
	}
	for path, transport := range map[string]string{
		layout: "oci", skopeoCopy(t, b): "dir", both: "oci",
		tarFile(t, testimage.LayoutFiles(testimage.Tagged{Bundle: b})...):           "oci-archive",
		dockerSave(t, imageOf([]byte("x"))):                                         "docker-archive",
		hybridOf(t, b, "a:1"):                                                       "oci-archive",
		tarFile(t, testimage.Dir("bin")):                                            "tar",
		tarFile(t, testimage.File("oci-layout", "x")):                               "tar",
		tarFile(t, testimage.File("manifest.json", `{"name":"a web application"}`)): "tar",
		tarFile(t, testimage.File("manifest.json", `[{"name":"an extension"}]`)):    "tar",
		tarFile(t, testimage.File("manifest.json", `[]`)):                           "tar",
		tarFile(t, many...):                                                         "tar",
	} {
		var log bytes.Buffer
		f, _ := newFetcher(t, Options{OpenTar: unzip, Log: slog.New(slog.NewTextHandler(&log, nil))})
		im := resolve(t, f, path)
		if im.Ref.transport != transport || !strings.Contains(log.String(), path) || !strings.Contains(log.String(), "transport="+transport) {
			t.Errorf("%s is taken for %s, want %s; the log says %s", path, im.Ref, transport, log.String())
		}
		if again := resolve(t, f, im.Ref.String()); again.Digest != im.Digest {
			t.Errorf("%s resolves to %s, and %s to %s", path, im.Digest, im.Ref, again.Digest)
		}
	}
}

func TestPathsThatAreNoImage(t *testing.T) {
	dir := skopeoCopy(t, imageOf([]byte("x")).Bundle())
	save := dockerSave(t, imageOf([]byte("x")), "a:1")
	spoiled := func(manifest string) string {
		files, _ := imageOf([]byte("x")).DockerFiles("a:1")
		return tarFile(t, append(files, testimage.File(dockerManifestFile, manifest))...)
	}
	for _, test := range []struct {
		ref  string
		kind error
		say  string
	}{
		{filepath.Join(dir, "none"), ErrNotFound, "no such file or directory"},
		{t.TempDir(), ErrNotFound, "not an image"},
		{writeArchive(t, []byte("#!/bin/sh\n")), ErrReference, "not an image"},
		{writeArchive(t, nil), ErrReference, "not an image"},
		{"/dev/null", ErrReference, "not a regular file"},
		{dir + ":tag", ErrReference, "without a tag"},
		{save + ":b:1", ErrNotFound, "a:1"},
		{save + ":B", ErrReference, "not an image reference"},
		{save + "@" + sum, ErrReference, "no digests"},
		{spoiled(`[{"Config":"`), ErrMalformed, "manifest.json"},
		{spoiled(`[{"name":"an extension"}]`), ErrMalformed, "something else"},
		{spoiled(`[]`), ErrNotFound, "no image"},
	} {
		f, _ := newFetcher(t, Options{OpenTar: unzip})
		if _, err := f.Resolve(t.Context(), parse(t, test.ref)); !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", test.ref, err)
		}
	}
}

func TestAFileInTheWorkingDirectoryNeedsNoPrefix(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string][]byte{
		"image.tar": testimage.Tar(testimage.Dir("bin")), "image.gz": gzipped(t, nil), "notes": []byte("text"),
	} {
		writeFile(t, name, string(content), 0o600)
	}
	for in, transport := range map[string]string{
		"image.tar": byContent, "image.tar:x": byContent, "image.gz": byContent, "notes": "docker", "image": "docker", "image.tar.xz": "docker",
	} {
		if r, err := ParseReference(in); err != nil || r.transport != transport {
			t.Errorf("%s is %+v (%v), want one of %s", in, r, err, transport)
		}
	}
}

func TestReferencesToFilesAreWrittenAsTheyAreRead(t *testing.T) {
	cwd := t.TempDir()
	t.Chdir(cwd)
	for _, name := range []string{"a", "b:c"} {
		writeFile(t, name, "", 0o600)
	}
	for _, test := range []struct{ in, want string }{
		{"oci-archive:a", "oci-archive:" + cwd + "/a"},
		{"oci-archive:a:t:u", "oci-archive:" + cwd + "/a:t:u"},
		{"oci-archive:b:c", "oci-archive:" + cwd + "/b:c:"},
		{"oci-archive:b:c:t", "oci-archive:" + cwd + "/b:c:t"},
		{"oci-archive:a@" + sum, "oci-archive:" + cwd + "/a@" + sum},
		{"docker-archive:./a", "docker-archive:" + cwd + "/a"},
		{"docker-archive:a:debian", "docker-archive:" + cwd + "/a:docker.io/library/debian:latest"},
		{"docker-archive:a:@12", "docker-archive:" + cwd + "/a:@12"},
		{"docker-archive:b:c:reg.example:5000/x:1", "docker-archive:" + cwd + "/b:c:reg.example:5000/x:1"},
		{"docker-archive:b:c", "docker-archive:" + cwd + "/b:c:"},
		{"docker-archive:no:such:", "docker-archive:" + cwd + "/no:such:"},
		{"dir:a:b", "dir:" + cwd + "/a:b"},
		{"tar:../x.tar.gz", "tar:" + filepath.Dir(cwd) + "/x.tar.gz"},
		{"./a:t", cwd + "/a:t"},
		{"/b@" + sum, "/b@" + sum},
		{"./b:c", cwd + "/b:c:"},
		{".", cwd},
	} {
		r, err := ParseReference(test.in)
		if err != nil || r.String() != test.want || r.Name() != test.want {
			t.Errorf("%s is %s (%v), want %s", test.in, r, err, test.want)
			continue
		}
		if again, err := ParseReference(r.String()); again != r {
			t.Errorf("%s is written %s, and that is %+v (%v)", test.in, r, again, err)
		}
	}
	for _, in := range []string{"oci-archive:", "docker-archive:", "docker-archive::x", "dir:", "tar:", "docker-archive:a:X", "docker-archive:a:@x",
		"docker-archive:a:@01", "docker-archive:a:@-1", "docker-archive:a:debian@" + sum} {
		if r, err := ParseReference(in); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v (%v), want an ErrReference", in, r, err)
		}
	}
}

// FuzzArchive looks through any tar, whose files must all be read or refused.
func FuzzArchive(f *testing.F) {
	files, item := imageOf([]byte("a"), []byte("a")).DockerFiles("a:1")
	f.Add(testimage.Tar(append(files, testimage.DockerManifestFile(item))...))
	f.Add(testimage.Tar(testimage.LayoutFiles(testimage.Tagged{Bundle: imageOf([]byte("a")).Bundle()})...))
	f.Add(testimage.Tar(testimage.Symlink("a", "b/c"), testimage.Symlink("b", "."), testimage.Link("c", "a")))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &archive{path: "/archive", tar: memoryTar{Reader: bytes.NewReader(b)}, members: map[string]member{}}
		if a.addAll(t.Context(), a.tar.Entries()) != nil {
			return
		}
		for name, m := range a.members {
			content, err := readFile(a, name, 1<<20)
			if err == nil && !m.link && (m.offset+m.size > int64(len(b)) || !bytes.Equal(content, b[m.offset:m.offset+m.size])) {
				t.Errorf("%q: %d bytes, want those from %d on", name, len(content), m.offset)
			}
		}
		ref := Reference{path: a.path}
		for _, src := range []source{&layout{ref: ref, files: a}, (&Fetcher{}).newDockerArchive(ref, a)} {
			im, err := (&resolver{ref: ref, src: src, fetches: maxDocuments}).resolve(t.Context())
			if err == nil && (im.Digest != digest.FromBytes(im.Manifest) || im.ConfigDigest != digest.FromBytes(im.Config)) {
				t.Errorf("%+v", im)
			}
		}
	})
}
