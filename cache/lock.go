package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Bytes that are locked and never written: far behind the end of any file.
const (
	useByte     = int64(1) << 62 // shared: the file is in use; exclusive: it is being made or removed
	logByte     = useByte + 1    // exclusive: the map of a blob is being appended to; shared: read
	spoolByte   = useByte + 2    // exclusive: the whole blob is being streamed into the file
	collectByte = useByte + 3    // exclusive, of the file of the version: the cache is being collected
)

// Attempts at a lock follow each other after firstPause, then after twice
// that, up to lastPause. The kernel's own waiting can't be interrupted but by
// a signal, and would leave a waiter behind that takes the lock later on.
const (
	firstPause = 100 * time.Microsecond
	lastPause  = 20 * time.Millisecond
)

const forever = time.Duration(math.MaxInt64)

var (
	errBusy    = errors.New("held by another process")
	errStopped = errors.New("stopped waiting for a lock")
)

// control runs call with f's descriptor, again when a signal interrupts it.
func control(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); callErr != syscall.EINTR {
				return
			}
		}
	})
	return errors.Join(err, callErr)
}

// tryLock takes a lock of type F_RDLCK or F_WRLCK on n bytes of f, or changes
// or (F_UNLCK) drops the one that f has there. It reports whether it got it.
// Locks belong to the open file: closing f drops them, two os.Files of one
// process exclude each other, and users of one os.File do not.
func tryLock(f *os.File, typ int16, off, n int64) (bool, error) {
	lk := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: off, Len: n}
	err := control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk) })
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// unlock drops f's lock on n bytes. It fails only for a file that is closed,
// and then the lock is gone.
func unlock(f *os.File, off, n int64) {
	_, _ = tryLock(f, unix.F_UNLCK, off, n)
}

// locked reports whether some other open file has a lock on the byte at off.
func locked(f *os.File, off int64) (bool, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: off, Len: 1}
	err := control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk) })
	return err == nil && lk.Type != unix.F_UNLCK, err
}

// waitLock takes a lock as tryLock does, and waits for it: until done is
// closed (errStopped), or for as long as patience lasts (errBusy).
func waitLock(done <-chan struct{}, patience time.Duration, f *os.File, typ int16, off, n int64) error {
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if ok, err := tryLock(f, typ, off, n); ok || err != nil {
			return err
		}
		if time.Since(start) >= patience {
			return errBusy
		}
		select {
		case <-done:
			return errStopped
		case <-time.After(pause):
		}
	}
}

// linked reports whether f still has a name. Who gets the lock of a file that
// was removed meanwhile has locked nothing.
func linked(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 0, nil
}

// openUsed opens a file and marks it as in use until it is closed. A file
// that is removed just then is not there ([fs.ErrNotExist]), unless flag has
// O_CREATE: then it is made anew.
func (c *Cache) openUsed(path string, flag int) (*os.File, error) {
	return c.openLocked(nil, c.patience, path, flag, unix.F_RDLCK)
}

// openLocked opens a file and takes the lock of its use byte.
func (c *Cache) openLocked(done <-chan struct{}, patience time.Duration, path string, flag int, typ int16) (*os.File, error) {
	for {
		f, err := c.root.OpenFile(path, flag, 0o600)
		if err != nil {
			return nil, err
		}
		err = waitLock(done, patience, f, typ, useByte, 1)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		ok, err := linked(f)
		if ok {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// Lock waits until no other caller, in whatever process, holds the lock of d.
// It is held while a layer is streamed, so that it is streamed once. unlock
// gives it back and may be called more than once; the death of the process
// gives it back too. A ctx that ends while waiting ends the wait, and its
// error is returned. waiting, unless it is nil, is called when a second has
// gone by without the lock, once, and before Lock returns.
func (c *Cache) Lock(ctx context.Context, d digest.Digest, waiting func()) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unlock, err = c.lockLayer(ctx.Done(), c.notice, d)
	if errors.Is(err, errBusy) {
		if waiting != nil {
			waiting()
		}
		unlock, err = c.lockLayer(ctx.Done(), forever, d)
	}
	if errors.Is(err, errStopped) {
		return nil, fmt.Errorf("cache: wait for %s: %w", d, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("cache: lock %s: %w", d, err)
	}
	return unlock, nil
}

// lockLayer is Lock for as long as patience lasts.
func (c *Cache) lockLayer(done <-chan struct{}, patience time.Duration, d digest.Digest) (unlock func(), err error) {
	name, err := Blobs.path(d)
	if err != nil {
		return nil, err
	}
	name = lockDir + name[len(Blobs.dir()):]
	f, err := c.openLocked(done, patience, name, os.O_RDWR|os.O_CREATE, unix.F_WRLCK)
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		// The name goes while the lock is held. A waiter that then gets the
		// lock of the nameless file notices, and starts over.
		if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.log.Debug("lock file stays", "err", err)
		}
		_ = f.Close() // nothing was written
	}), nil
}
