package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// edit changes a file as no program of ours would.
func edit(t *testing.T, path string, change func(f *os.File, size int64) error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	must(t, errors.Join(change(f, info.Size()), f.Close()))
}

func overwrite(at int64, b []byte) func(*os.File, int64) error {
	return func(f *os.File, _ int64) error {
		_, err := f.WriteAt(b, at)
		return err
	}
}

func TestBytesLostByAPowerFailureAreFetchedAnewAfterDiscard(t *testing.T) {
	h := newHouse(t)
	s := h.blob(500_000)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 500_000)
	must(t, b.Close())
	// The map came to the disk, and a part of the data did not.
	edit(t, h.path(s), overwrite(dataStart+100_000, make([]byte, 50_000)))

	b = h.open(h.again(), s)
	p := make([]byte, 10_000)
	if _, err := b.ReadAt(p, 120_000); err != nil || !bytes.Equal(p, make([]byte, 10_000)) {
		t.Fatalf("the damage is not there (%v)", err)
	}
	must(t, b.Discard(100_000, 50_000))
	wantRange(t, b, s.data, 0, 500_000)
	s.wantReads(t, piece{0, 500_000}, piece{100_000, 150_000})
}

func TestFileCutAnywhereStillGivesTheRightBytes(t *testing.T) {
	h := newHouse(t)
	s := h.blob(20_000)
	const step = 2000
	full := func() int64 {
		b := h.open(h.Cache, s)
		for lo := 0; lo < len(s.data); lo += step {
			wantRange(t, b, s.data, lo, lo+step)
		}
		must(t, b.Close())
		info, err := os.Stat(h.path(s))
		must(t, err)
		return info.Size()
	}
	end := logStart(20_000)
	cuts := []int64{0, 1, headerSize - 1, headerSize, dataStart, dataStart + 1, dataStart + 9999, dataStart + 20_000, end}
	for size := full(); size > end; size -= 7 { // every record torn in several places
		cuts = append(cuts, size)
	}
	for _, cut := range cuts {
		full()
		edit(t, h.path(s), func(f *os.File, _ int64) error { return f.Truncate(cut) })
		b := h.open(h.Cache, s)
		wantRange(t, b, s.data, 0, 20_000)
		must(t, b.Close())
		h.check()
		if t.Failed() {
			t.Fatalf("cut at %d", cut)
		}
	}
}

func TestFileCutUnderALiveReaderStillGivesTheRightBytes(t *testing.T) {
	for _, cut := range []int64{0, dataStart, dataStart + 10_000, logStart(20_000), logStart(20_000) + 5} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(20_000)
			b := h.open(h.Cache, s)
			wantRange(t, b, s.data, 0, 20_000)
			must(t, b.landed())
			edit(t, h.path(s), func(f *os.File, _ int64) error { return f.Truncate(cut) })
			for range 2 {
				for lo := 0; lo < 20_000; lo += 5000 {
					wantRangeOrDamage(t, b, s.data, lo, lo+5000)
				}
			}
			must(t, b.Close())
			if cut == 0 {
				must(t, os.Remove(h.path(s))) // its header is gone for good
			}
		})
	}
}

func TestDamagedMapLosesNoMoreThanItsRest(t *testing.T) {
	record := func(i int) int64 { return logStart(20_000) + int64(i)*recordSize }
	for _, tt := range []struct {
		name string
		at   int64
		with string
		want []piece // what has to be fetched again
	}{
		{"torn last record", record(3) + 20, "torn", []piece{{15_000, 20_000}}},
		{"damage in the middle", record(1), "x", []piece{{5000, 20_000}}},
		{"damage in the first record", record(0) + 9, "x", []piece{{0, 20_000}}},
		{"garbage behind the last record", record(4), "garbage garbage garbage!", nil},
		{"damaged header", 9, "x", []piece{{0, 20_000}}},
		{"no header at all", 0, "GIF89a", []piece{{0, 20_000}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(20_000)
			b := h.open(h.Cache, s)
			for lo := 0; lo < 20_000; lo += 5000 {
				wantRange(t, b, s.data, lo, lo+5000)
				must(t, b.landed())
			}
			must(t, b.Close())
			before, _ := s.asked()
			edit(t, h.path(s), overwrite(tt.at, []byte(tt.with)))
			for range 2 { // the second time shows that the map was mended
				b := h.open(h.Cache, s)
				wantRange(t, b, s.data, 0, 20_000)
				must(t, b.Close())
			}
			s.wantReads(t, append(before, tt.want...)...)
		})
	}
}

// A full disk is a real one: a file system of 1 MiB.
func TestFullDiskServesUncachedAndSaysSoOnce(t *testing.T) {
	h := newHouseIn(t, smallDisk(t, 1<<20))
	s, other := h.blob(4<<20), h.blob(3<<20)
	for _, s := range []*source{s, other} {
		b := h.open(h.Cache, s)
		for range 2 {
			for lo := 0; lo < len(s.data); lo += 300_000 {
				wantRange(t, b, s.data, lo, min(lo+300_000, len(s.data)))
			}
		}
		must(t, b.Close())
	}
	if n := h.log.count("can't be written"); n != 1 {
		t.Errorf("%d log lines, want one", n)
	}
	if cached, _, err := h.HasBlob(s.digest); err != nil || cached < 300_000 {
		t.Errorf("%d bytes are cached (%v): the disk was not used while it had room", cached, err)
	}
	if st := h.PutDocument(s.digest, s.data); !errors.Is(st, unix.ENOSPC) {
		t.Errorf("document on a full disk: %v", st)
	}
}

func TestFullDiskServesAStreamUncached(t *testing.T) {
	h := newHouseIn(t, smallDisk(t, 1<<20))
	s := h.blob(3 << 20)
	s.rangeless = true
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 2_000_000, 2_500_000)
	wantRange(t, b, s.data, 0, len(s.data))
	if n := h.log.count("can't be written"); n != 1 {
		t.Errorf("%d log lines, want one", n)
	}
}

func TestReadOnlyDiskServesWhatItHasAndTheRestUncached(t *testing.T) {
	disk := smallDisk(t, 2<<20)
	h := newHouseIn(t, disk)
	s, absent := h.blob(1<<20), h.blob(100_000)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 400_000)
	must(t, b.Close())
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))

	c := h.again()
	b = h.open(c, s)
	wantRange(t, b, s.data, 0, 400_000)
	s.wantReads(t, piece{0, 400_000})
	must(t, b.Discard(100, 100))
	wantRange(t, b, s.data, 0, 1<<20)
	wantRange(t, h.open(c, absent), absent.data, 0, 100_000)
	s.rangeless = true
	wantRange(t, b, s.data, 500_000, 1<<20)
	if _, err := c.Create(Indexes, s.digest); !errors.Is(err, unix.EROFS) {
		t.Errorf("Create: %v", err)
	}
	if _, err := c.Remove(Selection{}); !errors.Is(err, unix.EROFS) {
		t.Errorf("Remove: %v", err)
	}
}
