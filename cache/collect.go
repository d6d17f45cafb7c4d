package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A Collection tells what was taken away to keep a cache within its limits.
type Collection struct {
	Freed   int64 // bytes on disk
	Blobs   int   // of so many something went
	Indexes int   // so many went, with their frames
	// Over is how many bytes the cache still takes more than it may. What is
	// left of it is in use, or what is never collected.
	Over int64
}

// Collect takes away what was used least recently, until the cache is within
// its limits: first parts of blobs, then indexes with their frames, each of
// which costs a whole download to make again. Documents and refs, some KB for
// an image, stay. So does what is in use, the whole of it. Others that add to
// the cache collect by themselves; Collect waits until they have done so.
func (c *Cache) Collect(ctx context.Context) (Collection, error) {
	done, err := c.collect(ctx.Done(), forever, Room.over)
	if errors.Is(err, errStopped) {
		err = ctx.Err()
	}
	if err != nil {
		return done, fmt.Errorf("cache: collect: %w", err)
	}
	return done, nil
}

// collect takes away as many bytes as is wanted, if it can. One process does so
// at a time.
func (c *Cache) collect(stop <-chan struct{}, patience time.Duration, wanted func(Room) int64) (Collection, error) {
	if c.root.why != nil {
		return Collection{}, nil
	}
	c.bounds.collecting.Lock()
	defer c.bounds.collecting.Unlock()
	c.bounds.grown.Store(0)
	// This file is always there: a new one might need room.
	f, err := c.root.OpenFile(versionFile, os.O_RDWR, 0)
	if err != nil {
		return Collection{}, err
	}
	defer f.Close()
	if err := waitLock(stop, patience, f, unix.F_WRLCK, collectByte, 1); err != nil {
		return Collection{}, err
	}
	c.bounds.owed.Store(false)
	room, err := c.room()
	if err != nil {
		return Collection{}, err
	}
	done, err := c.takeAway(stop, wanted(room))
	if done.Freed > 0 {
		c.bounds.rounds.Add(1)
	}
	done.Over = max(0, room.over()-done.Freed)
	if done.Over > 0 {
		c.bounds.owed.Store(true) // what is in use now may not be so when this process ends
	}
	return done, err
}

// takeAway takes away so many bytes, if there are as many. What a part takes is
// known roughly, and what its going frees exactly, so it goes by turns.
func (c *Cache) takeAway(stop <-chan struct{}, wanted int64) (done Collection, err error) {
	if wanted <= 0 {
		return done, nil
	}
	parts, err := c.parts(stop)
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(b.kind, a.kind), cmp.Compare(a.used, b.used), cmp.Compare(a.digest, b.digest), cmp.Compare(a.lo, b.lo))
	})
	touched := map[digest.Digest]bool{}
	for err == nil && done.Freed < wanted && len(parts) > 0 {
		n := enough(parts, wanted-done.Freed)
		err = c.dropAll(stop, parts[:n], &done, touched)
		parts = parts[n:]
	}
	done.Blobs = len(touched)
	return done, err
}

// enough returns how many of the first parts, which are of one kind, take so many
// bytes.
func enough(parts []part, wanted int64) (n int) {
	for ; n < len(parts) && parts[n].kind == parts[0].kind && wanted > 0; n++ {
		wanted -= parts[n].disk
	}
	return n
}

// dropAll drops parts of one kind, and notes the blobs that lost something.
func (c *Cache) dropAll(stop <-chan struct{}, parts []part, done *Collection, touched map[digest.Digest]bool) error {
	for d, of := range byDigest(parts) {
		if err := stopped(stop); err != nil {
			return err
		}
		freed, err := c.dropParts(d, of)
		done.Freed += freed
		switch {
		case err != nil:
			return err
		case freed == 0:
		case of[0].kind == Indexes:
			done.Indexes++
		default:
			touched[d] = true
		}
	}
	return nil
}

func byDigest(parts []part) map[digest.Digest][]part {
	m := map[digest.Digest][]part{}
	for _, p := range parts {
		m[p.digest] = append(m[p.digest], p)
	}
	return m
}

func stopped(stop <-chan struct{}) error {
	select {
	case <-stop:
		return errStopped
	default:
		return nil
	}
}

// dropParts drops parts of one thing, unless it is in use, and returns how many
// bytes that frees.
func (c *Cache) dropParts(d digest.Digest, parts []part) (freed int64, err error) {
	if parts[0].kind == Indexes {
		freed, err = c.dropIndex(d)
	} else {
		freed, err = c.dropOfBlob(d, parts)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return freed, ignoreBusy(err)
}

// dropIndex removes the index and the frames of a layer, unless it is just
// being indexed.
func (c *Cache) dropIndex(layer digest.Digest) (freed int64, err error) {
	unlock, err := c.lockLayer(nil, 0, layer)
	if err != nil {
		return 0, err
	}
	defer unlock()
	for _, kind := range []Kind{Indexes, Frames} { // so there is never one without its frames
		name, err := kind.path(layer)
		if err != nil {
			return freed, err
		}
		info, err := c.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return freed, err
		}
		if removed, err := c.removeUnused(name); !removed {
			return freed, err
		}
		freed += diskSize(info)
	}
	return freed, nil
}

// dropOfBlob drops parts of a blob; the whole file if nothing is left of the
// blob, or if it takes no more notes of what is there.
func (c *Cache) dropOfBlob(d digest.Digest, parts []part) (freed int64, err error) {
	name, err := Blobs.path(d)
	if err != nil {
		return 0, err
	}
	f, err := c.openUnused(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return 0, err
	}
	file := &blobFile{f: f, writable: true, patience: collectPatience, cache: c}
	why := file.drop(parts)
	if errors.Is(why, errBusy) {
		return 0, why
	}
	c.log.Debug("dropped from the cache", "blob", d, "parts", len(parts), "why", why)
	if why == nil && len(file.present) > 0 {
		after, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return diskSize(before) - diskSize(after), nil
	}
	if removed, err := c.removeLooked(Blobs, d, f); !removed {
		return 0, err
	}
	return diskSize(before), nil
}

// drop drops parts, in as many records as it takes, and then gives back the
// room of all that is not there: theirs, and that of bytes that somebody wrote
// or dropped who was killed before he was done.
func (b *blobFile) drop(parts []part) error {
	return b.withLog(nil, true, func() error {
		if err := b.replay(nil); err != nil {
			return err
		}
		var gone ranges
		for _, p := range parts {
			gone = gone.add(p.piece)
		}
		for _, p := range gone {
			if err := b.record(record{opDropped, p}); err != nil {
				return err
			}
		}
		return b.eachMissing(piece{0, b.log.size}, func(m piece) error {
			return b.punch(piece{dataStart + m.lo, dataStart + m.hi})
		})
	})
}
