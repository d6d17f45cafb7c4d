package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
)

const mib = 1 << 20

// wantStream reads a Stream to its end and compares.
func wantStream(t *testing.T, b *Blob, data []byte) (cached int64) {
	t.Helper()
	s := b.Stream(t.Context())
	defer s.Close()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a Stream gives %d bytes, and not those of the blob (%v)", len(got), err)
	}
	return s.Cached()
}

// wantOpens checks what of the source was streamed so far.
func (s *source) wantOpens(t *testing.T, want ...piece) {
	t.Helper()
	if _, got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("the source was opened at %v, want %v", got, want)
	}
}

func TestAStreamFetchesWhatIsMissingInOneGo(t *testing.T) {
	const size = 8 * mib
	all := piece{0, size}
	for _, tt := range []struct {
		name      string
		there     []piece
		rangeless bool
		want      []piece // opened
		cached    int64
	}{
		{"nothing is there", nil, false, []piece{all}, 0},
		{"the beginning is there", []piece{{0, 3*mib + 5}}, false, []piece{{3*mib + 5, size}}, 3*mib + 5},
		{"all but the beginning is there", []piece{{1000, size}}, false, []piece{{0, 1000}}, size - 1000},
		{"the middle is there", []piece{{2 * mib, 4 * mib}}, false, []piece{{0, 2 * mib}, {4 * mib, size}}, 2 * mib},
		{"little is there in the middle", []piece{{2 * mib, 3 * mib}}, false, []piece{all}, 0},
		{"little is there at the end", []piece{{size - 1, size}}, false, []piece{{0, size - 1}}, 1},
		{"all is there", []piece{all}, false, nil, size},
		{"nothing is there, and there are no ranges", nil, true, []piece{all}, 0},
		{"pieces are there, and there are no ranges", []piece{{0, 2 * mib}, {3 * mib, 5 * mib}, {7 * mib, size}}, true,
			[]piece{{2 * mib, 3 * mib}, all}, 3 * mib},
		{"all is there, and there are no ranges", []piece{all}, true, nil, size},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(size)
			b := h.open(h.Cache, s)
			for _, p := range tt.there {
				must(t, b.Fetch(p.lo, p.hi-p.lo))
			}
			s.rangeless = tt.rangeless
			if cached := wantStream(t, b, s.data); cached != tt.cached {
				t.Errorf("%d bytes were there, want %d", cached, tt.cached)
			}
			s.wantOpens(t, tt.want...)
			wantStream(t, b, s.data) // all of it is there now
			s.wantOpens(t, tt.want...)
		})
	}
}

func TestAStreamThatKeepsNothingLeavesWhatIsThere(t *testing.T) {
	const size = 8 * mib
	h := newHouse(t)
	s := h.blob(size)
	b := h.open(h.Cache, s)
	must(t, b.Fetch(2*mib, 2*mib))
	for range 2 {
		stream := b.Stream(t.Context())
		stream.KeepNothing()
		if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, s.data) || stream.Cached() != 2*mib {
			t.Errorf("it gives %d bytes, %d of them from the cache (%v)", len(got), stream.Cached(), err)
		}
		if stream.GiveUp() {
			t.Error("it gives up what was there before")
		}
		must(t, stream.Close())
	}
	s.wantOpens(t, piece{0, 2 * mib}, piece{4 * mib, size}, piece{0, 2 * mib}, piece{4 * mib, size})
}

func TestAStreamKeepsReadersContract(t *testing.T) {
	for _, size := range []int{0, 1, 5000} {
		h := newHouse(t)
		s := h.blob(size)
		b := h.open(h.Cache, s)
		for range 2 {
			if err := iotest.TestReader(onlyReader{b.Stream(t.Context())}, s.data); err != nil {
				t.Error(err)
			}
		}
		stream := b.Stream(t.Context())
		must(t, stream.Close())
		if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("after Close: %d, %v", n, err)
		}
	}
}

// onlyReader hides all methods but Read.
type onlyReader struct{ io.Reader }

// However a Stream ends, what it has given is not fetched again.
func TestAStreamGoesOnWhereTheLastOneEnded(t *testing.T) {
	const size, had = 6 * mib, 3*mib + 700_000
	broken := errors.New("connection reset")
	read := func(t *testing.T, s *Stream, n int64) {
		t.Helper()
		if _, err := io.CopyN(io.Discard, s, n); err != nil {
			t.Fatal(err)
		}
	}
	for name, end := range map[string]func(t *testing.T, s *source, b *Blob){
		"closed": func(t *testing.T, _ *source, b *Blob) {
			stream := b.Stream(t.Context())
			read(t, stream, had)
			must(t, stream.Close())
		},
		"the source breaks": func(t *testing.T, s *source, b *Blob) {
			s.stream = func(context.Context) io.Reader {
				return io.MultiReader(bytes.NewReader(s.data[:had]), iotest.ErrReader(broken))
			}
			stream := b.Stream(t.Context())
			defer stream.Close()
			if n, err := io.Copy(io.Discard, stream); n != had || !errors.Is(err, broken) {
				t.Errorf("%d bytes, %v", n, err)
			}
		},
		"the source ends": func(t *testing.T, s *source, b *Blob) {
			s.stream = func(context.Context) io.Reader { return bytes.NewReader(s.data[:had]) }
			stream := b.Stream(t.Context())
			defer stream.Close()
			if n, err := io.Copy(io.Discard, stream); n != had || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes, %v", n, err)
			}
		},
		"the context ends": func(t *testing.T, s *source, b *Blob) {
			ctx, cancel := context.WithCancel(t.Context())
			s.stream = func(ctx context.Context) io.Reader {
				return io.MultiReader(bytes.NewReader(s.data[:had]), stalled{ctx})
			}
			stream := b.Stream(ctx)
			defer stream.Close()
			read(t, stream, had)
			cancel()
			if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(size)
			b := h.open(h.Cache, s)
			end(t, s, b)
			must(t, b.Close())
			s.stream = nil
			if cached := wantStream(t, h.open(h.again(), s), s.data); cached != had {
				t.Errorf("%d bytes were there, want %d", cached, had)
			}
			s.wantOpens(t, piece{0, size}, piece{had, size})
		})
	}
}

func TestAContextEndsAStreamOfWhatIsThere(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1000)
	h.putBlob(s)
	ctx, cancel := context.WithCancel(t.Context())
	stream := h.open(h.Cache, s).Stream(ctx)
	defer stream.Close()
	cancel()
	if n, err := stream.Read(make([]byte, 10)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func childStream(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	s := sharedSource()
	s.stream = func(context.Context) io.Reader {
		return io.MultiReader(bytes.NewReader(s.data[:sharedSize-1000]), stillReader{})
	}
	b, err := c.Blob(s.digest, sharedSize, s)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, b.Stream(context.Background()))
	return err
}

func TestAKilledStreamIsTakenUp(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	c := startChild(t, "stream", h.dir)
	c.says("streaming")
	c.kill()
	wantStream(t, h.open(h.Cache, s), s.data)
	s.wantOpens(t, piece{streamChunk, sharedSize}) // less than a chunk is lost
}

func TestWhatIsWrongAsAWholeIsDroppedAndFetchedAnewOnce(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 * mib)
	h.putBlob(s)
	edit(t, h.path(s), overwrite(dataStart+1000, make([]byte, 4096))) // by a power failure
	source := &fickle{s, 1}
	b, err := h.Blob(s.digest, int64(len(s.data)), source)
	must(t, err)
	defer b.Close()
	got, err := io.ReadAll(b.Stream(t.Context()))
	if err != nil || bytes.Equal(got, s.data) {
		t.Fatalf("the damage is not there (%v)", err)
	}
	for i, want := range []struct {
		again  bool
		doubts int
	}{{true, 1}, {true, 0}, {false, -1}} { // first the cache is to blame, then a mirror, then nobody
		if again := b.Distrust(); again != want.again || source.doubts != want.doubts {
			t.Errorf("time %d: again %v, %d doubts left", i, again, source.doubts)
		}
		if _, _, err := h.HasBlob(s.digest); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("time %d: something of it is left (%v)", i, err)
		}
		if cached := wantStream(t, b, s.data); cached != 0 {
			t.Errorf("time %d: %d bytes were there", i, cached)
		}
	}
}

func TestWhatOneProcessDropsIsGoneForTheOthers(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 * mib)
	h.putBlob(s)
	one, two := h.open(h.Cache, s), h.open(h.again(), s)
	wantRange(t, two, s.data, 0, 1000)
	one.Distrust()
	must(t, one.Fetch(mib, mib))
	wantStream(t, two, s.data)
	s.wantOpens(t, piece{0, 3 * mib}, piece{0, 3 * mib})
	if use := diskUse(t, h.path(s)); use > 3*mib+64<<10 {
		t.Errorf("the file takes %d bytes", use)
	}
}

func TestAFileCutUnderAStreamStillGivesTheRightBytes(t *testing.T) {
	for _, cut := range []int64{0, dataStart, dataStart + 2*mib, dataStart + 3*mib} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(4 * mib)
			h.putBlob(s)
			stream := h.open(h.Cache, s).Stream(t.Context())
			defer stream.Close()
			got := make([]byte, mib)
			_, err := io.ReadFull(stream, got)
			must(t, err)
			edit(t, h.path(s), func(f *os.File, _ int64) error { return f.Truncate(cut) })
			rest, err := io.ReadAll(stream)
			if err != nil || !bytes.Equal(append(got, rest...), s.data) {
				t.Errorf("%d bytes, and not those of the blob (%v)", len(got)+len(rest), err)
			}
			if cut == 0 {
				must(t, os.Remove(h.path(s))) // its header is gone for good
			}
		})
	}
}

func TestAFullDiskHasNothingOfAStream(t *testing.T) {
	disk := smallDisk(t, 4*mib)
	h := newHouseIn(t, disk)
	s, index := h.blob(8*mib), h.blob(3*mib)
	b := h.open(h.Cache, s)
	wantStream(t, b, s.data)
	if n := h.log.count("can't be written"); n != 1 {
		t.Errorf("%d log lines, want one", n)
	}
	_, _, err := h.HasBlob(s.digest)
	wantAbsent(t, err)
	tmp, err := h.Create(Indexes, index.digest)
	must(t, err)
	write(t, tmp, index.data)
	must(t, tmp.Commit())
	wantRange(t, b, s.data, 5*mib, 5*mib+1000)
	must(t, b.Fetch(5*mib, 2000)) // there is room again
}

// What is given up gives its room back though there is none, not even for a
// record in a map that has filled its page.
func TestWhatIsGivenUpNeedsNoRoom(t *testing.T) {
	for _, records := range []int{0, 4096/recordSize - 1} {
		disk := smallDisk(t, 3*mib)
		h := newHouseIn(t, disk)
		s := h.blob(8 * mib)
		b := h.open(h.Cache, s)
		for i := range records {
			must(t, b.Fetch(int64(i)*2000, 1000))
		}
		stream := b.Stream(t.Context())
		defer stream.Close()
		_, err := io.CopyN(io.Discard, stream, 3*mib/2)
		must(t, err)
		noRoom(t, disk)
		if !stream.GiveUp() || stream.GiveUp() {
			t.Errorf("%d records: there is something to give up, once", records)
		}
		must(t, os.WriteFile(filepath.Join(disk, "room"), make([]byte, mib), 0o600))
		if n, err := io.Copy(io.Discard, stream); n != 8*mib-3*mib/2 || err != nil {
			t.Errorf("%d records: the Stream goes on for %d bytes, %v", records, n, err)
		}
		_, _, err = h.HasBlob(s.digest)
		wantAbsent(t, err)
	}
}

func TestAStreamNeedsNoDisk(t *testing.T) {
	disk := smallDisk(t, 4*mib)
	h := newHouseIn(t, disk)
	s, absent := h.blob(3*mib), h.blob(2*mib)
	b := h.open(h.Cache, s)
	must(t, b.Fetch(0, mib))
	must(t, b.Close())
	readOnly(t, disk)
	b = h.open(h.again(), s)
	wantStream(t, b, s.data)
	s.wantOpens(t, piece{mib, 3 * mib})
	wantStream(t, h.open(h.Cache, absent), absent.data)
	if b.Distrust(); wantStream(t, b, s.data) != 0 {
		t.Error("what is distrusted and can't be dropped is read nevertheless")
	}
	if b.Stream(t.Context()).GiveUp() {
		t.Error("room is given up where there is none")
	}
}

func TestStreamsAndReadersOfABlobSeeTheRightBytes(t *testing.T) {
	h := newHouse(t)
	s := h.blob(6 * mib)
	done := make(chan struct{})
	tasks := 0
	start := func(task func()) {
		tasks++
		go func() {
			defer func() { done <- struct{}{} }()
			task()
		}()
	}
	for _, c := range []*Cache{h.Cache, h.again()} {
		b := h.open(c, s)
		for range 2 {
			start(func() {
				wantStream(t, b, s.data)
			})
		}
		start(func() {
			p := make([]byte, 100_000)
			for lo := len(s.data) - len(p); lo > 0; lo -= 700_000 {
				// Another process may drop what is being read, which the digest of a span tells.
				for want := s.data[lo : lo+len(p)]; !bytes.Equal(p, want); {
					_, err := b.ReadAt(p, int64(lo))
					if err == nil && !bytes.Equal(p, want) {
						err = b.Discard(int64(lo), int64(len(p)))
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
		start(func() {
			for range 20 {
				b.Distrust()
			}
		})
	}
	for range tasks {
		<-done
	}
}

var _ io.ReadCloser = (*Stream)(nil)
