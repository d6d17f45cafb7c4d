package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func TestSourceWithoutRangesIsStreamedOnce(t *testing.T) {
	h := newHouse(t)
	s := h.blob(5<<20 + 17)
	s.rangeless = true
	b := h.open(h.Cache, s)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { wantRange(t, b, s.data, i*500_000, i*500_000+400_000) })
	}
	wg.Wait()
	wantRange(t, b, s.data, 0, len(s.data))
	must(t, b.Close())
	wantRange(t, h.open(h.again(), s), s.data, 0, len(s.data))
	if _, opens := s.asked(); len(opens) != 1 {
		t.Errorf("streamed %d times", len(opens))
	}
}

func TestStreamServesWhatHasComeBeforeItEnds(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 << 20)
	s.rangeless = true
	rest, more := io.Pipe()
	s.stream = func(context.Context) io.Reader { return io.MultiReader(bytes.NewReader(s.data[:streamChunk]), rest) }
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 1000, streamChunk)
	go func() {
		_, err := more.Write(s.data[streamChunk:])
		more.CloseWithError(errors.Join(err, io.EOF)) // plain io.EOF when all went well
	}()
	wantRange(t, b, s.data, 1000, len(s.data))
}

func TestStreamThatIsWrong(t *testing.T) {
	good := randomBytes(0, 2<<20)
	broken := errors.New("connection reset")
	for _, tt := range []struct {
		name   string
		stream func(context.Context) io.Reader
		want   string // in the error
		kept   bool   // what came is kept for the next try
	}{
		{"too short", func(context.Context) io.Reader { return bytes.NewReader(good[:len(good)-1]) }, "unexpected EOF", true},
		{"empty", func(context.Context) io.Reader { return strings.NewReader("") }, "unexpected EOF", false},
		{"broken", func(context.Context) io.Reader {
			return io.MultiReader(bytes.NewReader(good[:streamChunk+5]), iotest.ErrReader(broken))
		}, "connection reset", true},
		{"broken at the end", func(context.Context) io.Reader {
			return io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken))
		}, "connection reset", true},
		{"too long", func(context.Context) io.Reader { return io.MultiReader(bytes.NewReader(good), strings.NewReader("x")) }, "longer than", false},
		{"other bytes", func(context.Context) io.Reader { return bytes.NewReader(make([]byte, len(good))) }, "has the digest", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(len(good))
			s.rangeless, s.stream = true, tt.stream
			b := h.open(h.Cache, s)
			err := b.spoolOnce(&spool{step: make(chan struct{})})
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, io.EOF) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			cached, _, err := h.HasBlob(s.digest)
			if (cached > 0) != tt.kept {
				t.Errorf("%d bytes are cached (%v)", cached, err)
			}
			s.stream = nil
			wantRange(t, b, s.data, 0, len(good))
		})
	}
}

func TestCloseEndsAStream(t *testing.T) {
	h := newHouse(t)
	s := h.blob(3 << 20)
	s.rangeless = true
	s.stream = func(ctx context.Context) io.Reader {
		return io.MultiReader(bytes.NewReader(s.data[:streamChunk]), stalled{ctx})
	}
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, streamChunk)
	failed := make(chan error)
	go func() {
		_, err := b.ReadAt(make([]byte, 1), 2<<20)
		failed <- err
	}()
	must(t, b.Close())
	if err := <-failed; !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read of bytes that never came: %v", err)
	}
}

// A source that stalls lets go only when it is closed, before the Blob is.
func TestCloseAfterTheSourceEndsItsFetches(t *testing.T) {
	for name, rangeless := range map[string]bool{"a range": false, "a stream": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			s := h.blob(3 << 20)
			fetching, closed := make(chan struct{}), make(chan struct{})
			begin := sync.OnceFunc(func() { close(fetching) })
			stall := func() error {
				begin()
				<-closed
				return fs.ErrClosed
			}
			s.rangeless = rangeless
			s.before = func(piece) error { return stall() }
			s.stream = func(context.Context) io.Reader { return readerFunc(func([]byte) (int, error) { return 0, stall() }) }
			b := h.open(h.Cache, s)
			b.rangeless.Store(rangeless)
			failed := make(chan error)
			for range 3 {
				go func() {
					_, err := b.ReadAt(make([]byte, 100), 1000)
					failed <- err
				}()
			}
			<-fetching
			close(closed)
			must(t, b.Close())
			for range 3 {
				if err := <-failed; !errors.Is(err, fs.ErrClosed) {
					t.Errorf("a read: %v", err)
				}
			}
			if n := h.log.count("\n"); n != 0 {
				t.Errorf("%d log lines, want none", n)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A stalled reader gives nothing until its context ends.
type stalled struct{ ctx context.Context }

func (r stalled) Read([]byte) (int, error) {
	<-r.ctx.Done()
	return 0, r.ctx.Err()
}

func TestStoppedStreamIsNotWaitedForForever(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	s.rangeless = true
	c := startChild(t, "spool", h.dir)
	c.says("streaming")
	must(t, c.cmd.Process.Signal(unix.SIGSTOP))
	h.patience = 0
	wantRange(t, h.open(h.Cache, s), s.data, sharedSize-1000, sharedSize)
	c.kill()
}

// A fickle source serves wrong bytes until it is doubted.
type fickle struct {
	*source
	doubts int // for as many times, there is somebody else to ask
}

func (f *fickle) Doubt() bool {
	f.doubts--
	if f.doubts == 0 {
		f.stream = nil
	}
	return f.doubts >= 0
}

func TestAStreamThatIsWrongIsFetchedFromElsewhere(t *testing.T) {
	for _, doubts := range []int{0, 1, 2} {
		h := newHouse(t)
		s := h.blob(3 << 20)
		s.rangeless = true
		s.stream = func(context.Context) io.Reader { return bytes.NewReader(make([]byte, len(s.data))) }
		b, err := h.Blob(s.digest, int64(len(s.data)), &fickle{s, doubts})
		must(t, err)
		err = b.spoolOnce(&spool{step: make(chan struct{})})
		if (err == nil) != (doubts > 0) {
			t.Errorf("doubted %d times: %v", doubts, err)
		}
		if err == nil {
			wantRange(t, b, s.data, 0, len(s.data))
		}
		must(t, b.Close())
	}
}

func TestWhatIsDiscardedIsDoubted(t *testing.T) {
	h := newHouse(t)
	s := h.blob(1 << 20)
	f := &fickle{s, 5}
	b, err := h.Blob(s.digest, int64(len(s.data)), f)
	must(t, err)
	defer b.Close()
	must(t, b.Discard(10, 20))
	if f.doubts != 4 {
		t.Errorf("doubted %d times", 5-f.doubts)
	}
}
