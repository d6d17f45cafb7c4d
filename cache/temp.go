package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A Temp is a file that is being written and that appears under its name with
// Commit, whole, or never. It is locked while its process lives, by which
// [Open] knows the leftovers of the dead. Not safe for concurrent use.
type Temp struct {
	c        *Cache
	f        *os.File // nil once committed or aborted
	temp     string   // its name until then
	name     string   // and from then on
	kind     Kind     // of what is written
	writeErr error    // the first error of Write; Commit refuses after one
}

// Create starts a file of kind [Indexes] or [Frames] for d. The caller gives
// every byte to Write and then calls Commit, having checked that the bytes
// are those of d, or Abort.
func (c *Cache) Create(kind Kind, d digest.Digest) (*Temp, error) {
	if kind != Indexes && kind != Frames {
		return nil, fmt.Errorf("cache: create: %v are not made this way", kind)
	}
	name, err := kind.path(d)
	if err != nil {
		return nil, err
	}
	return c.create(kind, name)
}

func (c *Cache) create(kind Kind, name string) (*Temp, error) {
	for {
		temp := fmt.Sprintf("%s/%016x", tempDir, rand.Uint64())
		f, err := c.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		// Between creation and lock another process may take the file for a
		// leftover. Then there is no lock to be had, or no name left.
		mine, err := tryLock(f, unix.F_WRLCK, useByte, 1)
		if mine {
			mine, err = linked(f)
		}
		if mine {
			return &Temp{c: c, f: f, temp: temp, name: name, kind: kind}, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
}

// Write appends p. After an error, what is left of p may be written again, if
// there is room now; until that succeeds, Commit fails too.
func (t *Temp) Write(p []byte) (int, error) {
	if t.f == nil {
		return 0, fmt.Errorf("cache: write to %s: %w", t.name, os.ErrClosed)
	}
	n := 0
	err := t.c.withRoom(func() error {
		m, err := t.f.Write(p[n:])
		n += m
		return err
	})
	t.c.grew(int64(n))
	t.writeErr = nil
	if err != nil {
		t.writeErr = fmt.Errorf("cache: %w", err)
	}
	return n, t.writeErr
}

// Commit gives the file its name, replacing what had it. When it fails nothing
// is left. A process that has the file open which was replaced goes on with
// that. The file is synced before, and the directory afterwards, but not those
// of frames: a power failure may leave them torn, which is damage that the
// digests of spans tell, and less dear than a sync of every layer.
func (t *Temp) Commit() error {
	if t.f == nil {
		return fmt.Errorf("cache: commit %s: %w", t.name, os.ErrClosed)
	}
	if err := t.publish(); err != nil {
		return errors.Join(fmt.Errorf("cache: commit %s: %w", t.name, err), t.Abort())
	}
	f := t.f
	t.f = nil
	var err error
	if t.synced() {
		err = t.c.syncDir(path.Dir(t.name))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cache: commit %s: %w", t.name, err)
	}
	return nil
}

func (t *Temp) publish() error {
	if t.writeErr != nil {
		return t.writeErr
	}
	if t.synced() {
		if err := t.c.sync(t.f); err != nil {
			return err
		}
	}
	return t.c.root.Rename(t.temp, t.name)
}

func (t *Temp) synced() bool { return t.kind != Frames }

// Abort removes the file. After Commit it does nothing, so it may be deferred.
func (t *Temp) Abort() error {
	if t.f == nil {
		return nil
	}
	err := errors.Join(t.c.root.Remove(t.temp), t.f.Close())
	t.f = nil
	if err != nil {
		return fmt.Errorf("cache: abort %s: %w", t.name, err)
	}
	return nil
}

// put makes a small file appear whole.
func (c *Cache) put(kind Kind, name string, content []byte) error {
	t, err := c.create(kind, name)
	if err != nil {
		return err
	}
	if _, err := t.Write(content); err != nil {
		return errors.Join(err, t.Abort())
	}
	return t.Commit()
}

func (c *Cache) syncDir(dir string) error {
	f, err := c.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(c.sync(f), f.Close())
}

// sweep removes the files in tempDir and lockDir that nobody holds a lock of.
// One that can't be removed costs space and nothing else.
func (c *Cache) sweep() error {
	for _, dir := range []string{tempDir, lockDir} {
		names, err := c.names(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			_, err := c.removeUnused(dir + "/" + name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				c.log.Debug("leftover stays in the cache", "dir", c.dir, "err", err)
			}
		}
	}
	return nil
}

// removeUnused removes a file unless somebody has it locked, and reports
// whether it did.
func (c *Cache) removeUnused(name string) (bool, error) {
	f, err := c.openUnused(name)
	if err != nil {
		return false, ignoreBusy(err)
	}
	defer f.Close()
	return true, c.root.Remove(name)
}

// openUnused opens a file that nobody has locked (errBusy), and locks it.
func (c *Cache) openUnused(name string) (*os.File, error) {
	f, err := c.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	free, err := tryLock(f, unix.F_WRLCK, useByte, 1)
	if err == nil && !free {
		err = errBusy
	}
	if err == nil {
		var ok bool
		if ok, err = linked(f); err == nil && !ok {
			err = fs.ErrNotExist // another was faster; the name may have a new file by now
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func ignoreBusy(err error) error {
	if errors.Is(err, errBusy) {
		return nil
	}
	return err
}
