package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Real second processes: the test binary runs itself with childEnv set to one
// of these, and the cache as its argument. A child says what it has reached
// by a line on stdout, and stands still by reading its stdin.
var children = map[string]func(dir string) error{
	"readAll":    childReadAll,
	"standStill": childStandStill,
	"lock":       childLock,
	"temp":       childTemp,
	"spool":      childSpool,
	"stream":     childStream,
}

const childEnv = "IMGFS_CACHE_TEST_CHILD"

func TestMain(m *testing.M) {
	child, ok := children[os.Getenv(childEnv)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
	stdin io.WriteCloser
}

func startChild(t *testing.T, what, dir string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0], dir)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+what)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.lines = bufio.NewScanner(out)
	c.stdin, err = c.cmd.StdinPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(c.kill)
	return c
}

// says waits for the child's next line.
func (c *child) says(want string) {
	c.t.Helper()
	if !c.lines.Scan() || c.lines.Text() != want {
		c.t.Fatalf("the child said %q (%v), want %q", c.lines.Text(), c.lines.Err(), want)
	}
}

// kill is kill -9; only when it returns has the child lost its locks.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func (c *child) succeeds() {
	c.t.Helper()
	must(c.t, c.cmd.Wait())
}

func standStill(reached string) error {
	fmt.Println(reached)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// The blob that all processes know, and the grid in which they read it.
const (
	sharedSize = 2 << 20
	sharedStep = 16 << 10
)

func sharedSource() *source { return sourceOf(randomBytes(0, sharedSize)) }

// sharedBlob is sharedSource's blob in dir; fetches are appended to a file
// beside it.
func sharedBlob(dir string) (*source, *Blob, error) {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	requests, err := os.OpenFile(dir+".requests", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	s := sharedSource()
	s.before = func(p piece) error {
		_, err := fmt.Fprintln(requests, p.lo, p.hi)
		return err
	}
	b, err := c.Blob(s.digest, sharedSize, s)
	return s, b, err
}

func childReadAll(dir string) error {
	s, b, err := sharedBlob(dir)
	if err != nil {
		return err
	}
	for _, i := range rand.Perm(sharedSize / sharedStep) {
		p := make([]byte, sharedStep)
		if _, err := b.ReadAt(p, int64(i*sharedStep)); err != nil {
			return err
		}
		if string(p) != string(s.data[i*sharedStep:][:sharedStep]) {
			return fmt.Errorf("step %d is wrong", i)
		}
		fmt.Println("read")
	}
	return b.Close()
}

func TestProcessesFetchEachRangeOnce(t *testing.T) {
	h := newHouse(t)
	h.blob(sharedSize)
	var running []*child
	for range 4 {
		running = append(running, startChild(t, "readAll", h.dir))
	}
	for _, c := range running {
		c.succeeds()
	}
	log, err := os.ReadFile(h.dir + ".requests")
	must(t, err)
	seen := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(string(log)), "\n") {
		lo, _, _ := strings.Cut(line, " ")
		if seen[lo]++; seen[lo] > 1 {
			t.Errorf("bytes from %s on were fetched %d times", lo, seen[lo])
		}
		off, err := strconv.Atoi(lo)
		if err != nil || off%sharedStep != 0 {
			t.Errorf("request %q", line)
		}
	}
	if len(seen) != sharedSize/sharedStep {
		t.Errorf("%d ranges were fetched, want %d", len(seen), sharedSize/sharedStep)
	}
}

func TestKilledAnywhereLeavesARightCache(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	for steps := range 12 {
		c := startChild(t, "readAll", h.dir)
		for range steps {
			c.says("read")
		}
		c.kill()
		h.check()
		if t.Failed() {
			t.Fatalf("killed after %d steps", steps)
		}
	}
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, sharedSize)
}

func childStandStill(dir string) error {
	s, b, err := sharedBlob(dir)
	if err != nil {
		return err
	}
	if _, err := b.ReadAt(make([]byte, 100_000), 0); err != nil {
		return err
	}
	s.before = func(piece) error { return standStill("fetching") }
	_, err = b.ReadAt(make([]byte, 100_000), 500_000)
	return err
}

func TestKilledFetchIsTakenOver(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	c := startChild(t, "standStill", h.dir)
	c.says("fetching")
	var dead atomic.Bool
	s.before = func(p piece) error {
		if !dead.Load() && p.lo < 600_000 && p.hi > 500_000 {
			return errors.New("fetched while the other process was at it")
		}
		return nil
	}
	b := h.open(h.Cache, s)
	read := make(chan struct{})
	go func() {
		defer close(read)
		wantRange(t, b, s.data, 400_000, 700_000)
	}()
	wantRange(t, b, s.data, 0, 100_000) // other ranges are not held up
	dead.Store(true)
	c.kill()
	<-read
	reads, _ := s.asked()
	for _, p := range reads {
		if p.lo < 100_000 {
			t.Errorf("bytes %d to %d were fetched again", p.lo, p.hi)
		}
	}
}

func TestStoppedProcessIsNotWaitedForForever(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	c := startChild(t, "standStill", h.dir)
	c.says("fetching")
	must(t, c.cmd.Process.Signal(syscall.SIGSTOP))
	h.patience = 0
	wantRange(t, h.open(h.Cache, s), s.data, 400_000, 700_000)
	if n := h.log.count("can't be written"); n != 0 {
		t.Errorf("%d log lines blame the disk", n)
	}
	if it := h.item(Blobs, s.digest); !it.InUse {
		t.Error("the blob is not listed as in use")
	}
	c.kill()
}

func (h *house) item(kind Kind, d digest.Digest) Item {
	h.t.Helper()
	items, err := h.List()
	must(h.t, err)
	for _, it := range items {
		if it.Kind == kind && it.Digest == d {
			return it
		}
	}
	h.t.Fatalf("%v %s is not listed", kind, d)
	return Item{}
}

func childLock(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := c.Lock(context.Background(), digest.FromString("layer"), nil); err != nil {
		return err
	}
	return standStill("locked")
}

func TestLockKeepsOutOtherProcessesUntilTheyDie(t *testing.T) {
	h := newHouse(t)
	d := digest.FromString("layer")
	c := startChild(t, "lock", h.dir)
	c.says("locked")
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := h.Lock(ctx, d, nil)
		failed <- err
	}()
	unlock, err := h.Lock(t.Context(), digest.FromString("another layer"), nil)
	must(t, err)
	unlock()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("the lock was to be had: %v", err)
	}
	c.kill()
	unlock, err = h.Lock(t.Context(), d, nil)
	must(t, err)
	unlock()
	unlock()
}

func TestLockTellsOnceThatItWaits(t *testing.T) {
	h := newHouse(t)
	h.notice = 0
	d := digest.FromString("layer")
	c := startChild(t, "lock", h.dir)
	c.says("locked")
	told := 0
	unlock, err := h.Lock(t.Context(), d, func() {
		told++
		c.kill()
	})
	must(t, err)
	unlock()
	unlock, err = h.Lock(t.Context(), d, func() { t.Error("nobody has the lock") })
	must(t, err)
	unlock()
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestLockIsHeldByOneAtATime(t *testing.T) {
	h := newHouse(t)
	d := digest.FromString("layer")
	var holders, rounds atomic.Int32
	done := make(chan struct{})
	for _, c := range []*Cache{h.Cache, h.Cache, h.again(), h.again()} {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 25 {
				unlock, err := c.Lock(t.Context(), d, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				rounds.Add(1)
				holders.Add(-1)
				unlock()
			}
		}()
	}
	for range 4 {
		<-done
	}
	if rounds.Load() != 100 {
		t.Errorf("%d rounds", rounds.Load())
	}
}

func childTemp(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	tmp, err := c.Create(Indexes, digest.FromString("unfinished"))
	if err != nil {
		return err
	}
	if _, err := tmp.Write([]byte("unfin")); err != nil {
		return err
	}
	return standStill("written")
}

func TestOpenRemovesWhatTheDeadLeftAndNotWhatTheLivingWrite(t *testing.T) {
	h := newHouse(t)
	dead, alive := startChild(t, "temp", h.dir), startChild(t, "temp", h.dir)
	dead.says("written")
	alive.says("written")
	must(t, os.WriteFile(filepath.Join(h.dir, lockDir, "old"), nil, 0o600))
	dead.kill()
	h.again()
	if n := len(h.ls(tempDir)); n != 1 {
		t.Errorf("%d temporary files, want that of the living", n)
	}
	if n := len(h.ls(lockDir)); n != 0 {
		t.Errorf("%d lock files", n)
	}
	alive.kill()
	h.again()
}

func childSpool(dir string) error {
	c, err := Open(dir, &Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	s := sharedSource()
	s.rangeless = true
	s.stream = func(context.Context) io.Reader {
		return io.MultiReader(bytes.NewReader(s.data[:streamChunk]), stillReader{})
	}
	b, err := c.Blob(s.digest, sharedSize, s)
	if err != nil {
		return err
	}
	_, err = b.ReadAt(make([]byte, 1), sharedSize-1)
	return err
}

// stillReader stands still at the first read.
type stillReader struct{}

func (stillReader) Read([]byte) (int, error) { return 0, standStill("streaming") }

func TestKilledStreamIsTakenOver(t *testing.T) {
	h := newHouse(t)
	s := h.blob(sharedSize)
	s.rangeless = true
	c := startChild(t, "spool", h.dir)
	c.says("streaming")
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 0, streamChunk) // what the other has streamed is there
	if _, opens := s.asked(); len(opens) != 0 {
		t.Error("streamed a second time")
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		wantRange(t, b, s.data, 0, sharedSize)
	}()
	c.kill()
	<-read
	if _, opens := s.asked(); len(opens) != 1 {
		t.Errorf("streamed %d times", len(opens))
	}
}
