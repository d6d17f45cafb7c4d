package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// version is the content of the file of that name. A directory laid out in
// another way has another.
const (
	versionFile = "version"
	version     = "imgfs cache 1\n"
)

// The directories that hold no kind: files being written, and lock files.
const (
	tempDir = "tmp"
	lockDir = "locks"
)

// behindBytes bounds the memory of ranges that readers have been given
// already, but which are still on their way to the disk.
const behindBytes = 64 << 20

// lockPatience is how long a fetch waits for another process that is at the
// same range: as long as a healthy process can take for it. After that, the
// range is fetched a second time rather than having readers wait for a process
// that may be stopped.
const lockPatience = 30 * time.Second

// lockNotice is how long [Cache.Lock] waits before it tells that it does.
const lockNotice = time.Second

// Options are the choices of [Open]. Nil means the defaults.
type Options struct {
	Log    *slog.Logger // where a disk that can't be written is told, and what is collected; default slog.Default()
	Limits Limits
}

// A Cache is a directory of documents, refs, indexes, frames and blobs. It is safe
// for concurrent use.
type Cache struct {
	dir      string
	root     root
	log      *slog.Logger
	behind   *semaphore.Weighted // bytes served and not yet written
	fullOnce sync.Once           // one line for a disk that takes no more
	bounds   bounds
	patience time.Duration
	notice   time.Duration
	sync     func(*os.File) error // (*os.File).Sync, but for tests
	now      func() time.Time     // time.Now, but for tests
}

// Open opens the cache in dir, and makes it, readable by the user alone, when
// it is not there. It refuses a directory that belongs to somebody else or
// that others may write to (both wrap [fs.ErrPermission]), one that holds
// other things, and one on a file system without file locks. What dead
// processes left unfinished is removed.
//
// A directory that is not there and can't be made because the disk is full or
// read-only is no error: the Cache then holds nothing, and all that would
// write to it fails with the reason, which is logged.
func Open(dir string, o *Options) (*Cache, error) {
	log, limits := slog.Default(), Limits{}
	if o != nil {
		limits = o.Limits
	}
	if o != nil && o.Log != nil {
		log = o.Log
	}
	c, err := open(dir, log, limits)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

func open(dir string, log *slog.Logger, limits Limits) (*Cache, error) {
	c := &Cache{
		dir: dir, log: log,
		behind: semaphore.NewWeighted(behindBytes), patience: lockPatience, notice: lockNotice,
		bounds: bounds{Limits: limits, closing: make(chan struct{})},
		sync:   (*os.File).Sync, now: time.Now,
	}
	err := c.makeRoot()
	if err == nil {
		return c, nil
	}
	if none, ok := unmade(err); ok {
		c.root = none
		c.uncached(none.why)
		return c, nil
	}
	return nil, err
}

// makeRoot opens the directory, and makes what is missing of it.
func (c *Cache) makeRoot() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	dir, err := os.OpenRoot(c.dir)
	if err != nil {
		return err
	}
	c.root.Root = dir
	for _, step := range []func() error{c.checkOwner, c.checkVersion, c.checkLocks, c.makeDirs, c.sweep} {
		if err := step(); err != nil {
			return errors.Join(err, dir.Close())
		}
	}
	return nil
}

// Close lets the directory go, in which there is no more than the limits allow
// if something was added to it. What is open of it stays so.
func (c *Cache) Close() error {
	c.bounds.close()
	if c.bounds.owed.Load() {
		c.collectAndTell(nil, collectPatience)
	}
	return c.root.Close()
}

// checkOwner refuses a directory into which another user could put files.
func (c *Cache) checkOwner() error {
	info, err := c.root.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is not known", c.dir)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("%s belongs to user %d, this is user %d; use a directory of your own: %w",
			c.dir, st.Uid, uid, fs.ErrPermission)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s may be written to by others (mode %#o); chmod go-w it: %w",
			c.dir, mode, fs.ErrPermission)
	}
	return nil
}

// checkVersion reads the version file, and writes it into a directory that
// is empty. Every writer writes the same bytes in one write, so a file that
// has the beginning of them is one that is just being made, or whose making
// was cut short: writing it again is right in both cases.
func (c *Cache) checkVersion() error {
	got, err := c.root.ReadFile(versionFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := c.checkEmpty(); err != nil {
			return err
		}
	case err != nil:
		return err
	case string(got) == version:
		return nil
	case !strings.HasPrefix(version, string(got)):
		return fmt.Errorf("%s was laid out by another version of imgfs (%.40q, this one makes %q); remove it or use another directory",
			c.dir, got, version)
	}
	return c.root.WriteFile(versionFile, []byte(version), 0o600)
}

// checkEmpty refuses a directory in which there are things that are not ours:
// it is probably not meant, and cache rm must never touch it.
func (c *Cache) checkEmpty() error {
	names, err := c.names(".")
	if err != nil {
		return err
	}
	ours := map[string]bool{tempDir: true, lockDir: true, versionFile: true, "lost+found": true}
	for _, k := range kinds {
		ours[k.dir()] = true
	}
	for _, name := range names {
		if !ours[name] {
			return fmt.Errorf("%s is not empty and is not a cache (it holds %q); use another directory", c.dir, name)
		}
	}
	return nil
}

// checkLocks takes a lock once, to tell early where there are none, and looks
// at a link count once: a file without a name has to be told from others.
func (c *Cache) checkLocks() error {
	f, err := c.root.Open(versionFile)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := tryLock(f, unix.F_RDLCK, useByte, 1); err != nil {
		return fmt.Errorf("%s: file locks do not work there: %w", c.dir, err)
	}
	if ok, err := linked(f); !ok {
		return errors.Join(fmt.Errorf("%s: its file system does not count links", c.dir), err)
	}
	return nil
}

func (c *Cache) makeDirs() error {
	dirs := []string{tempDir, lockDir}
	for _, k := range kinds {
		dirs = append(dirs, k.dir())
	}
	for _, dir := range dirs {
		if err := c.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// names returns the names in a directory of the cache: none in one that is
// not there.
func (c *Cache) names(dir string) ([]string, error) {
	f, err := c.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// uncached tells, once, that the disk takes no more. Reads go on without it.
func (c *Cache) uncached(err error) {
	c.fullOnce.Do(func() {
		c.log.Warn("the cache can't be written to; reads go on without it", "dir", c.dir, "err", err)
	})
}
