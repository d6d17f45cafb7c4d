package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func init() { children["check"] = childCheck }

// known is what an index would tell of a blob with spans of n bytes.
func known(s *source, n int64) *Known { return &Known{s.digest, spansOf(s, n)} }

// spansOf are spans of n bytes each that share a byte with their neighbours. Neither the first ten bytes nor the last are in any.
func spansOf(s *source, n int64) iter.Seq[Span] {
	return func(yield func(Span) bool) {
		for off := int64(10); off+n <= int64(len(s.data))-10; off += n - 1 {
			if !yield(Span{off, n, digest.FromBytes(s.data[off:][:n])}) {
				return
			}
		}
	}
}

func TestACheckDropsWhatIsWrongAndNothingElse(t *testing.T) {
	const size, span = 10_000, 1000 // spans begin at 10, 1009, 2008, …; the last ends at 9002
	for _, tt := range []struct {
		name    string
		there   []piece
		damage  []int64 // bytes that are changed
		noSpans bool
		want    string
	}{
		{"a whole blob", []piece{{0, size}}, nil, false, "right 10000 wrong [] unchecked 0"},
		{"a whole blob without an index", []piece{{0, size}}, nil, true, "right 10000 wrong [] unchecked 0"},
		{"parts", []piece{{10, 1010}, {5000, 7500}}, nil, false, "right 2999 wrong [] unchecked 501"},
		{"parts without an index", []piece{{10, 1010}}, nil, true, "right 0 wrong [] unchecked 1000"},
		{"a wrong span", []piece{{0, size}}, []int64{1500}, false, "right 7994 wrong [{1010 998}] unchecked 1008"},
		{"wrong neighbours", []piece{{0, size}}, []int64{2008}, false, "right 6995 wrong [{1010 1997}] unchecked 1008"},
		{"all spans wrong", []piece{{10, 3008}}, []int64{20, 1500, 3006}, false, "right 0 wrong [{10 2998}] unchecked 0"},
		{"bytes of no span", []piece{{0, size}}, []int64{9500}, false, "right 8992 wrong [{0 10} {9002 998}] unchecked 0"},
		{"bytes of no span that are not all there", []piece{{10, size}}, []int64{9500}, false, "right 8992 wrong [] unchecked 998"},
		{"part of a span", []piece{{10, 2500}}, []int64{2300}, false, "right 1999 wrong [] unchecked 491"},
		{"a whole blob without an index that is wrong", []piece{{0, size}}, []int64{77}, true, "right 0 wrong [{0 10000}] unchecked 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(size)
			b := h.open(h.Cache, s)
			for _, p := range tt.there {
				wantRange(t, b, s.data, int(p.lo), int(p.hi))
			}
			must(t, b.landed())
			must(t, b.Close())
			for _, at := range tt.damage {
				edit(t, h.path(s), overwrite(dataStart+at, []byte{^s.data[at]}))
			}
			of := known(s, span)
			if tt.noSpans {
				of = nil
			}
			check := func(all bool) string {
				found, err := h.CheckBlob(t.Context(), s.digest, of, all)
				must(t, err)
				return fmt.Sprintf("right %d wrong %v unchecked %d", found.Right, found.Wrong, found.Unchecked)
			}
			if got := check(false); got != tt.want {
				t.Errorf("found %s, want %s", got, tt.want)
			}
			if again := check(true); !strings.Contains(again, "wrong []") {
				t.Errorf("the second time: %s", again)
			}
			if again := check(false); !strings.HasSuffix(again, "wrong [] unchecked 0") {
				t.Errorf("when all was dropped that could not be checked: %s", again)
			}
			wantRange(t, h.open(h.Cache, s), s.data, 0, size)
		})
	}
}

// A tar of which only its place is known goes by a digest that is none of its own, until all of it is there.
func TestABlobOnTheWayToItsNameIsNotFoundToBeWrong(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	standIn := digest.FromString("somewhere")
	b, err := h.Blob(standIn, 5000, s)
	must(t, err)
	wantRange(t, b, s.data, 0, 5000)
	must(t, b.landed())
	unlock, err := h.Lock(t.Context(), standIn, nil)
	must(t, err)
	found, err := h.CheckBlob(t.Context(), standIn, nil, false)
	if err != nil || len(found.Wrong) > 0 || found.Unchecked != 5000 {
		t.Errorf("without an index: %+v, %v", found, err)
	}
	found, err = h.CheckBlob(t.Context(), standIn, known(s, 1000), false)
	if err != nil || found.Right != 5000 {
		t.Errorf("with an index: %+v, %v", found, err)
	}
	must(t, h.Rename(standIn, s.digest))
	unlock()
	must(t, b.Close())
	found, err = h.CheckBlob(t.Context(), s.digest, nil, false)
	if err != nil || found.Right != 5000 {
		t.Errorf("under its name: %+v, %v", found, err)
	}
}

func TestACheckIsNoUse(t *testing.T) {
	h := newHouse(t)
	s := h.blob(2 * mib)
	h.read(h.Cache, 0, s, 0, 2*mib)
	layer := h.put(Indexes, 0, "layer", 100)
	h.hour(h.Cache, 5)
	_, err := h.CheckBlob(t.Context(), s.digest, nil, false)
	must(t, err)
	f, err := h.Look(Indexes, layer)
	must(t, err)
	_, err = f.ReadAt(make([]byte, 100), 0)
	must(t, err)
	must(t, f.Close())
	h.wantUses(s, 0, 0)
	if used := h.item(Indexes, layer).Used; used.After(h.start.Add(1e9)) {
		t.Errorf("the index was used at %v, the test began at %v", used, h.start)
	}
}

func TestABlobWithoutAHeaderIsRemovedByACheck(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	h.read(h.Cache, 0, s, 0, 5000)
	edit(t, h.path(s), overwrite(0, []byte("GIF89a")))
	if _, err := h.CheckBlob(t.Context(), s.digest, nil, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
	_, err := h.CheckBlob(t.Context(), s.digest, nil, false)
	wantAbsent(t, err)
}

func TestABlobThatIsJustBeingMadeIsLeftAloneByACheck(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	must(t, os.WriteFile(h.path(s), nil, 0o600))
	_, err := h.CheckBlob(t.Context(), s.digest, nil, false)
	wantAbsent(t, err)
	if _, err := os.Stat(h.path(s)); err != nil {
		t.Error(err)
	}
	wantRange(t, h.open(h.Cache, s), s.data, 0, 5000)
}

func TestACheckOnADiskThatIsReadOnlyTellsAndDropsNothing(t *testing.T) {
	disk := smallDisk(t, 2*mib)
	h := newHouseIn(t, disk)
	good, bad := h.blob(5000), h.blob(6000)
	h.read(h.Cache, 0, good, 0, 5000)
	h.read(h.Cache, 0, bad, 0, 6000)
	edit(t, h.path(bad), overwrite(dataStart+7, []byte{^bad.data[7]}))
	delete(h.contents, bad.digest) // which stays wrong
	readOnly(t, disk)
	if found, err := h.CheckBlob(t.Context(), good.digest, nil, false); err != nil || found.Right != 5000 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := h.CheckBlob(t.Context(), bad.digest, nil, false); !errors.Is(err, unix.EROFS) {
		t.Errorf("error %v", err)
	}
}

func TestAnInterruptedCheckDropsNothing(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	h.read(h.Cache, 0, s, 0, 5000)
	edit(t, h.path(s), overwrite(dataStart+7, []byte{^s.data[7]}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.CheckBlob(ctx, s.digest, nil, false); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if cached, _, err := h.HasBlob(s.digest); cached != 5000 || err != nil {
		t.Errorf("%d bytes are left, %v", cached, err)
	}
	_, err := h.CheckBlob(t.Context(), s.digest, nil, false)
	must(t, err)
}

// What others found to be wrong, and fetched anew, while it was checked is right by now.
func TestACheckDropsNothingThatWasFetchedAnewMeanwhile(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5000)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, 5000)
	must(t, b.landed())
	edit(t, h.path(s), overwrite(dataStart+1500, []byte{^s.data[1500]}))
	mended := false
	spans := func(yield func(Span) bool) {
		for span := range spansOf(s, 1000) {
			if !yield(span) {
				return
			}
			if span.Off+span.Size > 1500 && !mended { // this one has just been found to be wrong
				mended = true
				must(t, b.Discard(span.Off, span.Size))
				wantRange(t, b, s.data, 0, 5000)
				must(t, b.landed())
			}
		}
	}
	_, err := h.CheckBlob(t.Context(), s.digest, &Known{s.digest, spans}, false)
	must(t, err)
	reads, _ := s.asked()
	wantRange(t, b, s.data, 0, 5000)
	must(t, b.Close())
	wantRange(t, h.open(h.Cache, s), s.data, 0, 5000)
	s.wantReads(t, reads...)
}

func TestADamagedIndexIsDroppedWithItsFramesUnlessItHasBeenReplaced(t *testing.T) {
	h := newHouse(t)
	layer := h.put(Indexes, 0, "layer", 100)
	h.put(Frames, 0, "layer", 100)
	user, err := h.OpenIndex(layer)
	must(t, err)
	defer user.Close()
	looked, err := h.Look(Indexes, layer)
	must(t, err)
	defer looked.Close()
	h.put(Indexes, 0, "layer", 200)
	drop := func(f *os.File, want bool) {
		t.Helper()
		if dropped, err := h.DropIndex(t.Context(), layer, f); dropped != want || err != nil {
			t.Errorf("dropped: %v, %v", dropped, err)
		}
	}
	drop(looked, false)
	if !h.has(Indexes, layer) || !h.has(Frames, layer) {
		t.Error("the new one was dropped")
	}
	again, err := h.Look(Indexes, layer)
	must(t, err)
	defer again.Close()
	drop(again, true)
	drop(again, false)
	if h.has(Indexes, layer) || h.has(Frames, layer) {
		t.Error("it was not dropped")
	}
	wantRange(t, user, make([]byte, 100), 0, 100)
}

func TestADamagedDocumentIsToldFromOneThatIsNotThere(t *testing.T) {
	h := newHouse(t)
	d := digest.FromString("{}")
	must(t, h.PutDocument(d, []byte("{}")))
	name, err := Documents.path(d)
	must(t, err)
	must(t, os.WriteFile(h.dir+"/"+name, []byte("[]"), 0o600))
	for _, damaged := range []bool{true, false} {
		if _, err := h.Document(d); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) != damaged {
			t.Errorf("error %v", err)
		}
	}
}

// childCheck checks blobs that others read, drop and collect, all of which is as it should be.
func childCheck(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return untilTold(func() error {
		s := manySource(rand.IntN(manyBlobs))
		found, err := c.CheckBlob(context.Background(), s.digest, known(s, 10_000), rand.IntN(8) == 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && len(found.Wrong) > 0 {
			err = fmt.Errorf("found to be wrong: %v", found.Wrong)
		}
		return err
	})
}
