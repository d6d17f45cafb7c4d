package save

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imgfs/fetcher"
	"imgfs/internal/testimage"
)

// bundles are what is written in tests, by name.
func bundles() map[string]testimage.Bundle {
	amd, arm := imageOf("one", strings.Repeat("two", 30_000), "", "one"), imageOf("one", "three")
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	docker, sha512 := amd, amd
	docker.Docker, sha512.Algorithm = true, digest.SHA512
	for i, l := range sha512.Layers {
		sha512.Layers[i].DiffID = digest.FromBytes(l.Blob)
	}
	return map[string]testimage.Bundle{
		"an image": amd.Bundle(), "an image of Docker's": docker.Bundle(), "an image of SHA-512": sha512.Bundle(),
		"an index": testimage.Index(amd.Bundle(), testimage.Attestation(amd.Bundle()), testimage.Index(arm.Bundle())),
		"a list":   testimage.DockerList(docker.Bundle(), arm.Bundle()),
	}
}

func TestWhatIsWrittenIsWhatWasThere(t *testing.T) {
	for name, want := range bundles() {
		for _, to := range []string{"oci:%s", "oci:%s:v1", "oci-archive:%s", "oci-archive:%s:a/b", "dir:%s"} {
			to = fmt.Sprintf(to, filepath.Join(t.TempDir(), "new"))
			t.Run(name+"/"+to, func(t *testing.T) {
				b := bundleOf(t, want)
				if err := Write(t.Context(), destination(t, to), b, nil); err != nil {
					t.Fatal(err)
				}
				checkHolds(t, to, want)
			})
		}
	}
}

func TestAnArchiveOfDockersHasTheConfigAndTheLayers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	want := bundles()["an image"]
	b := bundleOf(t, want)
	mustWrite(t, "docker-archive:"+path+":me/app:v1", b)
	got := resolveAll(t, "docker-archive:"+path+":me/app:v1")
	if !bytes.Equal(got.Configs[0].Content, b.Configs[0].Content) || !slices.EqualFunc(got.Layers, b.Layers, func(a, b v1.Descriptor) bool { return a.Digest == b.Digest }) {
		t.Errorf("%v and %v", got.Configs, got.Layers)
	}
	for _, l := range got.Layers {
		if !bytes.Equal(readLayer(t, got, l), want.Blobs[l.Digest]) {
			t.Errorf("layer %s is another one", l.Digest)
		}
	}
	err := write(t, "docker-archive:"+filepath.Join(t.TempDir(), "b.tar"), bundleOf(t, bundles()["an index"]))
	if !errors.Is(err, fetcher.ErrReference) {
		t.Errorf("an index: %v", err)
	}
}

func TestAnArchiveOfDockersHasTheNameThatTheImageHasElsewhere(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	image := imageOf("one").Bundle()
	r.Push("a/b", "v1", image)
	for ref, want := range map[string][]string{
		r.Host() + "/a/b:v1": {r.Host() + "/a/b:v1"}, r.Host() + "/a/b:v1@" + image.Root.Digest.String(): {r.Host() + "/a/b:v1"},
		r.Host() + "/a/b@" + image.Root.Digest.String(): nil,
	} {
		path := filepath.Join(t.TempDir(), "a.tar")
		mustWrite(t, "docker-archive:"+path, resolveAll(t, ref))
		var items []testimage.DockerItem
		if err := json.Unmarshal([]byte(entriesOf(t, path)["manifest.json"]), &items); err != nil || !slices.Equal(items[0].RepoTags, want) {
			t.Errorf("%s: %+v, %v", ref, items, err)
		}
	}
}

// entriesOf returns the files of an archive.
func entriesOf(t testing.TB, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := readTar(f)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readTar(r io.Reader) (map[string]string, error) {
	files := map[string]string{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return files, err
		}
		files[h.Name] = string(b)
	}
}

// Docker loads zstd from version 23 on; before it takes what is not compressed, or with gzip.
func TestOfZstdLayersAnArchiveOfDockersHasTheTar(t *testing.T) {
	one, two := []byte(strings.Repeat("one", 50_000)), []byte(strings.Repeat("two", 50_000))
	image := testimage.Image{Layers: []testimage.Layer{
		testimage.NewLayer(testimage.Zstd(one), one), testimage.NewLayer(testimage.Gzip(two), two), testimage.NewLayer(testimage.Zstd(one), one),
	}}
	for _, shape := range testimage.ZstdShapes() {
		image.Layers = append(image.Layers, testimage.NewLayer(shape.Write(two), two))
	}
	want := image.Bundle()
	path := filepath.Join(t.TempDir(), "a.tar")
	mustWrite(t, "docker-archive:"+path, bundleOf(t, want))
	files := entriesOf(t, path)
	names := []string{blobName(digest.FromBytes(one)), blobName(digest.FromBytes(two)), blobName(digest.FromBytes(testimage.Gzip(two)))}
	if files[names[0]] != string(one) || files[names[1]] != string(two) || files[names[2]] != string(testimage.Gzip(two)) || len(files) != 5 {
		t.Errorf("there are %v", slices.Collect(maps.Keys(files)))
	}
	image.Layers[0].DiffID = digest.FromString("other")
	if err := write(t, "docker-archive:"+filepath.Join(t.TempDir(), "b.tar"), bundleOf(t, image.Bundle())); !errors.Is(err, fetcher.ErrMismatch) {
		t.Errorf("of another diff ID: %v", err)
	}
	bad := testimage.Zstd(one)
	bad = bad[:len(bad)-20]
	image.Layers[0] = testimage.NewLayer(bad, one)
	if err := write(t, "docker-archive:"+filepath.Join(t.TempDir(), "c.tar"), bundleOf(t, image.Bundle())); err == nil {
		t.Error("cut short: no error")
	}
}

func TestWrongBytesNeverAppear(t *testing.T) {
	const content = "some content that is longer than nothing"
	want := imageOf("first", content, "last").Bundle()
	for _, to := range []string{"oci:%s", "oci-archive:%s", "docker-archive:%s", "dir:%s"} {
		for name, with := range map[string]func() io.Reader{"wrong": wrong(content), "broken": breaks(content)} {
			dir := t.TempDir()
			b := bundleOf(t, want)
			failing(b, content, with, nil)
			err := write(t, fmt.Sprintf(to, filepath.Join(dir, "new")), b)
			if !errors.Is(err, fetcher.ErrMismatch) && !errors.Is(err, errBroken) {
				t.Errorf("%s, %s: %v", to, name, err)
			}
			for file, got := range tree(t, dir) {
				if whole := want.Blobs[digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(file))]; string(whole) != got || whole == nil {
					if !strings.HasPrefix(to, "oci:") || file != "new/index.json" && file != "new/oci-layout" {
						t.Errorf("%s, %s: %s is left", to, name, file)
					}
				}
			}
			if !strings.HasPrefix(to, "oci:") {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("%s, %s: %v is left (%v)", to, name, left, err)
				}
				continue
			}
			mustWrite(t, "oci:"+filepath.Join(dir, "new"), bundleOf(t, want)) // it goes on
			checkHolds(t, "oci:"+filepath.Join(dir, "new"), want)
		}
	}
}

func TestWhoIsDoubtedIsAskedOnceMore(t *testing.T) {
	content := strings.Repeat("some content", 10_000)
	image := imageOf("first", content, "last")
	zstd := testimage.Zstd([]byte(content))
	image.Layers = append(image.Layers, testimage.NewLayer(zstd, []byte(content)))
	want := image.Bundle()
	for _, to := range []string{"oci:%s", "oci-archive:%s", "docker-archive:%s", "dir:%s"} {
		for _, layer := range []string{content, string(zstd)} {
			dir := t.TempDir()
			b := bundleOf(t, want)
			doubted := 0
			failing(b, layer, wrong(layer), func(v1.Descriptor) bool {
				doubted++
				return true
			})
			path := fmt.Sprintf(to, filepath.Join(dir, "new"))
			if err := write(t, path, b); err != nil || doubted != 1 {
				t.Fatalf("%s: %v, doubted %d times", to, err, doubted)
			}
			if strings.HasPrefix(to, "docker-archive") {
				if files := entriesOf(t, filepath.Join(dir, "new")); files[blobName(digest.FromString(content))] != content || len(files) != 5 {
					t.Errorf("%s: %v", to, slices.Collect(maps.Keys(files)))
				}
				continue
			}
			checkHolds(t, path, want)
		}
	}
}

func TestOfStandardOutputTheEndIsMissingWhereALayerIsWrong(t *testing.T) {
	content := strings.Repeat("some content", 10_000)
	want := imageOf("first", content).Bundle()
	for _, to := range []string{"oci-archive:-", "docker-archive:-"} {
		var out bytes.Buffer
		if err := Write(t.Context(), destination(t, to), bundleOf(t, want), &out); err != nil {
			t.Fatal(err)
		}
		whole := out.Len()
		if files, err := readTar(&out); err != nil || files[blobName(digest.FromString(content))] != content {
			t.Errorf("%s: %d files, %v", to, len(files), err)
		}
		out.Reset()
		b := bundleOf(t, want)
		failing(b, content, wrong(content), func(v1.Descriptor) bool { return true })
		err := Write(t.Context(), destination(t, to), b, &out)
		if _, torn := readTar(&out); !errors.Is(err, fetcher.ErrMismatch) || torn != io.ErrUnexpectedEOF || out.Len() >= whole {
			t.Errorf("%s: %v, and who reads it gets %v", to, err, torn)
		}
	}
}

func TestWhatIsThereIsNotOverwritten(t *testing.T) {
	b := bundleOf(t, imageOf("one").Bundle())
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string]string{"file": "x", "empty": "", "full/x": "x", "layout/oci-layout": `{"imageLayoutVersion":"2.0.0"}`, "none/oci-layout": "{"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("emptydir"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, "dir:"+at("skopeo"), b)
	before := tree(t, at("full"))
	for _, to := range []string{
		"oci-archive:" + at("file"), "docker-archive:" + at("file"), "oci-archive:" + at("fifo"), "docker-archive:" + at("full"), "dir:" + at("full"),
		"dir:" + at("file"), "oci:" + at("file"), "oci:" + at("full"), "oci:" + at("layout"), "oci:" + at("none"), "oci:" + at("skopeo"), "dir:" + at("skopeo"),
		"oci-archive:" + at("nowhere/a.tar"), "oci:" + at("nowhere/layout"), "dir:" + at("nowhere/dir"),
	} {
		if err := write(t, to, b); err == nil {
			t.Errorf("%s: no error", to)
		}
	}
	if after := tree(t, at("full")); !maps.Equal(before, after) {
		t.Errorf("there are %v, and were %v", after, before)
	}
	for _, to := range []string{"oci-archive:" + at("empty"), "dir:" + at("emptydir")} {
		mustWrite(t, to, b)
	}
	if err := write(t, "dir:"+at("skopeo"), b); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
}

func TestALayoutIsAddedTo(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "layout")
	old, other, second := imageOf("base", "old").Bundle(), imageOf("base", "other").Bundle(), imageOf("base", "second").Bundle()
	if err := testimage.WriteLayout(layout, testimage.Tagged{Tag: "old", Bundle: old}, testimage.Tagged{Tag: "other", Bundle: other}, testimage.Tagged{Bundle: other}); err != nil {
		t.Fatal(err)
	}
	// What else is in the index stays.
	index := filepath.Join(layout, "index.json")
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"manifests":`), []byte(`"annotations":{"a":"b"},"future":[1],"manifests":`), 1)
	b = bytes.Replace(b, []byte(`"digest":`), []byte(`"unheard-of":{"x":1},"digest":`), -1)
	if err := os.WriteFile(index, b, 0o644); err != nil {
		t.Fatal(err)
	}
	base := testimage.BlobPath(layout, digest.FromString("base"))
	before, err := os.Stat(base)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, "oci:"+layout+":new", bundleOf(t, second))
	mustWrite(t, "oci:"+layout+":old", bundleOf(t, second))
	for tag, want := range map[string]testimage.Bundle{"old": second, "other": other, "new": second} {
		checkHolds(t, "oci:"+layout+":"+tag, want)
	}
	if after, err := os.Stat(base); err != nil || !os.SameFile(before, after) {
		t.Errorf("a blob that was there has been written anew: %v", err)
	}
	if b, err = os.ReadFile(index); err != nil || !bytes.Contains(b, []byte(`"annotations":{"a":"b"}`)) || !bytes.Contains(b, []byte(`"future":[1]`)) ||
		bytes.Count(b, []byte("unheard-of")) != 2 || bytes.Count(b, []byte(`"digest"`)) != 4 {
		t.Errorf("the index is %s (%v)", b, err)
	}
	if err := write(t, "oci:"+layout, bundleOf(t, second)); !errors.Is(err, fetcher.ErrReference) {
		t.Errorf("without a tag, where there are others: %v", err)
	}
	for name := range tree(t, layout) {
		if strings.Contains(name, temporary) {
			t.Errorf("%s is left", name)
		}
	}
}

func TestAnImageWithoutATagIsReplacedByItselfAlone(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "layout")
	one, two := imageOf("one").Bundle(), imageOf("two").Bundle()
	mustWrite(t, "oci:"+layout, bundleOf(t, one))
	mustWrite(t, "oci:"+layout, bundleOf(t, one))
	checkHolds(t, "oci:"+layout, one)
	if err := write(t, "oci:"+layout, bundleOf(t, two)); !errors.Is(err, fetcher.ErrReference) {
		t.Error(err)
	}
	mustWrite(t, "oci:"+layout+":two", bundleOf(t, two))
	checkHolds(t, "oci:"+layout+":two", two)
	checkHolds(t, "oci:"+layout+"@"+one.Root.Digest.String(), one)
}

func TestBlobsOfALayoutThatAreDamagedAreWrittenAnew(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "layout")
	want := imageOf("one", "two").Bundle()
	mustWrite(t, "oci:"+layout+":a", bundleOf(t, want))
	for d := range want.Blobs {
		for _, content := range []string{"", "x", strings.Repeat("x", len(want.Blobs[d]))} {
			if err := os.WriteFile(testimage.BlobPath(layout, d), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, "oci:"+layout+":b", bundleOf(t, want))
			checkHolds(t, "oci:"+layout+":a", want)
		}
	}
}

func TestSeveralWhoAddToALayoutAtOnceAllDo(t *testing.T) {
	layout := filepath.Join(t.TempDir(), "layout")
	var all []testimage.Bundle
	var written []*fetcher.Bundle
	for i := range 8 {
		b := imageOf("base", fmt.Sprint(i)).Bundle()
		all, written = append(all, b), append(written, bundleOf(t, b))
	}
	var g errgroup.Group
	for i, b := range written {
		g.Go(func() error { return Write(t.Context(), destination(t, fmt.Sprintf("oci:%s:%d", layout, i)), b, nil) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, want := range all {
		checkHolds(t, fmt.Sprintf("oci:%s:%d", layout, i), want)
	}
}

func TestNothingIsWrittenOutOfALayout(t *testing.T) {
	dir := t.TempDir()
	layout, outside := filepath.Join(dir, "layout"), filepath.Join(dir, "outside")
	mustWrite(t, "oci:"+layout+":a", bundleOf(t, imageOf("one").Bundle()))
	for _, name := range []string{"blobs/sha256", "blobs"} {
		if err := os.MkdirAll(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(layout, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(layout, name)); err != nil {
			t.Fatal(err)
		}
		if err := write(t, "oci:"+layout+":b", bundleOf(t, imageOf("two").Bundle())); err == nil {
			t.Errorf("through a link in the place of %s: no error", name)
		}
		if files := tree(t, outside); len(files) > 0 {
			t.Errorf("there are %v", files)
		}
	}
}

func TestAnEndThatIsAskedForLeavesNothing(t *testing.T) {
	want := imageOf("first", "content").Bundle()
	for _, to := range []string{"oci-archive:%s", "docker-archive:%s", "dir:%s"} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		b := bundleOf(t, want)
		open := b.Open
		b.Open = func(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
			if d.Digest == digest.FromString("content") {
				cancel()
			}
			return open(ctx, d)
		}
		if err := Write(ctx, destination(t, fmt.Sprintf(to, filepath.Join(dir, "new"))), b, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", to, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left (%v)", to, left, err)
		}
	}
}

func TestForeignLayersStayWhereTheyAre(t *testing.T) {
	content := "foreign"
	image := imageOf(content, "own")
	image.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	image.Layers[0].URLs = []string{"https://elsewhere.example/layer"}
	foreign := bundleOf(t, image.Bundle())
	for to, has := range map[string]map[bool]bool{
		"oci:%s": {true: true}, "dir:%s": {true: true}, "oci-archive:%s": {true: true},
		"docker-archive:%s": {true: true, false: true}, // which has no manifest to tell of them
	} {
		for _, asked := range []bool{false, true} {
			foreign.Foreign = asked
			dir := t.TempDir()
			mustWrite(t, fmt.Sprintf(to, filepath.Join(dir, "new")), foreign)
			found := false
			for _, file := range tree(t, dir) {
				found = found || strings.Contains(file, content+"\x00") || file == content
			}
			if found != has[asked] {
				t.Errorf("%s, asked for %v: it is there: %v", to, asked, found)
			}
		}
	}
}
