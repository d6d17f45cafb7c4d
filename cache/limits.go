package cache

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what a cache takes. The zero value bounds nothing.
type Limits struct {
	// Size is how many bytes all that is in the cache may take on disk; 0 for
	// any number.
	Size int64
	// Free is how many bytes of its file system the cache leaves free. If that
	// is negative, it is a twentieth of the file system, and 2 GiB at most.
	Free int64
}

// A process collects whenever it has added collectStep, or less where less is
// allowed altogether: so much may the limit be passed by for a while.
const (
	collectStep    = 256 << 20
	minCollectStep = 1 << 20
)

// collectPatience is how long a process that is about to end, or has no room
// left, waits for another one that collects.
const collectPatience = time.Second

// roomPause is for how long it is not tried again to make room where nothing
// could be taken away.
const roomPause = 10 * time.Second

// bounds keep a cache within its limits.
type bounds struct {
	Limits
	closing   chan struct{} // closed by Close
	owed      atomic.Bool   // something came since the last collection began, or that left too much
	grown     atomic.Int64  // bytes that came since one was begun or put off
	rounds    atomic.Int64  // collections that have freed something
	fruitless atomic.Int64  // when one for room freed nothing; seconds since 1970

	collecting sync.Mutex // held while this process collects

	// mu protects the following.
	mu      sync.Mutex
	closed  bool
	behind  bool // a collection runs in a goroutine of its own
	running sync.WaitGroup
}

func (b *bounds) unlimited() bool { return b.Limits == Limits{} }

func (b *bounds) step() int64 {
	if b.Size == 0 {
		return collectStep
	}
	return min(collectStep, max(minCollectStep, b.Size/32))
}

// grew is told of bytes that have come to the disk. When they are many, they
// have others taken away, behind the back of who brings them.
func (c *Cache) grew(n int64) {
	if c.bounds.unlimited() || n == 0 {
		return
	}
	c.bounds.owed.Store(true)
	if c.bounds.grown.Add(n) >= c.bounds.step() {
		c.collectBehind()
	}
}

func (c *Cache) collectBehind() {
	b := &c.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.behind {
		return
	}
	b.behind = true
	b.running.Go(func() {
		c.collectAndTell(b.closing, 0)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.behind = false
	})
}

// collectAndTell collects for nobody who would look at what comes of it.
func (c *Cache) collectAndTell(stop <-chan struct{}, patience time.Duration) {
	done, err := c.collect(stop, patience, Room.ample)
	switch {
	case errors.Is(err, errBusy) || errors.Is(err, errStopped):
		c.log.Debug("the cache is not collected", "dir", c.dir, "why", err)
	case err != nil:
		c.log.Info("the cache can't be collected", "dir", c.dir, "err", err)
	case done.Over > 0:
		c.log.Info("the cache is over its limits, and what is left of it is in use", "dir", c.dir, "freed", done.Freed, "over", done.Over)
	case done.Freed > 0:
		c.log.Info("the cache was collected", "dir", c.dir, "freed", done.Freed)
	}
}

// close ends a collection that is under way, and keeps others from starting.
func (b *bounds) close() {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if !closed {
		close(b.closing)
	}
	b.running.Wait()
}

// withRoom writes something and, if there is no room for it, once more when
// a collection has made some.
func (c *Cache) withRoom(write func() error) error {
	before := c.bounds.rounds.Load()
	err := write()
	if diskFull(err) && c.makeRoom(before) {
		err = write()
	}
	return err
}

func diskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoom reports whether there may be room now, which there was not after
// so many rounds.
func (c *Cache) makeRoom(before int64) bool {
	b := &c.bounds
	if b.unlimited() || c.now().Unix()-b.fruitless.Load() < int64(roomPause/time.Second) {
		return false
	}
	b.collecting.Lock()
	others := b.rounds.Load() != before
	b.collecting.Unlock()
	if others {
		return true
	}
	done, err := c.collect(b.closing, collectPatience, Room.anyway)
	if err != nil {
		c.log.Debug("no room could be made in the cache", "dir", c.dir, "err", err)
	}
	if done.Freed == 0 {
		b.fruitless.Store(c.now().Unix())
	}
	return done.Freed > 0
}
