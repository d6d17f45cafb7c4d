package cache

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBlobFetchesWhatIsMissingAndNothingElse(t *testing.T) {
	const k = 1 << 10
	for _, tt := range []struct {
		name  string
		reads []piece // in order
		want  []piece // asked of the source
	}{
		{"a range is fetched", []piece{{10 * k, 20 * k}}, []piece{{10 * k, 20 * k}}},
		{"a range is fetched once", []piece{{0, 5}, {0, 5}, {1, 4}}, []piece{{0, 5}}},
		{"only the rest is fetched", []piece{{0, 10}, {5, 20}}, []piece{{0, 10}, {10, 20}}},
		{"only the front is fetched", []piece{{10, 20}, {5, 20}}, []piece{{10, 20}, {5, 10}}},
		{"neighbours go in one request", []piece{{10 * k, 20 * k}, {0, 30 * k}}, []piece{{10 * k, 20 * k}, {0, 30 * k}}},
		{"a wide gap parts requests", []piece{{10 * k, 90 * k}, {0, 100 * k}}, []piece{{10 * k, 90 * k}, {0, 10 * k}, {90 * k, 100 * k}}},
		{"the end is the end", []piece{{199 * k, 200 * k}}, []piece{{199 * k, 200 * k}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(200 * k)
			b := h.open(h.Cache, s)
			for _, r := range tt.reads {
				wantRange(t, b, s.data, int(r.lo), int(r.hi))
				must(t, b.landed())
			}
			s.wantReads(t, tt.want...)
		})
	}
}

func TestBlobKeepsReaderAtsContract(t *testing.T) {
	h := newHouse(t)
	s := h.blob(100)
	b := h.open(h.Cache, s)
	for _, tt := range []struct {
		name   string
		n, off int
		want   int
		err    error
	}{
		{"inside", 10, 5, 10, nil},
		{"up to the end", 10, 90, 10, nil},
		{"past the end", 20, 90, 10, io.EOF},
		{"at the end", 1, 100, 0, io.EOF},
		{"behind the end", 1, 1000, 0, io.EOF},
		{"before the beginning", 1, -1, 0, fs.ErrInvalid},
		{"nothing", 0, 5, 0, nil},
	} {
		if n, err := b.ReadAt(make([]byte, tt.n), int64(tt.off)); n != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d, %v; want %d, %v", tt.name, n, err, tt.want, tt.err)
		}
	}
	must(t, b.Close())
	if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestBlobOfNoBytes(t *testing.T) {
	h := newHouse(t)
	b := h.open(h.Cache, h.blob(0))
	if n, err := b.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
}

func TestBlobIsThereTheNextTime(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 1000, 500_000)
	must(t, b.Close())
	wantRange(t, h.open(h.again(), s), s.data, 1000, 500_000)
	s.wantReads(t, piece{1000, 500_000})
	cached, size, err := h.HasBlob(s.digest)
	if cached != 499_000 || size != 1<<20 || err != nil {
		t.Errorf("HasBlob = %d, %d, %v", cached, size, err)
	}
}

func TestABlobOfWhichThereIsNothingLeavesNoFile(t *testing.T) {
	h := newHouse(t)
	s := h.blob(10_000)
	left := func(want int) {
		t.Helper()
		if n := len(h.ls(Blobs.dir())); n != want {
			t.Errorf("there are %d files, want %d", n, want)
		}
	}
	must(t, h.open(h.Cache, s).Close())
	left(0)
	one, two := h.open(h.Cache, s), h.open(h.again(), s)
	must(t, one.Close())
	left(1) // somebody has it open
	wantRange(t, two, s.data, 0, 100)
	must(t, two.Close())
	left(1) // something is in it
	three := h.open(h.Cache, s)
	three.Distrust()
	must(t, three.Close())
	left(0)
	wantStream(t, h.open(h.Cache, s), s.data)
}

func TestBlobUnderAnotherSizeStartsAnew(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	liar, err := h.Blob(s.digest, 6000, s)
	must(t, err)
	must(t, liar.Close())
	wantRange(t, h.open(h.Cache, s), s.data, 0, 5000)
	for _, size := range []int64{-1, maxBlob + 1} {
		if _, err := h.Blob(s.digest, size, s); err == nil {
			t.Errorf("a size of %d was accepted", size)
		}
	}
}

func TestReadersWhoMissTheSameBytesFetchThemOnce(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	b := h.open(h.Cache, s)
	var readers sync.WaitGroup
	var once sync.Once
	s.before = func(piece) error { // the others come while the first fetch is under way
		once.Do(func() {
			for i := range 8 {
				readers.Go(func() { wantRange(t, b, s.data, i*1000, 100_000+i*1000) })
			}
		})
		return nil
	}
	wantRange(t, b, s.data, 0, 200_000)
	readers.Wait()
	s.wantReads(t, piece{0, 200_000})
	if st := b.Stats(); st.Hits+st.Misses != 9 {
		t.Errorf("stats %+v", st)
	}
}

func TestHugeReadIsFetchedInPieces(t *testing.T) {
	h := newHouse(t)
	s := h.blob(maxFetch + 1000)
	b := h.open(h.Cache, s)
	wantRange(t, io.NewSectionReader(b, 0, b.size), s.data, 0, len(s.data))
	s.wantReads(t, piece{0, maxFetch}, piece{maxFetch, maxFetch + 1000})
}

func TestErrorsOfTheSourceAreToldAndForgotten(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1000)
	b := h.open(h.Cache, s)
	broken := errors.New("503")
	s.before = func(piece) error { return broken }
	for range 2 {
		if _, err := b.ReadAt(make([]byte, 10), 0); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	}
	s.before = nil
	wantRange(t, b, s.data, 0, 1000)
}

func TestShortRangeOfTheSourceIsAnError(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1000)
	b, err := h.Blob(s.digest, 2000, s) // the source has less than the manifest says
	must(t, err)
	defer b.Close()
	delete(h.contents, s.digest)
	if n, err := b.ReadAt(make([]byte, 100), 950); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
}

func TestDiscardedBytesAreFetchedAnew(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 1<<20)
	must(t, b.landed())
	before := diskUse(t, h.path(s))
	must(t, b.Discard(100_000, 400_000))
	if after := diskUse(t, h.path(s)); after >= before {
		t.Errorf("%d bytes of disk before, %d after", before, after)
	}
	wantRange(t, b, s.data, 0, 1<<20)
	s.wantReads(t, piece{0, 1 << 20}, piece{100_000, 500_000})
	for _, bad := range []piece{{-1, 1}, {0, -1}, {1<<20 + 1, 1}} {
		if err := b.Discard(bad.lo, bad.hi); err == nil {
			t.Errorf("Discard(%d, %d) was accepted", bad.lo, bad.hi)
		}
	}
}

func TestDiscardLeavesWhatAnotherProcessHasRenewed(t *testing.T) {
	h := newHouse(t)
	s := h.blob(10_000)
	one, two := h.open(h.Cache, s), h.open(h.again(), s)
	wantRange(t, one, s.data, 0, 10_000)
	must(t, one.landed())
	wantRange(t, two, s.data, 0, 10_000)
	must(t, two.Discard(0, 5000))
	wantRange(t, two, s.data, 0, 5000)
	must(t, two.landed())
	must(t, one.Discard(4000, 2000)) // found by bytes that were read before
	wantRange(t, one, s.data, 0, 10_000)
	s.wantReads(t, piece{0, 10_000}, piece{0, 5000}, piece{5000, 6000})
}

// landed waits for the flights of b, whose bytes readers get before the disk.
func (b *Blob) landed() error {
	f, err := b.reserve(piece{0, b.size})
	if err == nil {
		b.land(f)
	}
	return err
}

func TestManyReadersAndDiscardsSeeOnlyRightBytes(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 << 20)
	b := h.open(h.Cache, s)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				lo := rnd.IntN(len(s.data))
				hi := min(lo+rnd.IntN(200_000), len(s.data))
				if rnd.IntN(5) == 0 {
					if err := b.Discard(int64(lo), int64(hi-lo)); err != nil {
						t.Error(err)
					}
					continue
				}
				p := make([]byte, hi-lo)
				if _, err := b.ReadAt(p, int64(lo)); err != nil || !bytes.Equal(p, s.data[lo:hi]) {
					t.Errorf("bytes %d to %d: wrong or %v", lo, hi, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestGrownMapIsCompacted(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	one, two := h.open(h.Cache, s), h.open(h.again(), s)
	wantRange(t, two, s.data, 0, 1<<20)
	for range 3 * minRecords / 2 {
		must(t, one.Discard(5000, 10))
		wantRange(t, one, s.data, 5000, 5010)
	}
	must(t, one.landed())
	if n := one.file.log.records; n > minRecords+1 {
		t.Errorf("the map has %d records", n)
	}
	if use := diskUse(t, h.path(s)); use > 1<<20+minRecords*recordSize+64<<10 {
		t.Errorf("the file takes %d bytes", use)
	}
	_, err := two.file.sync(nil)
	must(t, err)
	if !two.file.covers(piece{0, 1 << 20}) {
		t.Error("the other process does not follow the map")
	}
}

func diskUse(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestFetchBringsWhatIsMissing(t *testing.T) {
	const k = 1 << 10
	h := newHouse(t)
	s := h.blob(400 * k)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 100*k, 200*k)
	must(t, b.landed())
	must(t, b.Fetch(0, 300*k))
	must(t, b.Fetch(0, 300*k))
	s.wantReads(t, piece{100 * k, 200 * k}, piece{0, 100 * k}, piece{200 * k, 300 * k})
	wantRange(t, b, s.data, 0, 300*k)
	must(t, b.Fetch(390*k, 100*k))
	must(t, b.Fetch(400*k, 1))
	s.wantReads(t, piece{100 * k, 200 * k}, piece{0, 100 * k}, piece{200 * k, 300 * k}, piece{390 * k, 400 * k})
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {400*k + 1, 1}} {
		if err := b.Fetch(bad[0], bad[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	must(t, b.Close())
	if err := b.Fetch(310*k, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestFetchPassesOnTheSourcesErrors(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1000)
	b := h.open(h.Cache, s)
	broken := errors.New("the network is down")
	s.before = func(piece) error { return broken }
	if err := b.Fetch(0, 1000); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	s.before = nil
	must(t, b.Fetch(0, 1000))
}

// What the disk does not take would have to be fetched twice.
func TestNothingIsFetchedAheadThatIsNotKept(t *testing.T) {
	h := newHouseIn(t, smallDisk(t, 1<<20))
	s := h.blob(8 << 20)
	b := h.open(h.Cache, s)
	for off := int64(0); off < 8<<20; off += 1 << 20 {
		_ = b.Fetch(off, 1<<20)
	}
	if err := b.Fetch(7<<20, 1<<20); !errors.Is(err, errNotKept) {
		t.Errorf("error %v", err)
	}
	if reads, _ := s.asked(); len(reads) > 3 {
		t.Errorf("the source was asked for %v", reads)
	}
	wantRange(t, b, s.data, 0, 8<<20)
}
