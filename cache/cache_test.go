package cache

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestOpenMakesADirectoryOfOnesOwn(t *testing.T) {
	h := newHouse(t)
	must(t, filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
}

func TestManyOpenOneNewDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c, err := Open(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setUp func(dir string) error
		want  string
		is    error
	}{
		{"a directory of somebody else", func(dir string) error { return os.Chown(dir, 12345, 12345) }, "belongs to user 12345", fs.ErrPermission},
		{"one that all may write to", func(dir string) error { return os.Chmod(dir, 0o777) }, "written to by others", fs.ErrPermission},
		{"one that the group may write to", func(dir string) error { return os.Chmod(dir, 0o770) }, "chmod go-w", fs.ErrPermission},
		{"one that holds other things", func(dir string) error { return os.WriteFile(dir+"/thesis.tex", nil, 0o600) }, "thesis.tex", nil},
		{"one of another version", func(dir string) error { return os.WriteFile(dir+"/version", []byte("imgfs cache 2\n"), 0o600) }, "another version", nil},
		{"a file", func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, "not a directory", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			must(t, os.Mkdir(dir, 0o700))
			must(t, tt.setUp(dir))
			_, err := Open(dir, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v is not %v", err, tt.is)
			}
		})
	}
}

func TestOpenFinishesWhatWasCutShort(t *testing.T) {
	for _, content := range []string{"", "imgfs"} {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o700))
		must(t, os.WriteFile(dir+"/version", []byte(content), 0o600))
		newHouseIn(t, dir)
	}
}

func TestDocumentsAreCheckedWheneverTheyAreRead(t *testing.T) {
	h := newHouse(t)
	doc := []byte(`{"schemaVersion": 2}`)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		d := alg.FromBytes(doc)
		_, err := h.Document(d)
		wantAbsent(t, err)
		must(t, h.PutDocument(d, doc))
		must(t, h.PutDocument(d, doc))
		got, err := h.Document(d)
		must(t, err)
		if string(got) != string(doc) {
			t.Errorf("got %q", got)
		}
		name, err := Documents.path(d)
		must(t, err)
		edit(t, filepath.Join(h.dir, name), overwrite(3, []byte("x")))
		_, err = h.Document(d)
		wantAbsent(t, err)
	}
	if names := h.ls("documents"); len(names) != 0 {
		t.Errorf("damaged documents stay: %q", names)
	}
	if err := h.PutDocument(digest.FromString("other"), doc); err == nil {
		t.Error("a document was put under another's digest")
	}
	if err := h.PutDocument(digest.FromBytes(doc), make([]byte, MaxDocument+1)); err == nil {
		t.Error("a huge document was put")
	}
}

// sameFile reports whether do leaves a file, which a write would replace.
func sameFile(t *testing.T, path string, do func() error) bool {
	t.Helper()
	before, err := os.Stat(path)
	must(t, err)
	must(t, do())
	after, err := os.Stat(path)
	must(t, err)
	return os.SameFile(before, after)
}

func TestWhatIsThereIsNotWrittenAgain(t *testing.T) {
	h := newHouse(t)
	doc := []byte("{}")
	d := digest.FromBytes(doc)
	name, err := Documents.path(d)
	must(t, err)
	first := Ref{Name: "r", Digest: d, MediaType: "m", Time: time.Unix(1, 0).UTC()}
	later, other, typed := first, first, first
	later.Time, other.Digest, typed.MediaType = time.Unix(2, 0).UTC(), digest.FromString("other"), "n"
	must(t, h.PutDocument(d, doc))
	must(t, h.PutRef(first))
	if !sameFile(t, filepath.Join(h.dir, name), func() error { return h.PutDocument(d, doc) }) {
		t.Error("the document was written again")
	}
	if !sameFile(t, h.dir+"/refs/r", func() error { return h.PutRef(later) }) {
		t.Error("the ref was written again")
	}
	if r, err := h.Ref("r"); r != first || err != nil {
		t.Errorf("Ref = %v, %v", r, err)
	}
	for _, r := range []Ref{other, first, typed} {
		must(t, h.PutRef(r))
		if got, err := h.Ref("r"); got != r || err != nil {
			t.Errorf("Ref = %v, %v; want %v", got, err, r)
		}
	}
	edit(t, filepath.Join(h.dir, name), overwrite(0, []byte("x")))
	must(t, h.PutDocument(d, doc))
	if got, err := h.Document(d); string(got) != "{}" || err != nil {
		t.Errorf("a damaged document was not written again: %q, %v", got, err)
	}
}

func TestOnlyWhatCanNotBeToldWhenTornIsSynced(t *testing.T) {
	h := newHouse(t)
	syncs := 0
	h.sync = func(f *os.File) error { syncs++; return f.Sync() }
	commit := func(kind Kind) error {
		tmp, err := h.Create(kind, digest.FromString("layer"))
		must(t, err)
		write(t, tmp, []byte("layer"))
		return tmp.Commit()
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want int // the file, and its directory
	}{
		{"a blob", func() error { h.putBlob(h.blob(5000)); return nil }, 0},
		{"frames", func() error { return commit(Frames) }, 0},
		{"an index", func() error { return commit(Indexes) }, 2},
		{"a document", func() error { return h.PutDocument(digest.FromString("{}"), []byte("{}")) }, 2},
		{"a ref", func() error { return h.PutRef(Ref{Name: "r", Digest: digest.FromString("{}")}) }, 2},
	} {
		syncs = 0
		if err := tt.do(); err != nil || syncs != tt.want {
			t.Errorf("%s: %d syncs, %v; want %d", tt.name, syncs, err, tt.want)
		}
	}
}

func TestDigestsThatAreNoneNeverBecomeAPath(t *testing.T) {
	h := newHouse(t)
	for _, d := range []digest.Digest{"", "sha256", "sha256:", "sha256:../../etc/passwd", "../x:" + digest.Digest(strings.Repeat("a", 64)),
		"md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + digest.Digest(strings.Repeat("A", 64))} {
		_, document := h.Document(d)
		_, index := h.OpenIndex(d)
		_, frames := h.OpenFrames(d)
		_, create := h.Create(Indexes, d)
		_, lock := h.Lock(t.Context(), d, nil)
		_, blob := h.Blob(d, 1, nil)
		_, _, has := h.HasBlob(d)
		for i, err := range []error{document, index, frames, create, lock, blob, has, h.PutDocument(d, nil), h.PutRef(Ref{Name: "x", Digest: d})} {
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q was taken for a digest by call %d", d, i)
			}
		}
	}
}

func TestRefs(t *testing.T) {
	h := newHouse(t)
	long := "oci:/" + strings.Repeat("very/", 500) + "long"
	names := []string{"docker.io/library/alpine:3", ".", "..", "../../etc/passwd", "a/b", "a%2Fb", "-", "~", "ü:\x00", long, long + "er"}
	want := map[string]Ref{}
	for i, name := range names {
		_, err := h.Ref(name)
		wantAbsent(t, err)
		r := Ref{Name: name, Digest: digest.FromString(name), MediaType: "application/json", Time: time.Unix(int64(i), 0).UTC()}
		must(t, h.PutRef(Ref{Name: name, Digest: digest.FromString("older")}))
		must(t, h.PutRef(r))
		want[name] = r
	}
	refs, err := h.refs()
	must(t, err)
	got := map[string]Ref{}
	for _, r := range refs {
		got[r.Name] = r
		one, err := h.Ref(r.Name)
		must(t, err)
		if one != r {
			t.Errorf("Ref(%q) = %v, Refs has %v", r.Name, one, r)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "\xff"} {
		if err := h.PutRef(Ref{Name: bad, Digest: digest.FromString("x")}); err == nil {
			t.Errorf("a ref with the name %q was put", bad)
		}
	}
}

func TestDamagedRefIsDropped(t *testing.T) {
	h := newHouse(t)
	must(t, h.PutRef(Ref{Name: "alpine", Digest: digest.FromString("x")}))
	must(t, os.Rename(h.dir+"/refs/alpine", h.dir+"/refs/debian")) // under another's name
	must(t, os.WriteFile(h.dir+"/refs/alpine", []byte("{"), 0o600))
	for _, name := range []string{"alpine", "debian"} {
		_, err := h.Ref(name)
		wantAbsent(t, err)
	}
	if names := h.ls("refs"); len(names) != 0 {
		t.Errorf("refs still holds %q", names)
	}
}

func TestTempAppearsWholeOrNotAtAll(t *testing.T) {
	h := newHouse(t)
	s := h.blob(100_000)
	open := func() error {
		f, err := h.OpenIndex(s.digest)
		if err == nil {
			f.Close()
		}
		return err
	}
	tmp, err := h.Create(Indexes, s.digest)
	must(t, err)
	write(t, tmp, s.data)
	wantAbsent(t, open())
	must(t, tmp.Abort())
	must(t, tmp.Abort())
	wantAbsent(t, open())
	if err := tmp.Commit(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Commit after Abort: %v", err)
	}
	if _, err := tmp.Write(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Abort: %v", err)
	}
	tmp, err = h.Create(Indexes, s.digest)
	must(t, err)
	write(t, tmp, s.data)
	must(t, tmp.Commit())
	must(t, tmp.Abort())
	f, err := h.OpenIndex(s.digest)
	must(t, err)
	defer f.Close()
	wantRange(t, f, s.data, 0, len(s.data))
	for _, kind := range []Kind{Documents, Refs, Blobs, Kind(77)} {
		if _, err := h.Create(kind, s.digest); err == nil {
			t.Errorf("%v were created", kind)
		}
	}
}

func TestWholeBlobIsServedWithoutItsSource(t *testing.T) {
	for _, size := range []int{0, 1, dataStart, 1<<20 + 5} {
		h := newHouse(t)
		s := h.blob(size)
		h.putBlob(s)
		wantRange(t, h.open(h.Cache, s), s.data, 0, size)
		s.wantReads(t)
		if cached, n, err := h.HasBlob(s.digest); cached != int64(size) || n != int64(size) || err != nil {
			t.Errorf("HasBlob = %d, %d, %v; want %d", cached, n, err, size)
		}
	}
}

func TestAStreamIsThereForALiveReader(t *testing.T) {
	h := newHouse(t)
	s := h.blob(100_000)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 1000)
	other := *h
	other.Cache = h.again()
	other.putBlob(s)
	wantRange(t, b, s.data, 0, 100_000)
	s.wantReads(t, piece{0, 1000})
}

func TestFailedTempLeavesNothing(t *testing.T) {
	h := newHouseIn(t, smallDisk(t, 1<<20))
	s := h.blob(2 << 20)
	tmp, err := h.Create(Indexes, s.digest)
	must(t, err)
	for range 2 {
		if _, err := tmp.Write(s.data); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("Write: %v", err)
		}
	}
	if err := tmp.Commit(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Commit: %v", err)
	}
	_, err = h.OpenIndex(s.digest)
	wantAbsent(t, err)
}

func TestAWriteGoesOnWhenThereIsRoomAgain(t *testing.T) {
	h := newHouseIn(t, smallDisk(t, 1<<20))
	other, index := h.blob(512<<10), h.blob(768<<10)
	inTheWay, err := h.Create(Frames, other.digest)
	must(t, err)
	write(t, inTheWay, other.data)
	tmp, err := h.Create(Indexes, index.digest)
	must(t, err)
	n, err := tmp.Write(index.data)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Write: %v", err)
	}
	must(t, inTheWay.Abort())
	write(t, tmp, index.data[n:])
	must(t, tmp.Commit())
	f, err := h.OpenIndex(index.digest)
	must(t, err)
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, index.data) {
		t.Errorf("the index has %d bytes (%v), not those that were written", len(got), err)
	}
}

func write(t *testing.T, tmp *Temp, b []byte) {
	t.Helper()
	if n, err := tmp.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}
