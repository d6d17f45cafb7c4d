package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// limit bounds what a cache takes, its documents and all.
func limit(c *Cache, size int64) { c.bounds.Limits = Limits{Size: size} }

// collect collects by hand.
func (h *house) collect(size int64) Collection {
	h.t.Helper()
	limit(h.Cache, size)
	done, err := h.Collect(h.t.Context())
	must(h.t, err)
	return done
}

// disk is what the cache takes.
func (h *house) disk() int64 {
	h.t.Helper()
	r, err := h.room()
	must(h.t, err)
	return r.Disk
}

// wantPresent checks which ranges of a blob are there; none for a blob that is not.
func (h *house) wantPresent(s *source, want ...piece) {
	h.t.Helper()
	var got ranges
	raw, err := os.ReadFile(h.path(s))
	switch {
	case err == nil:
		got = presentIn(h.t, raw, len(s.data))
	case !errors.Is(err, fs.ErrNotExist):
		h.t.Fatal(err)
	}
	if !slices.Equal(got, ranges(want)) {
		h.t.Errorf("of a blob of %d bytes there is %v, want %v", len(s.data), got, want)
	}
}

// put keeps an index or frames, which were used last at some hour.
func (h *house) put(kind Kind, hour int, name string, size int) digest.Digest {
	h.t.Helper()
	d := digest.FromString(name)
	tmp, err := h.Create(kind, d)
	must(h.t, err)
	write(h.t, tmp, make([]byte, size))
	must(h.t, tmp.Commit())
	h.hour(h.Cache, hour)
	h.used(kind, d)
	return d
}

// has tells whether an index or frames are there.
func (h *house) has(kind Kind, d digest.Digest) bool {
	h.t.Helper()
	name, err := kind.path(d)
	must(h.t, err)
	_, err = os.Stat(filepath.Join(h.dir, name))
	return err == nil
}

func TestLeastRecentlyUsedRangesGoFirstWhateverBlobTheyAreOf(t *testing.T) {
	h := newHouse(t)
	a, b := h.blob(4*mib), h.blob(3*mib+5)
	h.read(h.Cache, 0, a, 0, 4*mib)
	h.read(h.Cache, 1, b, 0, 3*mib+5)
	h.read(h.Cache, 2, a, 2*mib, 3*mib)
	h.read(h.Cache, 3, a, 0, 10)
	h.read(h.Cache, 4, b, 2*mib, 2*mib+10)
	full := h.disk()
	for _, step := range []struct {
		free int64 // at least
		a, b []piece
	}{
		{0, []piece{{0, 4 * mib}}, []piece{{0, 3*mib + 5}}},
		{1, []piece{{0, mib}, {2 * mib, 4 * mib}}, []piece{{0, 3*mib + 5}}},
		{mib + 1, []piece{{0, mib}, {2 * mib, 3 * mib}}, []piece{{0, 3*mib + 5}}},
		{4 * mib, []piece{{0, mib}, {2 * mib, 3 * mib}}, []piece{{2 * mib, 3*mib + 5}}},
		{4*mib + 100<<10, []piece{{0, mib}}, []piece{{2 * mib, 3 * mib}}},
		{5*mib + 100<<10, nil, []piece{{2 * mib, 3 * mib}}},
	} {
		if done := h.collect(full - step.free); h.disk() > full-step.free || done.Over != 0 {
			t.Errorf("%d bytes are left after a collection of %d out of %d: %+v", h.disk(), step.free, full, done)
		}
		h.wantPresent(a, step.a...)
		h.wantPresent(b, step.b...)
	}
	if names := h.ls(Blobs.dir()); len(names) != 1 {
		t.Errorf("%q are left", names)
	}
	for _, s := range []*source{a, b} {
		blob := h.open(h.Cache, s)
		wantRange(t, blob, s.data, 0, len(s.data))
	}
}

func TestIndexesGoAfterAllRangesWithTheirFramesAndDocumentsNever(t *testing.T) {
	h := newHouse(t)
	s := h.blob(mib)
	old, new := h.put(Indexes, 1, "old", 100_000), h.put(Indexes, 3, "new", 200_000)
	frames := h.put(Frames, 3, "new", 400_000)
	orphan := h.put(Frames, 2, "orphan", 100_000)
	document := digest.FromString("{}")
	must(t, h.PutDocument(document, []byte("{}")))
	must(t, h.PutRef(Ref{Name: "a", Digest: document}))
	h.read(h.Cache, 9, s, 0, mib)
	for _, step := range []struct {
		free                  int64
		s, old, orphan, newer bool
	}{
		{0, true, true, true, true},
		{1, false, true, true, true},
		{1, false, false, true, true},
		{1, false, false, false, true},
		{1, false, false, false, false},
	} {
		done := h.collect(h.disk() - step.free)
		got := []bool{h.has(Blobs, s.digest), h.has(Indexes, old), h.has(Frames, orphan), h.has(Indexes, new), h.has(Frames, frames)}
		if want := []bool{step.s, step.old, step.orphan, step.newer, step.newer}; !slices.Equal(got, want) {
			t.Fatalf("there are %v, want %v (%+v)", got, want, done)
		}
	}
	if done := h.collect(1); done.Over == 0 || done.Freed != 0 {
		t.Errorf("documents and refs alone: %+v", done)
	}
	if _, err := h.Document(document); err != nil {
		t.Error(err)
	}
}

func TestAnIndexIsUsedWhenItIsOpenedAndUntilItsUserSaysSo(t *testing.T) {
	h := newHouse(t)
	d := h.put(Indexes, 0, "layer", 10)
	hour := func() int {
		return int(h.item(Indexes, d).Used.Sub(h.start).Round(time.Hour) / time.Hour)
	}
	h.hour(h.Cache, 3)
	f, err := h.OpenIndex(d)
	must(t, err)
	if got := hour(); got != 3 {
		t.Errorf("used at hour %d, opened at 3", got)
	}
	must(t, f.Close())
	h.hour(h.Cache, 8)
	h.Used(d)
	if got := hour(); got != 8 {
		t.Errorf("used at hour %d, in use until 8", got)
	}
}

func TestWhatIsInUseIsNotCollected(t *testing.T) {
	h := newHouse(t)
	s, unused := h.blob(2*mib), h.blob(2*mib)
	h.read(h.Cache, 5, unused, 0, 2*mib)
	blob := h.open(h.again(), s)
	wantRange(t, blob, s.data, 0, 2*mib)
	must(t, blob.landed())
	layer, building := h.put(Indexes, 0, "layer", 100_000), h.put(Indexes, 0, "building", 100_000)
	index, err := h.again().OpenIndex(layer)
	must(t, err)
	defer index.Close()
	unlock, err := h.again().Lock(t.Context(), building, nil)
	must(t, err)
	done := h.collect(1)
	if !h.has(Indexes, layer) || !h.has(Indexes, building) || done.Over < 2*mib || done.Freed < 2*mib || done.Blobs != 1 || done.Indexes != 0 {
		t.Errorf("%+v", done)
	}
	h.wantPresent(s, piece{0, 2 * mib})
	h.wantPresent(unused)
	reads, _ := s.asked()
	wantRange(t, blob, s.data, 0, 2*mib)
	s.wantReads(t, reads...)
	unlock()
	must(t, errors.Join(blob.Close(), index.Close()))
	if done := h.collect(1); done.Blobs != 1 || done.Indexes != 2 || done.Over > 100_000 {
		t.Errorf("when nothing is in use: %+v", done)
	}
}

func TestSpaceIsKeptFreeOnTheFileSystem(t *testing.T) {
	h := newHouseIn(t, filepath.Join(smallDisk(t, 8*mib), "cache"))
	s := h.blob(4 * mib)
	h.read(h.Cache, 0, s, 0, 4*mib)
	h.read(h.Cache, 1, s, mib, 2*mib)
	h.bounds.Limits = Limits{Free: -1}
	r, err := h.room()
	must(t, err)
	if r.Floor != 8*mib/20/4096*4096 && r.Floor != 8*mib/20 {
		t.Errorf("by default %d bytes are kept free", r.Floor)
	}
	done, err := h.Collect(t.Context())
	if err != nil || done.Freed > 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	h.bounds.Limits = Limits{Free: r.Free + 2*mib + 1}
	if done, err = h.Collect(t.Context()); err != nil || done.Freed < 2*mib+1 || done.Over > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	h.wantPresent(s, piece{mib, 2 * mib})
}

func TestARangeThatFindsNoRoomTakesThatOfAnOlderOne(t *testing.T) {
	for name, rangeless := range map[string]bool{"by ranges": false, "streamed": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouseIn(t, filepath.Join(smallDisk(t, 6*mib), "cache"))
			h.bounds.Limits = Limits{Size: 1 << 40}
			old, s := h.blob(4*mib), h.blob(4*mib)
			h.read(h.Cache, 0, old, 0, 4*mib)
			s.rangeless = rangeless
			b := h.open(h.Cache, s)
			for lo := 0; lo < len(s.data); lo += mib / 2 {
				wantRange(t, b, s.data, lo, lo+mib/2)
			}
			must(t, b.Close())
			h.wantPresent(s, piece{0, 4 * mib})
			if n := h.log.count("can't be written"); n != 0 {
				t.Errorf("%d log lines blame the disk", n)
			}
			if cached, _, err := h.HasBlob(old.digest); cached == 4*mib {
				t.Errorf("nothing was taken away (%v)", err)
			}
		})
	}
}

func TestAnIndexThatFindsNoRoomTakesThatOfOlderRanges(t *testing.T) {
	h := newHouseIn(t, filepath.Join(smallDisk(t, 4*mib), "cache"))
	h.bounds.Limits = Limits{Size: 1 << 40}
	s := h.blob(3 * mib)
	h.read(h.Cache, 0, s, 0, 3*mib)
	if d := h.put(Indexes, 1, "index", 3*mib); !h.has(Indexes, d) {
		t.Error("it is not there")
	}
}

// Who adds to a cache sees to it that it is within its limits when he goes.
func TestCloseCollectsIfSomethingWasAdded(t *testing.T) {
	h := newHouse(t)
	s, other := h.blob(4*mib), h.blob(4*mib)
	h.read(h.Cache, 0, s, 0, 4*mib)
	c := h.again()
	limit(c, 5*mib)
	h.read(c, 1, s, 0, 4*mib)
	must(t, c.Close())
	c = h.again()
	limit(c, 1)
	must(t, c.Close())
	h.wantPresent(s, piece{0, 4 * mib}) // nothing was added
	c = h.again()
	limit(c, 5*mib)
	h.read(c, 2, other, 0, 4*mib)
	must(t, c.Close())
	if disk := h.disk(); disk > 5*mib {
		t.Errorf("%d bytes are left", disk)
	}
	h.wantPresent(other, piece{0, 4 * mib})
}

func TestWhoAddsMuchCollectsMeanwhile(t *testing.T) {
	h := newHouse(t)
	old, s := h.blob(3*mib), h.blob(8*mib)
	h.read(h.Cache, 0, old, 0, 3*mib)
	limit(h.Cache, 4*mib)
	b := h.open(h.Cache, s)
	for lo := 0; lo < len(s.data); lo += mib {
		wantRange(t, b, s.data, lo, lo+mib)
	}
	must(t, b.landed())
	h.bounds.running.Wait()
	h.wantPresent(old)
	h.wantPresent(s, piece{0, 8 * mib})
	if h.log.count("over its limits") == 0 {
		t.Error("the log does not tell that the rest is in use")
	}
	// The last collection found nothing to take away, and nothing has come since.
	done, err := h.Collect(t.Context())
	if err != nil || done.Over == 0 {
		t.Errorf("%+v, %v", done, err)
	}
	must(t, errors.Join(b.Close(), h.Close()))
	other := h.again()
	if r, err := other.room(); err != nil || r.Disk > 4*mib {
		t.Errorf("when it is closed there are %d bytes (%v)", r.Disk, err)
	}
}

// What somebody wrote or dropped who was killed before he was done takes room too.
func TestRoomThatNoMapPromisesIsGivenBack(t *testing.T) {
	h := newHouse(t)
	s := h.blob(8 * mib)
	h.read(h.Cache, 0, s, 0, mib)
	h.read(h.Cache, 1, s, mib, 2*mib)
	before := h.disk()
	edit(t, h.path(s), overwrite(dataStart+4*mib, make([]byte, 3*mib)))
	if h.collect(before); h.disk() > before-mib {
		t.Errorf("%d bytes are left of %d", h.disk(), before)
	}
	h.wantPresent(s, piece{mib, 2 * mib})
}

func TestABlobOfNoUseGoesFirst(t *testing.T) {
	h := newHouse(t)
	s, useless, empty := h.blob(mib), h.blob(mib), h.blob(mib)
	h.read(h.Cache, 0, s, 0, mib)
	h.read(h.Cache, 1, useless, 0, mib)
	edit(t, h.path(useless), overwrite(0, []byte("GIF89a")))
	header, _ := appendHeader(nil, mib, logStart(mib)) // as who is killed leaves it
	must(t, os.WriteFile(h.path(empty), header, 0o600))
	info, err := os.Stat(h.path(useless))
	must(t, err)
	h.collect(h.disk() - diskSize(info) - 1)
	h.wantPresent(s, piece{0, mib})
	if names := h.ls(Blobs.dir()); len(names) != 1 {
		t.Errorf("%q are left", names)
	}
}

// On a full disk there may be no room for the record that something is gone.
func TestABlobThatTakesNoRecordsGoesAsAWhole(t *testing.T) {
	disk := smallDisk(t, 3*mib)
	h := newHouseIn(t, filepath.Join(disk, "cache"))
	s := h.blob(2 * mib)
	h.read(h.Cache, 0, s, 0, mib)
	h.read(h.Cache, 1, s, mib, 2*mib)
	b := h.open(h.Cache, s)
	for range logAlign/recordSize - 2 { // with those of the reads, as many as there is room for in a page
		must(t, b.file.withLog(nil, true, func() error { return b.file.record(record{opPresent, piece{0, 1}}) }))
	}
	must(t, b.Close())
	noRoom(t, disk)
	h.bounds.Limits = Limits{Free: 4096}
	if done, err := h.Collect(t.Context()); err != nil || done.Freed < 2*mib || done.Blobs != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	h.wantPresent(s)
}

func TestCollectWaitsForOthersAndStopsWhenItIsToldTo(t *testing.T) {
	h := newHouse(t)
	s := h.blob(mib)
	h.read(h.Cache, 0, s, 0, mib)
	limit(h.Cache, 1)
	c := startChild(t, "collecting", h.dir)
	c.says("collecting")
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := h.Collect(ctx)
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	h.wantPresent(s, piece{0, mib})
	c.kill()
	if done, err := h.Collect(t.Context()); err != nil || done.Freed < mib {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestUsageAddsUp(t *testing.T) {
	h := newHouse(t)
	s, used := h.blob(mib), h.blob(2*mib)
	h.read(h.Cache, 0, s, 0, mib)
	b := h.open(h.Cache, used)
	wantRange(t, b, used.data, 0, 2*mib)
	must(t, b.landed())
	h.put(Indexes, 0, "layer", 5000)
	must(t, h.PutDocument(digest.FromString("{}"), []byte("{}")))
	tmp, err := h.Create(Frames, digest.FromString("layer"))
	must(t, err)
	write(t, tmp, make([]byte, 10_000))
	h.bounds.Limits = Limits{Size: 77, Free: 78}
	u, err := h.Usage()
	must(t, err)
	must(t, tmp.Abort())
	var lines []string
	sum := u.Unfinished
	for _, k := range u.Kinds {
		lines = append(lines, fmt.Sprintf("%v %d %v %v", k.Kind, k.Items, k.Disk > 0, k.InUse > 0))
		sum += k.Disk
	}
	want := "documents 1 true false; refs 0 false false; indexes 1 true false; frames 0 false false; blobs 2 true true"
	if got := strings.Join(lines, "; "); got != want {
		t.Errorf("usage is %s, want %s", got, want)
	}
	blobs := u.Kinds[Blobs]
	if sum != u.Disk || blobs.InUse < 2*mib || blobs.Disk < 3*mib || blobs.Disk > 4*mib || u.Unfinished < 10_000 {
		t.Errorf("%+v", u)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(h.dir, &st))
	if free := int64(st.Bavail) * st.Bsize; u.Limit != 77 || u.Floor != 78 || u.Free < free/2 || u.Free > 2*free {
		t.Errorf("%+v, and %d are free", u, free)
	}
}
