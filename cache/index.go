package cache

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
)

// OpenIndex opens the index of a layer for reading, or returns
// [fs.ErrNotExist]. Until the file is closed the index is in use: Remove
// skips it.
func (c *Cache) OpenIndex(layer digest.Digest) (*os.File, error) { return c.openMade(Indexes, layer) }

// OpenFrames opens the frames of a layer in the same way. They belong to the
// index that was made with them; those of another one of the same layer may
// have other bytes.
func (c *Cache) OpenFrames(layer digest.Digest) (*os.File, error) { return c.openMade(Frames, layer) }

func (c *Cache) openMade(kind Kind, layer digest.Digest) (*os.File, error) {
	name, err := kind.path(layer)
	if err != nil {
		return nil, err
	}
	f, err := c.openUsed(name, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("cache: %v of %s: %w", kind, layer, err)
	}
	return f, nil
}
