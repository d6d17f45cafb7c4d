package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A blobFile is the open file of a blob and what is known of its map. Other
// processes write to both; sync catches up. Safe for concurrent use.
type blobFile struct {
	f        *os.File
	size     int64 // of the blob
	writable bool
	patience time.Duration
	unlink   func() error
	cache    *Cache // nil for a file that is not written to
	uses     *uses  // nil if nobody is told of uses

	// logMu is held while the map is read or written, together with the lock
	// of its byte, which keeps out other processes. It protects log.
	logMu sync.Mutex
	log   mapLog

	// mu protects the following.
	mu      sync.RWMutex
	present ranges
	drops   uint64 // times that something left present
}

// openBlobFile opens a blob's file for use, and makes it where there is none
// or one that is of no use. On a disk that is read-only, a file is opened for
// reading.
func (c *Cache) openBlobFile(name string, size int64) (*blobFile, error) {
	for {
		file, err := c.openAnyBlobFile(name)
		if err != nil {
			return nil, err
		}
		err = c.withRoom(func() error { return file.start(size) })
		if err == nil {
			return file, nil
		}
		if err := errors.Join(file.close(), ignoreStale(err)); err != nil {
			return nil, err
		}
		// Whoever uses the old file keeps it.
		if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (c *Cache) openAnyBlobFile(name string) (*blobFile, error) {
	f, err := c.openUsed(name, os.O_RDWR|os.O_CREATE)
	if err == nil {
		unlink := func() error { return c.root.Remove(name) }
		return &blobFile{f: f, writable: true, patience: c.patience, unlink: unlink, cache: c}, nil
	}
	if !errors.Is(err, unix.EROFS) {
		return nil, err
	}
	f, err = c.openUsed(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &blobFile{f: f, patience: c.patience}, nil
}

// ignoreStale returns nil for what start says of a file that is to be made
// anew.
func ignoreStale(err error) error {
	if errors.Is(err, errHeader) || errors.Is(err, errOtherSize) {
		return nil
	}
	return err
}

var errOtherSize = errors.New("the blob has another size there")

// start reads the map. It writes the header into a file that is empty.
func (b *blobFile) start(size int64) error {
	b.size = size
	return b.withLog(nil, b.writable, func() error {
		info, err := b.f.Stat()
		if err != nil {
			return err
		}
		if b.writable {
			b.uses = newUses(size, info.ModTime(), b.cache.now, func() { _ = b.saveUses() })
		}
		if info.Size() == 0 && b.writable {
			header, _ := appendHeader(nil, size, logStart(size))
			if _, err := b.f.WriteAt(header, 0); err != nil {
				return err
			}
		}
		if err := b.replay(nil); err != nil {
			return err
		}
		if b.log.size != size {
			return errOtherSize
		}
		return nil
	})
}

// tidy removes a file that nothing is in, unless somebody else has it open. It
// comes before the file is closed.
func (b *blobFile) tidy() {
	if !b.writable || b.size == 0 {
		return
	}
	if alone, _ := tryLock(b.f, unix.F_WRLCK, useByte, 1); !alone {
		return
	}
	_, err := b.sync(nil)
	if there, _ := linked(b.f); there && err == nil && len(b.present) == 0 {
		_ = b.unlink() // it costs a page
	}
}

// readPresent reads what is present at off, up to all of p. It reads nothing
// where nothing is, and returns an error when the file can't be read although
// the map promises that it can.
func (b *blobFile) readPresent(p []byte, off int64) (int, error) {
	if b == nil {
		return 0, nil
	}
	for {
		b.mu.RLock()
		have, drops := b.present.from(off), b.drops
		b.mu.RUnlock()
		if have == 0 {
			return 0, nil
		}
		n, err := b.f.ReadAt(p[:min(int64(len(p)), have)], dataStart+off)
		b.mu.RLock()
		same := b.drops == drops
		b.mu.RUnlock()
		if !same {
			continue // it may have been punched out while it was read
		}
		if n > 0 {
			b.uses.note(piece{off, off + int64(n)})
			return n, nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
}

// dropped counts the times that something left present.
func (b *blobFile) dropped() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.drops
}

func (b *blobFile) covers(p piece) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.present.from(p.lo) >= p.hi-p.lo
}

// withLog runs do while nobody else reads the map (if write is set) or writes
// to it.
func (b *blobFile) withLog(done <-chan struct{}, write bool, do func() error) error {
	b.logMu.Lock()
	defer b.logMu.Unlock()
	typ := int16(unix.F_RDLCK)
	if write {
		typ = unix.F_WRLCK
	}
	if err := waitLock(done, b.patience, b.f, typ, logByte, 1); err != nil {
		return fmt.Errorf("lock map: %w", err)
	}
	defer unlock(b.f, logByte, 1)
	return do()
}

// sync learns what other processes have written to the map, and reports
// whether that was anything.
func (b *blobFile) sync(done <-chan struct{}) (changed bool, err error) {
	err = b.withLog(done, false, func() error {
		before := b.log
		err := b.replay(nil)
		changed = b.log != before
		return err
	})
	return changed, err
}

// replay reads the new part of the map. What it drops leaves old, too. Called
// by withLog.
func (b *blobFile) replay(old *ranges) error {
	moved, err := b.log.readHeader(b.f)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if moved {
		b.present = nil
		b.drops++
	}
	return b.log.replay(b.f, func(r record) {
		b.apply(r)
		if r.op == opDropped && old != nil {
			*old = old.remove(r.piece)
		}
	})
}

// apply does what a record says. Called with mu held.
func (b *blobFile) apply(r record) {
	if r.op == opPresent {
		b.present = b.present.add(r.piece)
		return
	}
	b.present = b.present.remove(r.piece)
	b.drops++
}

// forget makes p missing for this process alone.
func (b *blobFile) forget(p piece) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.apply(record{opDropped, p})
}

// record writes to the map, and then does what the record says. Called by
// withLog, after replay.
func (b *blobFile) record(r record) error {
	if err := b.log.append(b.f, r); err != nil {
		return err
	}
	if r.op == opPresent {
		b.uses.note(r.piece)
		b.cache.grew(r.hi - r.lo)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.apply(r)
	if !b.log.bloated(b.present) {
		return nil
	}
	old, err := b.log.compact(b.f, b.present)
	if err != nil {
		return err
	}
	return b.punch(old)
}

// store writes what is missing of the bytes that were fetched, and records
// them. The caller holds the lock of their range.
func (b *blobFile) store(done <-chan struct{}, data []byte, off int64) error {
	return b.cache.withRoom(func() error { return b.tryStore(done, data, off) })
}

func (b *blobFile) tryStore(done <-chan struct{}, data []byte, off int64) error {
	all := piece{off, off + int64(len(data))}
	if err := b.writeMissing(data, off); err != nil {
		return errors.Join(err, b.reclaim(done, all))
	}
	return b.withLog(done, true, func() error {
		if err := b.replay(nil); err != nil {
			return err
		}
		return b.record(record{opPresent, all})
	})
}

// writeMissing writes what is missing of the bytes that were fetched.
func (b *blobFile) writeMissing(data []byte, off int64) error {
	return b.eachMissing(piece{off, off + int64(len(data))}, func(m piece) error {
		_, err := b.f.WriteAt(data[m.lo-off:m.hi-off], dataStart+m.lo)
		return err
	})
}

// reclaim gives back the room of bytes that were written and not recorded.
func (b *blobFile) reclaim(done <-chan struct{}, p piece) error {
	return b.withLog(done, true, func() error {
		if err := b.replay(nil); err != nil {
			return err
		}
		return b.eachMissing(p, func(m piece) error {
			return b.punch(piece{dataStart + m.lo, dataStart + m.hi})
		})
	})
}

// eachMissing calls do for every piece of p that is missing.
func (b *blobFile) eachMissing(p piece, do func(piece) error) error {
	for {
		b.mu.RLock()
		m := b.present.missing(p.lo, p.hi)
		b.mu.RUnlock()
		if m.lo == m.hi {
			return nil
		}
		if err := do(m); err != nil {
			return err
		}
		p.lo = m.hi
	}
}

// hull returns the smallest piece with all that is missing of p.
func (b *blobFile) hull(p piece) piece {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.present.hull(p.lo, p.hi)
}

// storeLocked is store for who holds no lock of the range: the bytes are
// written under the lock of the map, as discard punches them.
func (b *blobFile) storeLocked(done <-chan struct{}, data []byte, off int64) error {
	return b.cache.withRoom(func() error {
		return b.withLog(done, true, func() error {
			if err := b.replay(nil); err != nil {
				return err
			}
			if err := b.writeMissing(data, off); err != nil {
				return err
			}
			return b.record(record{opPresent, piece{off, off + int64(len(data))}})
		})
	})
}

// discard drops p, but not what another process has dropped of it since this
// one looked last.
func (b *blobFile) discard(done <-chan struct{}, p piece) error {
	err := b.withLog(done, true, func() error {
		old := ranges{p}
		if err := b.replay(&old); err != nil {
			return err
		}
		if b.isAll(old) {
			return b.clear()
		}
		for _, p := range old {
			if err := b.record(record{opDropped, p}); err != nil {
				return err
			}
			if err := b.punch(piece{dataStart + p.lo, dataStart + p.hi}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.forget(p)
	}
	return err
}

// isAll tells whether nothing is present but what is in old.
func (b *blobFile) isAll(old ranges) bool {
	b.mu.RLock()
	left := slices.Clone(b.present)
	b.mu.RUnlock()
	for _, p := range old {
		left = left.remove(p)
	}
	return len(left) == 0
}

// clear drops everything. It needs no room on the disk: no record is written,
// the header points to another log, which is empty. Called by withLog, after
// replay.
func (b *blobFile) clear() error {
	if _, err := b.log.compact(b.f, nil); err != nil {
		return err
	}
	b.mu.Lock()
	b.present = nil
	b.drops++
	b.mu.Unlock()
	return b.punch(piece{dataStart, b.log.first})
}

// punch gives a piece of the file back to the disk, where that is possible.
func (b *blobFile) punch(p piece) error {
	err := control(b.f, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.lo, p.hi-p.lo)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
