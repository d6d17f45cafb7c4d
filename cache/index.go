package cache

import (
	"fmt"
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
