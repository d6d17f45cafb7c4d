package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// MaxDocument is the size in bytes above which a document is refused.
const MaxDocument = 8 << 20

// Document returns the document of that digest. One that is absent, or whose
// bytes are not those of the digest any more and which was therefore dropped,
// is [fs.ErrNotExist].
func (c *Cache) Document(d digest.Digest) ([]byte, error) {
	name, err := Documents.path(d)
	if err != nil {
		return nil, err
	}
	b, err := c.readSmall(name)
	if err != nil {
		return nil, fmt.Errorf("cache: document %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(b) != d {
		return nil, fmt.Errorf("cache: document %s %w: %w", d, ErrDamaged, c.drop(name))
	}
	return b, nil
}

// PutDocument keeps a document, whose digest is checked first. It writes
// nothing if the document is there, undamaged.
func (c *Cache) PutDocument(d digest.Digest, b []byte) error {
	name, err := Documents.path(d)
	if err != nil {
		return err
	}
	if len(b) > MaxDocument {
		return fmt.Errorf("cache: document %s has %d bytes, over %d", d, len(b), MaxDocument)
	}
	if got := d.Algorithm().FromBytes(b); got != d {
		return fmt.Errorf("cache: document %s: its bytes have the digest %s", d, got)
	}
	if _, err := c.Document(d); err == nil {
		return nil
	}
	return c.put(Documents, name, b)
}

// readSmall reads a file of which no more than MaxDocument bytes and one are
// of interest.
func (c *Cache) readSmall(name string) ([]byte, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxDocument+1))
}

// drop removes a damaged file and returns [fs.ErrNotExist], which is what the
// file is from then on, or was meanwhile.
func (c *Cache) drop(name string) error {
	if err := c.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fs.ErrNotExist, err)
	}
	return fs.ErrNotExist
}
