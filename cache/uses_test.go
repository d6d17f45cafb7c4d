package cache

import (
	"bytes"
	"os"
	"slices"
	"testing"
	"time"
)

// hour sets the clock of a cache to that many hours after the test began.
func (h *house) hour(c *Cache, n int) {
	c.now = func() time.Time { return h.start.Add(time.Duration(n) * time.Hour) }
}

// usesOf tells at which hour the parts of a blob were used, by its file.
func (h *house) usesOf(s *source, parts int) (hours []int) {
	h.t.Helper()
	f, err := os.Open(h.path(s))
	must(h.t, err)
	defer f.Close()
	info, err := f.Stat()
	must(h.t, err)
	used := readClocks(f, info.ModTime())
	for _, at := range used[:parts] {
		hours = append(hours, int(time.Unix(int64(at), 0).Sub(h.start).Round(time.Hour)/time.Hour))
	}
	return hours
}

func (h *house) wantUses(s *source, want ...int) {
	h.t.Helper()
	if got := h.usesOf(s, len(want)); !slices.Equal(got, want) {
		h.t.Errorf("parts were used at the hours %v, want %v", got, want)
	}
}

// read reads a range at some hour, with a Blob of its own.
func (h *house) read(c *Cache, hour int, s *source, lo, hi int) {
	h.t.Helper()
	h.hour(c, hour)
	b := h.open(c, s)
	wantRange(h.t, b, s.data, lo, hi)
	must(h.t, b.Close())
}

func TestAPartOfABlobIsUsedWhenItIsReadOrBrought(t *testing.T) {
	h := newHouse(t)
	s := h.blob(4 << 20)
	h.read(h.Cache, 0, s, 0, 4<<20)
	h.wantUses(s, 0, 0, 0, 0)
	h.read(h.Cache, 3, s, 2<<20, 2<<20+1)
	h.read(h.Cache, 5, s, 1<<20-1, 1<<20+1)
	h.wantUses(s, 5, 5, 3, 0)
	h.hour(h.Cache, 7)
	b := h.open(h.Cache, s)
	must(t, b.Discard(3<<20, 1<<20))
	must(t, b.Fetch(3<<20, 1<<20))
	must(t, b.Close())
	h.wantUses(s, 5, 5, 3, 7)
}

func TestProcessesMergeTheirUses(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 << 20)
	h.read(h.Cache, 0, s, 0, 3<<20)
	early, late := h.again(), h.again()
	h.hour(early, 2)
	h.hour(late, 4)
	a, b := h.open(early, s), h.open(late, s)
	wantRange(t, a, s.data, 0, 2<<20)
	wantRange(t, b, s.data, 1<<20, 2<<20)
	must(t, b.Close())
	must(t, a.Close())
	h.wantUses(s, 2, 4, 0)
}

func TestReadsWriteNothing(t *testing.T) {
	h := newHouse(t)
	s := h.blob(2 << 20)
	h.read(h.Cache, 0, s, 0, 2<<20)
	before, err := os.ReadFile(h.path(s))
	must(t, err)
	h.hour(h.Cache, 2)
	b := h.open(h.Cache, s)
	for range 10 {
		wantRange(t, b, s.data, 0, 2<<20)
	}
	after, err := os.ReadFile(h.path(s))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file has changed")
	}
	must(t, b.file.saveUses()) // as a timer does in a mount that lives for long
	h.wantUses(s, 2, 2)
}

// What older versions wrote has no record, and so has what a power failure took it from.
func TestWithoutARecordAllWasUsedWhenTheFileWasWritten(t *testing.T) {
	for name, spoil := range map[string]func(*os.File, int64) error{
		"none":     overwrite(usesStart, make([]byte, usesSize)),
		"torn":     overwrite(usesStart+usesSize-4, []byte("torn")),
		"no magic": overwrite(usesStart, []byte("x")),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(3 << 20)
			h.read(h.Cache, 9, s, 0, 3<<20)
			edit(t, h.path(s), spoil)
			must(t, os.Chtimes(h.path(s), time.Time{}, h.start.Add(-5*time.Hour)))
			h.wantUses(s, -5, -5, -5)
			h.read(h.Cache, 2, s, 1<<20, 2<<20)
			h.wantUses(s, -5, 2, -5)
		})
	}
}

func TestAFileWithoutItsHeaderGetsNoRecord(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 1<<20)
	must(t, b.landed())
	must(t, os.Truncate(h.path(s), 0))
	must(t, b.Close())
	if info, err := os.Stat(h.path(s)); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.Remove(h.path(s)))
}

func TestEveryBlobHasAClockForEachOfItsParts(t *testing.T) {
	for _, size := range []int64{0, 1, 1 << 20, 999 << 20, 1000<<20 - 1, 1000 << 20, 1000<<20 + 1, 1 << 40, maxBlob} {
		shift := partShift(size)
		if last := (size - 1) >> shift; last >= numClocks {
			t.Errorf("%d bytes have %d parts", size, last+1)
		}
		if size < 1000<<20 && shift != minShift {
			t.Errorf("parts of %d bytes have %d bytes", size, 1<<shift)
		}
	}
	if end := usesStart + usesSize; usesStart < headerSize || end > dataStart {
		t.Errorf("the record ends at %d", end)
	}
}
