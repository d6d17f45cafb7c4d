package index

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

// tarOf is a tar without an end.
var tarOf = img.OpenTar

// walk gives the entries of a tar, copied.
func walk(t testing.TB, b []byte) ([]Entry, error) {
	t.Helper()
	src := &source{next: func() ([]byte, error) { return b, io.EOF }}
	w := newWalker(src, "sha256:test")
	var list []Entry
	for {
		e, err := w.next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, *e)
	}
}

// content reads an entry's content out of the tar by its extents.
func content(e *Entry, tarball io.ReaderAt) ([]byte, error) {
	if e.Size > 64<<20 {
		return nil, fmt.Errorf("%d bytes are too many for a test", e.Size)
	}
	b := make([]byte, e.Size)
	end := int64(0)
	for _, x := range e.Extents {
		if x.Logical < end || x.Length <= 0 || x.Logical+x.Length > e.Size {
			return nil, fmt.Errorf("extents %v of %d bytes", e.Extents, e.Size)
		}
		end = x.Logical + x.Length
		if n, err := tarball.ReadAt(b[x.Logical:end], x.Offset); int64(n) != x.Length {
			return nil, err
		}
	}
	return b, nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustBuild indexes a blob.
func mustBuild(t testing.TB, blob []byte) []byte {
	t.Helper()
	x, _ := mustBuildBoth(t, blob)
	return x
}

// mustBuildBoth indexes a blob, and gives the index and the frames.
func mustBuildBoth(t testing.TB, blob []byte) (x, frames []byte) {
	t.Helper()
	var out, more bytes.Buffer
	check(t, Build(bytes.NewReader(blob), wantOf(blob), Output{&out, func() (io.Writer, error) { return &more, nil }}))
	return out.Bytes(), more.Bytes()
}

func wantOf(blob []byte) Want {
	return Want{Blob: digest.FromBytes(blob), Size: int64(len(blob))}
}

func mustOpen(t testing.TB, b []byte) *Index {
	t.Helper()
	x, err := Open(bytes.NewReader(b), int64(len(b)))
	check(t, err)
	return x
}

// entriesOf collects an index's entries.
func entriesOf(x *Index) ([]Entry, error) {
	var list []Entry
	for e, err := range x.Entries() {
		if err != nil {
			return list, err
		}
		list = append(list, *e)
		list[len(list)-1].Extents = slices.Clone(e.Extents)
	}
	return list, nil
}

// run runs a program and gives its output.
func run(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return out
}

// A goEntry is what archive/tar makes of an entry.
type goEntry struct {
	*tar.Header
	content []byte
}

// goWalk reads a tar with archive/tar. Global headers are left out. It stops at contents over 64 MiB.
func goWalk(b []byte) (list []goEntry, err error) {
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if h.Size > 64<<20 && !contentless(h.Typeflag) {
			return append(list, goEntry{Header: h}), errHuge
		}
		c, err := io.ReadAll(r)
		list = append(list, goEntry{h, c})
		if err != nil {
			return list, err
		}
	}
}

var errHuge = fmt.Errorf("content too long for a test")

// refused tells whether an entry that archive/tar takes is one that this package refuses by its own rules.
func refused(h *tar.Header) bool {
	for key, value := range h.PAXRecords {
		switch {
		case strings.HasPrefix(key, paxXattr), key == paxMajor, key == paxMinor:
			return true // may be: the rules for these are tested by themselves
		case key == paxSparseName && strings.Contains(value, "\x00"):
			return true
		}
	}
	device := h.Typeflag == TypeChar || h.Typeflag == TypeBlock
	return h.Uid < 0 || h.Uid > MaxID || h.Gid < 0 || h.Gid > MaxID || h.Size < 0 ||
		len(h.Name) > MaxName || len(h.Linkname) > MaxName ||
		device && (h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32) ||
		h.ModTime.Unix() > math.MaxInt64-2 || h.ModTime.Unix() < math.MinInt64+2
}

// diff tells how an entry differs from what archive/tar makes of it.
func diff(e *Entry, g *goEntry, tarball io.ReaderAt) string {
	h := g.Header
	typ := h.Typeflag
	if typ == tar.TypeCont || typ == tar.TypeGNUSparse {
		typ = TypeRegular
	}
	size, target := h.Size, h.Linkname
	if contentless(typ) {
		size = 0
	}
	if typ != TypeLink && typ != TypeSymlink {
		target = ""
	}
	device := typ == TypeChar || typ == TypeBlock
	seen := func(p string) bool { _, ok := h.PAXRecords[p]; return ok }
	switch {
	case e.Name != h.Name || e.Linkname != target || e.Type != typ:
		return fmt.Sprintf("%q %q %c, not %q %q %c", e.Name, e.Linkname, e.Type, h.Name, target, typ)
	case int64(e.Mode) != h.Mode&0o7777:
		return fmt.Sprintf("mode %o, not %o", e.Mode, h.Mode)
	case int(e.UID) != h.Uid || int(e.GID) != h.Gid:
		return fmt.Sprintf("ids %d:%d, not %d:%d", e.UID, e.GID, h.Uid, h.Gid)
	case e.Size != size:
		return fmt.Sprintf("size %d, not %d", e.Size, size)
	case e.MtimeSec != h.ModTime.Unix() || int(e.MtimeNsec) != h.ModTime.Nanosecond():
		return fmt.Sprintf("time %d.%09d, not %v", e.MtimeSec, e.MtimeNsec, h.ModTime)
	case device && !seen(paxMajor) && int64(e.Major) != h.Devmajor, device && !seen(paxMinor) && int64(e.Minor) != h.Devminor:
		return fmt.Sprintf("device %d:%d, not %d:%d", e.Major, e.Minor, h.Devmajor, h.Devminor)
	}
	for _, x := range e.Xattrs {
		if v, ok := h.PAXRecords[paxXattr+x.Name]; ok && v != x.Value {
			return fmt.Sprintf("attribute %s is %q, not %q", x.Name, x.Value, v)
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if ok && !hasXattr(e, name, value) {
			return fmt.Sprintf("no attribute %s", name)
		}
	}
	got, err := content(e, tarball)
	if err != nil {
		return err.Error()
	}
	if !bytes.Equal(got, g.content) {
		return "content differs"
	}
	return ""
}

func hasXattr(e *Entry, name, value string) bool {
	for _, x := range e.Xattrs {
		if x.Name == name && x.Value == value {
			return true
		}
	}
	return false
}

// compareWalks holds the walk of a tar against archive/tar's.
func compareWalks(t testing.TB, b []byte) {
	t.Helper()
	got, err := walk(t, b)
	want, goErr := goWalk(b)
	tarball := bytes.NewReader(b)
	for i := range min(len(got), len(want)) {
		if want[i].content == nil && goErr != nil && i == len(want)-1 {
			break
		}
		if d := diff(&got[i], &want[i], tarball); d != "" && !(goErr != nil && i == len(want)-1) {
			t.Fatalf("entry %d %q: %s", i, got[i].Name, d)
		}
	}
	switch {
	case goErr == errHuge:
	case err == nil && goErr != nil:
		t.Fatalf("archive/tar fails with %v after %d entries, the walk gives %d", goErr, len(want), len(got))
	case err == nil && len(got) != len(want):
		t.Fatalf("%d entries, not %d", len(got), len(want))
	case err != nil && goErr == nil && !(len(got) < len(want) && refused(want[len(got)].Header)):
		t.Fatalf("after %d entries of %d: %v", len(got), len(want), err)
	}
}

// goroot is where Go is.
func goroot(t testing.TB) string {
	return strings.TrimSpace(string(run(t, ".", "go", "env", "GOROOT")))
}

// pipe runs b through a program.
func pipe(t testing.TB, b []byte, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = bytes.NewReader(b)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return out
}

// A zeroTar is a tar of one file of zeros, made as it is read.
type zeroTar struct {
	head []byte // of the header, what hasn't been read
	left int64
}

func newZeroTar(size int64) *zeroTar {
	return &zeroTar{tarOf(img.File("zeros", "", img.Size(size))), size}
}

func (z *zeroTar) Read(p []byte) (int, error) {
	if len(z.head) > 0 {
		n := copy(p, z.head)
		z.head = z.head[n:]
		return n, nil
	}
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(z.left, int64(len(p))))
	clear(p[:n])
	z.left -= int64(n)
	return n, nil
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// liveHeap is how many bytes of the heap are in use.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
