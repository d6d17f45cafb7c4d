package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A Selection says what to remove. The zero value selects everything; each
// field that is set leaves less.
type Selection struct {
	Kinds  []Kind        // only these
	Digest digest.Digest // only what has this digest, and refs to it
	Ref    string        // only this ref, and what it alone reaches: its manifests, config and layers
}

// A Removal tells what became of what was selected.
type Removal struct {
	Removed []Item
	InUse   []Item // indexes and blobs that were left because some process has them open
}

// Remove removes what is selected, but no index or blob that is in use. A ref
// that is not there, or a digest that nothing has, is [fs.ErrNotExist]. After
// an error, the Removal tells what was done before it.
func (c *Cache) Remove(s Selection) (Removal, error) {
	var done Removal
	items, err := c.selected(s)
	for _, it := range items {
		if err != nil {
			break
		}
		err = c.removeItem(it, &done)
	}
	if err != nil {
		return done, fmt.Errorf("cache: remove: %w", err)
	}
	return done, nil
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
	if err != nil {
		return nil, err
	}
	if s.Digest != "" {
		items = slices.DeleteFunc(items, func(it Item) bool { return it.Digest != s.Digest })
		if len(items) == 0 {
			return nil, fmt.Errorf("%s: %w", s.Digest, fs.ErrNotExist)
		}
	}
	if s.Ref != "" {
		only, err := c.reachedOnlyBy(s.Ref)
		if err != nil {
			return nil, err
		}
		items = slices.DeleteFunc(items, func(it Item) bool {
			return it.Name != s.Ref && (it.Kind == Refs || !only[it.Digest])
		})
	}
	if s.Kinds != nil {
		items = slices.DeleteFunc(items, func(it Item) bool { return !slices.Contains(s.Kinds, it.Kind) })
	}
	return items, nil
}

// reachedOnlyBy returns the digests that the ref reaches and no other does.
func (c *Cache) reachedOnlyBy(name string) (map[digest.Digest]bool, error) {
	refs, err := c.Refs()
	if err != nil {
		return nil, err
	}
	found := false
	only, others := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for _, r := range refs {
		if r.Name == name {
			found = true
			c.reach(r.Digest, only)
		} else {
			c.reach(r.Digest, others)
		}
	}
	if !found {
		return nil, fmt.Errorf("ref %q: %w", name, fs.ErrNotExist)
	}
	for d := range others {
		delete(only, d)
	}
	return only, nil
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
		}
		if json.Unmarshal(b, &m) != nil {
			continue
		}
		for _, next := range append(append(m.Manifests, m.Layers...), m.Config) {
			queue = append(queue, next.Digest)
		}
	}
}
