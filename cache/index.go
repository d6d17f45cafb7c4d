package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
)

// OpenIndex opens the index of a layer for reading, or returns
// [fs.ErrNotExist]. Until the file is closed the index is in use: Remove
// skips it.
func (c *Cache) OpenIndex(layer digest.Digest) (*os.File, error) {
	name, err := Indexes.path(layer)
	if err != nil {
		return nil, err
	}
	f, err := c.openUsed(name, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("cache: index of %s: %w", layer, err)
	}
	return f, nil
}

// RemoveIndex removes the index of a layer, which its reader found to be
// damaged or of another version, in use or not: who has it open keeps it. To
// remove it is no error when it is not there. Callers hold the [Cache.Lock]
// of the layer, so as not to remove what another has just made.
func (c *Cache) RemoveIndex(layer digest.Digest) error {
	name, err := Indexes.path(layer)
	if err != nil {
		return err
	}
	if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cache: remove index of %s: %w", layer, err)
	}
	return nil
}
