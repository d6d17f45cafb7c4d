package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// Rename gives what is kept of a layer that went by the digest from the name
// to, for who had to make up a digest until it was known. It replaces what had
// that name; who has the one or the other open goes on with it.
func (c *Cache) Rename(from, to digest.Digest) error {
	for _, kind := range []Kind{Blobs, Frames, Indexes} { // in the order in which they need each other
		old, err := kind.path(from)
		if err != nil {
			return err
		}
		name, err := kind.path(to)
		if err != nil {
			return err
		}
		if err := c.root.Rename(old, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cache: %w", err)
		}
	}
	return nil
}

// OpenIndex opens the index of a layer for reading, or returns
// [fs.ErrNotExist]. Until the file is closed the index is in use: it is neither
// removed nor collected. Who had it open for long says [Cache.Used] then.
func (c *Cache) OpenIndex(layer digest.Digest) (*os.File, error) { return c.openMade(Indexes, layer) }

// OpenFrames opens the frames of a layer in the same way. They belong to the
// index that was made with them; those of another one of the same layer may
// have other bytes.
func (c *Cache) OpenFrames(layer digest.Digest) (*os.File, error) { return c.openMade(Frames, layer) }

func (c *Cache) openMade(kind Kind, layer digest.Digest) (*os.File, error) {
	f, err := c.look(kind, layer, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("cache: %v of %s: %w", kind, layer, err)
	}
	c.used(kind, layer)
	return f, nil
}

// look opens what is in use from then on, but not for use.
func (c *Cache) look(kind Kind, d digest.Digest, flag int) (*os.File, error) {
	name, err := kind.path(d)
	if err != nil {
		return nil, err
	}
	return c.openUsed(name, flag)
}

// Used tells that the index and the frames of a layer have been in use until
// now, as opening them tells that they are from now on.
func (c *Cache) Used(layer digest.Digest) {
	c.used(Indexes, layer)
	c.used(Frames, layer)
}

// used sets the access time of a file. Nobody but a collection misses it where
// that is not possible.
func (c *Cache) used(kind Kind, d digest.Digest) {
	if name, err := kind.path(d); err == nil && c.root.why == nil {
		_ = c.root.Chtimes(name, c.now(), time.Time{})
	}
}
