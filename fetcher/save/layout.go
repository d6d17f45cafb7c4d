package save

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"imgfs/fetcher"
)

const (
	maxIndex     = 4 << 20                    // bytes of an index.json that is added to
	nameKey      = "io.containerd.image.name" // where containerd writes the whole name of an image
	layersAtOnce = 4
)

// addLayout adds a layout with one image.
func addLayout(ctx context.Context, t target, b *fetcher.Bundle, tag string) error {
	if err := addVersion(t); err != nil {
		return err
	}
	if err := addTree(ctx, t, b, 1); err != nil {
		return err
	}
	entry, err := json.Marshal(entryOf(b.Root(), tag))
	if err != nil {
		return err
	}
	return addIndex(t, newIndex(), []json.RawMessage{entry})
}

// addVersion adds the file that makes a layout one.
func addVersion(t target) error {
	b, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return addFile(t, v1.ImageLayoutFile, b)
}

// addTree adds the blobs of a bundle, manifests among them.
func addTree(ctx context.Context, t target, b *fetcher.Bundle, atOnce int) error {
	if err := addBlobs(ctx, t, b, atOnce, func(d v1.Descriptor) string { return blobName(d.Digest) }); err != nil {
		return err
	}
	for _, m := range b.Manifests {
		if err := addDocument(ctx, t, blobName(m.Digest), m); err != nil {
			return err
		}
	}
	return nil
}

func entryOf(root fetcher.Text, tag string) v1.Descriptor {
	d := root.Descriptor
	if tag != "" {
		d.Annotations = map[string]string{v1.AnnotationRefName: tag}
	}
	return d
}

func newIndex() map[string]json.RawMessage {
	return map[string]json.RawMessage{"schemaVersion": json.RawMessage("2"), "mediaType": json.RawMessage(`"` + v1.MediaTypeImageIndex + `"`)}
}

// addIndex adds the file index.json with entries, and what else it has.
func addIndex(t target, index map[string]json.RawMessage, entries []json.RawMessage) error {
	manifests, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	index["manifests"] = manifests
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return addFile(t, v1.ImageIndexFile, b)
}

// writeLayout adds an image to the layout in a directory, which is made where there is none.
func writeLayout(ctx context.Context, to fetcher.Destination, b *fetcher.Bundle) error {
	d, err := openDirectory(to.Path)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.locked(d.beLayout); err != nil {
		return err
	}
	if _, _, err := d.index(b.Root().Digest, to.Tag); err != nil {
		return err
	}
	if err := addTree(ctx, d, b, layersAtOnce); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.locked(func() error { return d.name(b.Root(), to.Tag) })
}

// locked has nobody else change the layout as such meanwhile: who does that at the same time waits.
func (d *directory) locked(change func() error) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock of %s: %w", d.path, err)
	}
	return change()
}

// beLayout makes an empty directory a layout, and checks that another one is.
func (d *directory) beLayout() error {
	empty, err := d.isEmpty()
	if err != nil {
		return err
	}
	if !empty {
		return fetcher.CheckLayout(d.path)
	}
	if err := addVersion(d); err != nil {
		return err
	}
	return addIndex(d, newIndex(), []json.RawMessage{})
}

// name has the layout name a manifest that it has, by a tag or without one.
func (d *directory) name(root fetcher.Text, tag string) error {
	index, entries, err := d.index(root.Digest, tag)
	if err != nil {
		return err
	}
	entry, err := json.Marshal(entryOf(root, tag))
	if err != nil {
		return err
	}
	if err := addIndex(d, index, append(entries, entry)); err != nil {
		return err
	}
	return d.sync()
}

// index returns what index.json has, and its entries without those that naming an image replaces. All else in it is kept as it is.
func (d *directory) index(root digest.Digest, tag string) (map[string]json.RawMessage, []json.RawMessage, error) {
	b, err := d.read(v1.ImageIndexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) { // a layout that somebody has just begun
		return newIndex(), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	index := map[string]json.RawMessage{}
	var entries []json.RawMessage
	err = json.Unmarshal(b, &index)
	if err == nil && index["manifests"] != nil {
		err = json.Unmarshal(index["manifests"], &entries)
	}
	kept := []json.RawMessage{}
	for _, entry := range entries {
		var e v1.Descriptor
		if err == nil {
			err = json.Unmarshal(entry, &e)
		}
		name := cmp.Or(e.Annotations[nameKey], e.Annotations[v1.AnnotationRefName])
		if name != tag || tag == "" && e.Digest != root {
			kept = append(kept, entry)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s of %s is not valid", fetcher.ErrMalformed, v1.ImageIndexFile, d.path)
	}
	if tag == "" && len(kept) > 0 {
		return nil, nil, fmt.Errorf("%w: %s holds images: say by which tag another is to be known there", fetcher.ErrReference, d.path)
	}
	return index, kept, nil
}

// read returns the content of a file of at most limit bytes.
func (d *directory) read(name string, limit int64) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: it is larger than %d bytes", fetcher.ErrMalformed, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", name, d.path, err)
	}
	return b, nil
}

// sync syncs the directories of a layout, so that a power failure does not take the names of what they hold.
func (d *directory) sync() error {
	for _, name := range []string{".", v1.ImageBlobsDir, v1.ImageBlobsDir + "/sha256", v1.ImageBlobsDir + "/sha512"} {
		f, err := d.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	return nil
}
