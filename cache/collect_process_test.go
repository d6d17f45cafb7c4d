package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func init() {
	children["collecting"] = childCollecting
	children["collectAll"] = childCollectAll
	children["collect"] = childCollect
	children["readMany"] = childReadMany
	children["build"] = childBuild
}

// childCollecting is at a collection, and does not get on with it.
func childCollecting(dir string) error {
	c, err := Open(dir, nil)
	if err != nil {
		return err
	}
	f, err := c.root.OpenFile(versionFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := waitLock(nil, 0, f, unix.F_WRLCK, collectByte, 1); err != nil {
		return err
	}
	return standStill("collecting")
}

// What the processes of a test of several share.
const (
	manyBlobs = 6
	manySize  = 3 << 20
)

func manySource(i int) *source { return sourceOf(randomBytes(uint64(100+i), manySize)) }

// childCollectAll takes all away that is not in use, and tells of each blob that something of it has gone.
func childCollectAll(dir string) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: onlyMessage}))
	c, err := Open(dir, &Options{Log: log, Limits: Limits{Size: 1}})
	if err != nil {
		return err
	}
	for {
		if _, err := c.Collect(context.Background()); err != nil {
			return err
		}
		fmt.Println("collected")
	}
}

func onlyMessage(_ []string, a slog.Attr) slog.Attr {
	if a.Key != slog.MessageKey {
		return slog.Attr{}
	}
	return a
}

// untilTold does something again and again, until stdin ends or it fails.
func untilTold(do func() error) error {
	told := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		told <- err
	}()
	for n := 1; ; n++ {
		select {
		case err := <-told:
			return err
		default:
		}
		if err := do(); err != nil {
			return err
		}
		if n == 10 {
			fmt.Println("at it")
		}
	}
}

// childCollect collects with limits that change.
func childCollect(dir string) error {
	return untilTold(func() error {
		c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler), Limits: Limits{Size: 1 + rand.Int64N(manyBlobs*manySize)}})
		if err != nil {
			return err
		}
		_, err = c.Collect(context.Background())
		return errors.Join(err, c.Close())
	})
}

// childReadMany is a mount after the other. What a blob gives is right whatever others take away, and while the blob is open
// its file stays.
func childReadMany(dir string) error {
	return untilTold(func() error {
		c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler), Limits: Limits{Size: manySize}})
		if err != nil {
			return err
		}
		s := manySource(rand.IntN(manyBlobs))
		b, err := c.Blob(s.digest, manySize, s)
		if err != nil {
			return err
		}
		if b.file == nil {
			return errors.New("the blob could not be kept")
		}
		lo := rand.Int64N(manySize - 50_000)
		for range 3 {
			if err := readSpan(b, s.data, lo+rand.Int64N(10_000), 1+rand.Int64N(30_000)); err != nil {
				return err
			}
		}
		if err := b.landed(); err != nil {
			return err
		}
		if ok, err := linked(b.file.f); !ok {
			return errors.Join(errors.New("the file of an open blob is gone"), err)
		}
		return errors.Join(b.Close(), c.Close())
	})
}

// readSpan reads as the readers of blobs do: what is wrong, for others may have dropped it that moment, is read once more. Now and
// then it takes for wrong what is right.
func readSpan(b *Blob, data []byte, off, n int64) error {
	p := make([]byte, n)
	for attempt := range 5 {
		if _, err := b.ReadAt(p, off); err != nil {
			return err
		}
		if string(p) == string(data[off:off+n]) && (attempt > 0 || rand.IntN(4) > 0) {
			return nil
		}
		if err := b.Discard(off, n); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d bytes from %d on are wrong", n, off)
}

// childBuild makes indexes and frames, each under the lock of its layer, and opens them before it lets that go.
func childBuild(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler), Limits: Limits{Size: 1}})
	if err != nil {
		return err
	}
	n := 0
	return untilTold(func() error {
		n++
		d := digest.FromString(strconv.Itoa(os.Getpid()*1000 + n%100))
		unlock, err := c.Lock(context.Background(), d, nil)
		if err != nil {
			return err
		}
		defer unlock()
		for _, kind := range []Kind{Frames, Indexes} {
			t, err := c.Create(kind, d)
			if err != nil {
				return err
			}
			if _, err := t.Write(make([]byte, 20_000)); err != nil {
				return err
			}
			if err := t.Commit(); err != nil {
				return err
			}
		}
		x, err := c.OpenIndex(d)
		if err != nil {
			return fmt.Errorf("just built: %w", err)
		}
		f, err := c.OpenFrames(d)
		if err != nil {
			return fmt.Errorf("just built: %w", err)
		}
		return errors.Join(x.Close(), f.Close())
	})
}

func TestProcessesCollectAndCheckWhileOthersReadAndBuild(t *testing.T) {
	h := newHouse(t)
	for i := range manyBlobs {
		s := manySource(i)
		h.contents[s.digest] = s.data
	}
	var running []*child
	for _, what := range []string{"collect", "collect", "readMany", "readMany", "check", "check", "build", "build"} {
		running = append(running, startChild(t, what, h.dir))
	}
	for _, c := range running {
		c.says("at it")
	}
	for _, c := range running {
		must(t, c.stdin.Close())
	}
	for _, c := range running {
		c.succeeds()
	}
	for i := range manyBlobs {
		s := manySource(i)
		wantRange(t, h.open(h.Cache, s), s.data, 0, manySize)
	}
}

func TestKilledCollectionLeavesARightCache(t *testing.T) {
	h := newHouse(t)
	var sources []*source
	for range 12 {
		sources = append(sources, h.blob(64<<10))
	}
	for dropped := range 13 {
		for i, s := range sources {
			b := h.open(h.Cache, s)
			wantRange(t, b, s.data, i, len(s.data)-i)
			must(t, b.Close())
			h.put(Indexes, 0, s.digest.String(), 4096)
		}
		c := startChild(t, "collectAll", h.dir)
		for range dropped {
			c.says(`msg="dropped from the cache"`)
		}
		c.kill()
		if err := h.sweep(); err != nil {
			t.Fatal(err)
		}
		h.check()
		if t.Failed() {
			t.Fatalf("killed after %d blobs", dropped)
		}
	}
	if h.collect(1); h.disk() != 0 {
		t.Errorf("%d bytes are left", h.disk())
	}
	for _, s := range sources {
		if _, err := os.Stat(h.path(s)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", s.digest, err)
		}
	}
}
