package cache

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Selection says what to remove. The zero value selects everything. Kinds,
// with or without one of the others, leaves less.
type Selection struct {
	Kinds []Kind // only these
	// Digest selects what has this digest, refs to it, and what it alone
	// reaches: the manifests, configs and layers of a document.
	Digest digest.Digest
	// Ref selects the ref of this name, and what it alone reaches. A name that
	// ends in @DIGEST, and is no ref, stands for the digest.
	Ref string
}

// A Removal tells what became of what was selected.
type Removal struct {
	Removed []Item
	InUse   []Item // indexes, frames and blobs that were left because some process has them open
}

// Remove removes what is selected, but no index, frames or blob in use. As
// long as there is such of an image, its ref and documents stay too: they are
// what leads to them. This holds for a Ref or a Digest that is selected in all
// kinds. One that is not there is [fs.ErrNotExist]. After an error, the
// Removal tells what was done before it.
func (c *Cache) Remove(s Selection) (Removal, error) {
	var done Removal
	if err := c.remove(s, &done); err != nil {
		return done, fmt.Errorf("cache: remove: %w", err)
	}
	return done, nil
}

func (c *Cache) remove(s Selection, done *Removal) error {
	items, err := c.selected(s)
	if err != nil {
		return err
	}
	whole := s.Kinds == nil && (s.Ref != "" || s.Digest != "")
	// What leads to other things goes after them, refs last.
	for _, kind := range []Kind{Blobs, Indexes, Frames, Documents, Refs} {
		if whole && len(done.InUse) > 0 && (kind == Documents || kind == Refs) {
			break
		}
		for _, it := range items {
			if it.Kind != kind {
				continue
			}
			if err := c.removeItem(it, done); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cache) removeItem(it Item, done *Removal) error {
	name := Refs.dir() + "/" + refFile(it.Name)
	if it.Kind != Refs {
		var err error
		if name, err = it.Kind.path(it.Digest); err != nil {
			return err
		}
	}
	removed, err := c.removeUnused(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // by another
	case err != nil:
		return err
	case removed:
		done.Removed = append(done.Removed, it)
	default:
		it.InUse = true
		done.InUse = append(done.InUse, it)
	}
	return nil
}

func (c *Cache) selected(s Selection) ([]Item, error) {
	items, err := c.list()
	if err == nil && (s.Ref != "" || s.Digest != "") {
		items, err = c.named(items, s)
	}
	if s.Kinds != nil {
		items = slices.DeleteFunc(items, func(it Item) bool { return !slices.Contains(s.Kinds, it.Kind) })
	}
	return items, err
}

// named returns what a ref or a digest selects of all items.
func (c *Cache) named(items []Item, s Selection) ([]Item, error) {
	d := s.Digest
	isRoot := func(it Item) bool { return it.Digest == d }
	isRef := func(it Item) bool { return it.Kind == Refs && it.Name == s.Ref }
	switch {
	case s.Ref != "" && d != "":
		return nil, fmt.Errorf("both the ref %q and %s: %w", s.Ref, d, fs.ErrInvalid)
	case slices.ContainsFunc(items, isRef):
		isRoot = isRef
	case s.Ref != "":
		d = digest.Digest(s.Ref[strings.LastIndexByte(s.Ref, '@')+1:])
	}
	if !slices.ContainsFunc(items, isRoot) {
		return nil, notCachedError(cmp.Or(s.Ref, d.String()))
	}
	only := c.reachedOnlyBy(items, isRoot, d)
	return slices.DeleteFunc(items, func(it Item) bool {
		return !isRoot(it) && (it.Kind == Refs || !only[it.Digest])
	}), nil
}

// reachedOnlyBy returns the digests that the roots reach, and that no other
// ref or document does; other than through gone, which goes whoever needs it.
func (c *Cache) reachedOnlyBy(items []Item, isRoot func(Item) bool, gone digest.Digest) map[digest.Digest]bool {
	only := map[digest.Digest]bool{}
	for _, it := range items {
		if isRoot(it) {
			c.reach(it.Digest, only)
		}
	}
	others := map[digest.Digest]bool{gone: true}
	for _, it := range items {
		// A document that the roots reach counts if it is reached otherwise.
		if !isRoot(it) && (it.Kind == Refs || it.Kind == Documents && !only[it.Digest]) {
			c.reach(it.Digest, others)
		}
	}
	for d := range others {
		if d != gone {
			delete(only, d)
		}
	}
	return only
}

// reach adds d to seen, and what the cached documents say belongs to it. A
// document that is absent, or no manifest, reaches nothing.
func (c *Cache) reach(d digest.Digest, seen map[digest.Digest]bool) {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	for queue := []digest.Digest{d}; len(queue) > 0; {
		d, queue = queue[0], queue[1:]
		if seen[d] {
			continue
		}
		seen[d] = true
		b, err := c.Document(d)
		if err != nil {
			continue
		}
		var m struct {
			Manifests, Layers []descriptor
			Config            descriptor
			FSLayers          []struct{ BlobSum digest.Digest } // of Docker's schema 1
		}
		if json.Unmarshal(b, &m) != nil {
			continue
		}
		for _, next := range append(append(m.Manifests, m.Layers...), m.Config) {
			queue = append(queue, next.Digest)
		}
		for _, next := range m.FSLayers {
			queue = append(queue, next.BlobSum)
		}
	}
}

// A notCachedError names a ref or a digest of which there is nothing.
type notCachedError string

func (e notCachedError) Error() string        { return "nothing is cached for " + string(e) }
func (e notCachedError) Is(target error) bool { return target == fs.ErrNotExist }
