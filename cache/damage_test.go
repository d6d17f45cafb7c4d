package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
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

func TestWholeBlobTornByAPowerFailureIsFetchedAnewAfterDiscard(t *testing.T) {
	for _, tt := range []struct {
		name string
		tear func(f *os.File, size int64) error
		torn bool // the map still says that all is there
	}{
		{"the data is zeros", overwrite(dataStart, make([]byte, 50_000)), true},
		{"a part is zeros", overwrite(dataStart+10_000, make([]byte, 10_000)), true},
		{"all is zeros", func(f *os.File, size int64) error { return errors.Join(f.Truncate(0), f.Truncate(size)) }, false},
		{"the map is zeros", overwrite(logStart(50_000), make([]byte, recordSize)), false},
		{"nothing came to the disk", func(f *os.File, _ int64) error { return f.Truncate(0) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(50_000)
			h.putBlob(s)
			edit(t, h.path(s), tt.tear)
			if cached, _, _ := h.HasBlob(s.digest); cached == 50_000 != tt.torn {
				t.Errorf("HasBlob says that %d bytes are there", cached)
			}
			for range 2 {
				b := h.open(h.again(), s)
				wantRangeOrDamage(t, b, s.data, 0, 50_000)
				must(t, b.Close())
			}
			s.wantReads(t, piece{0, 50_000})
		})
	}
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

// noRoom fills a disk with a file that is no part of a cache.
func noRoom(t *testing.T, disk string) {
	t.Helper()
	if err := os.WriteFile(disk+"/filler", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
}

func readOnly(t *testing.T, disk string) {
	t.Helper()
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

func TestCacheThatCanNotBeMadeHoldsNothingAndTakesNothing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, disk, dir string)
		why   error
	}{
		{"read-only", func(t *testing.T, disk, _ string) { readOnly(t, disk) }, unix.EROFS},
		{"read-only with an empty directory", func(t *testing.T, disk, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			readOnly(t, disk)
		}, unix.EROFS},
		{"full", func(t *testing.T, disk, _ string) { noRoom(t, disk) }, unix.ENOSPC},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := smallDisk(t, 1<<20)
			dir := filepath.Join(disk, "cache")
			tt.setUp(t, disk, dir)
			log := &logBook{}
			c, err := Open(dir, &Options{Log: slog.New(slog.NewTextHandler(log, nil))})
			must(t, err)
			s := sourceOf(randomBytes(0, 100_000))

			_, document := c.Document(s.digest)
			_, ref := c.Ref("r")
			_, index := c.OpenIndex(s.digest)
			_, frames := c.OpenFrames(s.digest)
			_, _, blob := c.HasBlob(s.digest)
			_, remove := c.Remove(Selection{Ref: "r"})
			for _, err := range []error{document, ref, index, frames, blob, remove} {
				wantAbsent(t, err)
			}
			items, list := c.List()
			refs, listRefs := c.refs()
			_, removeAll := c.Remove(Selection{})
			if err := errors.Join(list, listRefs, removeAll); err != nil || len(items)+len(refs) > 0 {
				t.Errorf("%v, %v, %v", items, refs, err)
			}
			_, create := c.Create(Indexes, s.digest)
			_, lock := c.Lock(t.Context(), s.digest, nil)
			for i, err := range []error{
				create, lock, c.PutDocument(s.digest, s.data), c.PutRef(Ref{Name: "r", Digest: s.digest}),
			} {
				if !errors.Is(err, tt.why) {
					t.Errorf("write %d: %v, want %v", i, err, tt.why)
				}
			}
			b, err := c.Blob(s.digest, 100_000, s)
			must(t, err)
			wantRange(t, b, s.data, 0, 100_000)
			must(t, errors.Join(b.Close(), c.Close()))
			if n := log.count("\n"); n != 1 || log.count("can't be written") != 1 {
				t.Errorf("%d log lines, want one", n)
			}
		})
	}
}

func TestFullOrReadOnlyDiskIsNoWayAroundTheRefusals(t *testing.T) {
	disk := smallDisk(t, 1<<20)
	foreign, open, other := disk+"/foreign", disk+"/open", disk+"/other"
	for _, dir := range []string{foreign, open, other} {
		must(t, os.Mkdir(dir, 0o700))
	}
	must(t, os.Chown(foreign, 12345, 12345))
	must(t, os.Chmod(open, 0o777))
	must(t, os.WriteFile(other+"/thesis.tex", nil, 0o600))
	noRoom(t, disk)
	for range 2 {
		for dir, permission := range map[string]bool{foreign: true, open: true, other: false} {
			if _, err := Open(dir, nil); err == nil || errors.Is(err, fs.ErrPermission) != permission {
				t.Errorf("%s: %v", dir, err)
			}
		}
		readOnly(t, disk)
	}
}

func TestReadOnlyDiskServesWhatItHasAndTheRestUncached(t *testing.T) {
	disk := smallDisk(t, 2<<20)
	h := newHouseIn(t, disk)
	s, absent := h.blob(1<<20), h.blob(100_000)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 400_000)
	must(t, b.Close())
	readOnly(t, disk)

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
