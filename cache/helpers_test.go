package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A house is a cache in a directory of its own, of which every test leaves a
// state that check accepts.
type house struct {
	*Cache
	t        *testing.T
	dir      string
	log      *logBook
	start    time.Time
	contents map[digest.Digest][]byte // of blobs; read-only once the test runs
}

func newHouse(t *testing.T) *house { return newHouseIn(t, filepath.Join(t.TempDir(), "cache")) }

func newHouseIn(t *testing.T, dir string) *house {
	t.Helper()
	h := &house{t: t, dir: dir, log: &logBook{}, start: time.Now(), contents: map[digest.Digest][]byte{}}
	h.Cache = h.again()
	t.Cleanup(func() {
		h.Close() // a collection may be under way
		h.check()
	})
	return h
}

// again opens the directory a second time, as another process would.
func (h *house) again() *Cache {
	h.t.Helper()
	c, err := Open(h.dir, &Options{Log: slog.New(slog.NewTextHandler(h.log, nil))})
	must(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// blob makes a source of n random bytes.
func (h *house) blob(n int) *source {
	s := sourceOf(randomBytes(uint64(len(h.contents)), n))
	h.contents[s.digest] = s.data
	return s
}

// putBlob makes all of a blob there.
func (h *house) putBlob(s *source) {
	h.t.Helper()
	b, err := h.Blob(s.digest, int64(len(s.data)), s)
	must(h.t, err)
	r := b.Stream(h.t.Context())
	_, err = io.Copy(io.Discard, r)
	must(h.t, errors.Join(err, r.Close(), b.Close()))
}

// open opens a source's blob, and closes it with the test.
func (h *house) open(c *Cache, s *source) *Blob {
	h.t.Helper()
	b, err := c.Blob(s.digest, int64(len(s.data)), s)
	must(h.t, err)
	h.t.Cleanup(func() { b.Close() })
	return b
}

// check is the consistency check: no leftovers, no locks, every map sound,
// and every byte that is promised the right one.
func (h *house) check() {
	for _, dir := range []string{tempDir, lockDir} {
		if names := h.ls(dir); len(names) > 0 {
			h.t.Errorf("%s still holds %q", dir, names)
		}
	}
	for _, name := range h.ls(Blobs.dir()) {
		d, ok := digestOf(name)
		if !ok {
			h.t.Errorf("blobs holds %q", name)
		}
		if want, ok := h.contents[d]; ok {
			h.checkBlob(filepath.Join(h.dir, Blobs.dir(), name), want)
		}
	}
}

func (h *house) checkBlob(path string, want []byte) {
	raw, err := os.ReadFile(path)
	must(h.t, err)
	for _, p := range presentIn(h.t, raw, len(want)) {
		if end := dataStart + p.hi; int64(len(raw)) < end || !bytes.Equal(raw[dataStart+p.lo:end], want[p.lo:p.hi]) {
			h.t.Errorf("%s: bytes %d to %d are promised and wrong", path, p.lo, p.hi)
		}
	}
	f, err := os.Open(path)
	must(h.t, err)
	defer f.Close()
	for _, off := range []int64{useByte, logByte, spoolByte, 0} {
		if held, err := locked(f, off); held || err != nil {
			h.t.Errorf("%s: lock at %d still held (%v)", path, off, err)
		}
	}
}

// presentIn decodes a map apart from the code that is tested as a whole.
func presentIn(t *testing.T, raw []byte, size int) ranges {
	t.Helper()
	var l mapLog
	var present ranges
	_, err := l.readHeader(bytes.NewReader(raw))
	must(t, err)
	if l.size != int64(size) {
		t.Errorf("the header says %d bytes, want %d", l.size, size)
	}
	must(t, l.replay(bytes.NewReader(raw), func(r record) {
		if r.op == opPresent {
			present = present.add(r.piece)
		} else {
			present = present.remove(r.piece)
		}
	}))
	return present
}

func (h *house) ls(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(h.dir, dir))
	must(h.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// path returns where a blob is on disk.
func (h *house) path(s *source) string {
	name, err := Blobs.path(s.digest)
	must(h.t, err)
	return filepath.Join(h.dir, name)
}

// A source has fault switches, all of which are set before it is used.
type source struct {
	data   []byte
	digest digest.Digest

	before    func(p piece) error // called before a range is served
	rangeless bool
	stream    func(context.Context) io.Reader // what Open gives, instead of data

	mu    sync.Mutex
	reads []piece
	opens []piece
}

func sourceOf(data []byte) *source { return &source{data: data, digest: digest.FromBytes(data)} }

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	want := piece{off, off + int64(len(p))}
	s.mu.Lock()
	s.reads = append(s.reads, want)
	s.mu.Unlock()
	if s.rangeless {
		return 0, fmt.Errorf("200 for a range: %w", errors.ErrUnsupported)
	}
	if s.before != nil {
		if err := s.before(want); err != nil {
			return 0, err
		}
	}
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func (s *source) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens = append(s.opens, piece{off, off + n})
	if s.rangeless && n < int64(len(s.data)) {
		return nil, fmt.Errorf("200 for a range: %w", errors.ErrUnsupported)
	}
	if s.stream != nil {
		return io.NopCloser(s.stream(ctx)), nil
	}
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(s.data), off, n)), nil
}

func (s *source) asked() (reads, opens []piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reads), slices.Clone(s.opens)
}

// wantReads checks which ranges were asked for so far.
func (s *source) wantReads(t *testing.T, want ...piece) {
	t.Helper()
	got, _ := s.asked()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the source was asked for %v, want %v", got, want)
	}
}

// wantRange reads [lo, hi) and compares. It may be called from any goroutine.
func wantRange(t *testing.T, b io.ReaderAt, data []byte, lo, hi int) {
	t.Helper()
	p := make([]byte, hi-lo)
	if n, err := b.ReadAt(p, int64(lo)); n != len(p) || err != nil && err != io.EOF {
		t.Errorf("ReadAt(%d bytes, %d) = %d, %v", len(p), lo, n, err)
	} else if !bytes.Equal(p, data[lo:hi]) {
		t.Errorf("bytes %d to %d are wrong", lo, hi)
	}
}

// wantRangeOrDamage is wantRange as the readers of blobs do it: bytes that are
// wrong are discarded, and right the second time.
func wantRangeOrDamage(t *testing.T, b *Blob, data []byte, lo, hi int) {
	t.Helper()
	p := make([]byte, hi-lo)
	if _, err := b.ReadAt(p, int64(lo)); err == nil && !bytes.Equal(p, data[lo:hi]) {
		must(t, b.Discard(int64(lo), int64(hi-lo)))
	}
	wantRange(t, b, data, lo, hi)
}

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}

// A logBook keeps what was logged.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.text.Bytes(), []byte(what))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantAbsent(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

// smallDisk mounts a tmpfs of that many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount a small disk (this test runs as root): %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// refs returns all refs, sorted by name.
func (c *Cache) refs() ([]Ref, error) {
	files, err := c.names(Refs.dir())
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var refs []Ref
	for _, file := range files {
		r, err := c.readRef(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		refs = append(refs, r)
	}
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	return refs, nil
}
