package fetcher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgfs/internal/testimage"
)

// writeArchive returns the path of a new file of that content.
func writeArchive(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tarFile(t testing.TB, files ...testimage.Entry) string {
	t.Helper()
	return writeArchive(t, testimage.Tar(files...))
}

func TestNamesInAnArchiveLeadWhereTheyWouldUnpacked(t *testing.T) {
	long := strings.Repeat("long/", 60) + "name"
	segments := []testimage.Segment{{Offset: 0, Data: "x"}, {Offset: 9}}
	path := tarFile(t,
		testimage.File("./plain", "1"), testimage.File("/../abs/x", "2"), testimage.File(long, "3"), testimage.File("gnu/"+long, "4", testimage.GNU()),
		testimage.File("twice", "old"), testimage.Link("hard", "./twice"), testimage.File("twice", "new"),
		testimage.File("gone", "x"), testimage.Dir("gone"),
		testimage.Symlink("d/rel", "../plain"), testimage.Symlink("root", "/abs/x"), testimage.Symlink("out", "../../../../plain"),
		testimage.Symlink("chain", "d/../root"), testimage.Symlink("dir", "abs"), testimage.Symlink("self", "."),
		testimage.Symlink("dangling", "nowhere"), testimage.Symlink("loop", "pool"), testimage.Symlink("pool", "loop"),
		testimage.File(strings.Repeat("n/", 600)+"n", "6"), testimage.Link("unlinked", "nowhere"), testimage.File("empty", ""),
		testimage.SparseGNU("sparse", 9, segments), testimage.SparsePAX00("sparse00", 9, segments),
		testimage.SparsePAX01("sparse01", 9, segments), testimage.SparsePAX10("sparse10", 9, segments), testimage.File("after", "5"),
	)
	f, _ := newFetcher(t, Options{})
	a, err := f.openArchive(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"plain": "1", "./plain": "1", "abs/x": "2", long: "3", "gnu/" + long: "4", "twice": "new", "hard": "old", "d/rel": "1",
		"root": "2", "out": "1", "chain": "2", "dir/x": "2", "self/self/plain": "1", "empty": "", "after": "5", "/plain": "1", "../plain": "1",
	} {
		if b, err := readFile(a, name, 10); err != nil || string(b) != want {
			t.Errorf("%s holds %q (%v), want %q", name, b, err, want)
		}
	}
	for name, kind := range map[string]error{
		"gone": ErrNotFound, "dangling": ErrNotFound, "unlinked": ErrNotFound, "none": ErrNotFound, "plain/x": ErrNotFound, "abs": ErrNotFound,
		"": ErrNotFound, "self": ErrNotFound, strings.Repeat("n/", 600) + "n": ErrNotFound, "loop": ErrMalformed, "sparse": errors.ErrUnsupported,
		"sparse00": errors.ErrUnsupported, "sparse01": errors.ErrUnsupported, "sparse10": errors.ErrUnsupported,
	} {
		if b, err := readFile(a, name, 10); !errors.Is(err, kind) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s holds %q (%v), want: %v", name, b, err, kind)
		}
	}
}

func TestArchivesThatAreNoneAreRefused(t *testing.T) {
	whole := testimage.Tar(testimage.File("a", strings.Repeat("x", 2000)), testimage.File("b", "y"))
	many := make([]testimage.Entry, maxMembers+1)
	for i := range many {
		many[i] = testimage.Dir("d")
	}
	named := make([]testimage.Entry, 20)
	for i := range named {
		named[i] = testimage.File(fmt.Sprint(i)+strings.Repeat("n", 1000<<10), "")
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := newFetcher(t, Options{})
	for _, test := range []struct {
		name, path string
		kind       error
		say        string
	}{
		{"cut short in content", writeArchive(t, whole[:1500]), ErrMalformed, "malformed after 1 entries"},
		{"cut short in a header", writeArchive(t, whole[:2800]), ErrMalformed, "malformed after 1 entries"},
		{"no tar", writeArchive(t, noise(1000)), ErrMalformed, "is not a tar"},
		{"too many files", tarFile(t, many...), errTooMany, "more than 65536 files"},
		{"names that are too long", tarFile(t, named...), errTooMany, "names of more than 16 MiB"},
		{"bzip2", writeArchive(t, []byte("BZh91AY&SY")), errors.ErrUnsupported, "bzip2"},
		{"xz", writeArchive(t, []byte("\xfd7zXZ\x00")), errors.ErrUnsupported, "xz"},
		{"a directory", t.TempDir(), ErrReference, "not a regular file"},
		{"a FIFO", fifo, ErrReference, "not a regular file"},
		{"nothing", filepath.Join(t.TempDir(), "x"), ErrNotFound, "no such file"},
	} {
		_, err := f.openArchive(t.Context(), test.path)
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.say) || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAnArchiveThatChangesIsNoticed(t *testing.T) {
	path := tarFile(t, testimage.LayoutFiles(testimage.Tagged{Bundle: imageOf([]byte("x")).Bundle()})...)
	f, _ := newFetcher(t, Options{})
	im := resolve(t, f, "oci-archive:"+path)
	if err := os.WriteFile(path, testimage.Tar(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Blob(t.Context(), im, im.Layers[0]); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("got %v", err)
	}
}

func TestALayoutInAnArchiveIsALayout(t *testing.T) {
	content := noise(100_000)
	b := imageOf(content, nil).Bundle()
	files := testimage.LayoutFiles(testimage.Tagged{Tag: "v1", Bundle: b}, testimage.Tagged{Tag: "v2", Bundle: imageOf([]byte("y")).Bundle()})
	path := tarFile(t, files...)
	f, _ := newFetcher(t, Options{})
	for _, ref := range []string{"oci-archive:" + path + ":v1", "oci-archive:" + path + "@" + b.Root.Digest.String(), path + ":v1"} {
		im := resolve(t, f, ref)
		if im.Digest != b.Root.Digest || !bytes.Equal(im.Manifest, b.Blobs[b.Root.Digest]) || !strings.HasPrefix(im.Ref.String(), "oci-archive:"+path) {
			t.Errorf("%s is %s %s", ref, im.Ref, im.Digest)
		}
		blob := openBlob(t, f, ref, 0)
		got, err := operations["the stream"](t.Context(), blob)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the layer is %d bytes (%v)", ref, len(got), err)
		}
		if p, err := readRange(blob, 70_000, 100_000); err != nil || !bytes.Equal(p, content[70_000:]) {
			t.Errorf("%s: a range gives %v", ref, err)
		}
		if _, err := blob.ReadAt(make([]byte, 2), int64(len(content))-1); err != io.EOF {
			t.Errorf("%s: what comes after the layer in the archive is read: %v", ref, err)
		}
	}
	for ref, kind := range map[string]error{"": ErrReference, ":v3": ErrNotFound} {
		if _, err := f.Resolve(t.Context(), parse(t, "oci-archive:"+path+ref)); !errors.Is(err, kind) || !strings.Contains(err.Error(), `"v1", "v2"`) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
