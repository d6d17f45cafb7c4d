package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// An Item is one thing in the cache.
type Item struct {
	Kind   Kind
	Name   string        // of a ref
	Digest digest.Digest // what a ref points to; what names anything else
	Size   int64         // in bytes; of a blob, its whole size
	Cached int64         // of a blob, the bytes that are there; else Size
	Disk   int64         // bytes it takes on the disk
	InUse  bool          // an index, frames or a blob that is open in some process
	Time   time.Time     // when its file was last written to
	Used   time.Time     // when an index, frames or any of a blob was used last; else zero
}

// HasBlob returns the size of a blob, and how many bytes of it are there. One
// of which there is nothing is [fs.ErrNotExist].
func (c *Cache) HasBlob(d digest.Digest) (cached, size int64, err error) {
	name, err := Blobs.path(d)
	if err != nil {
		return 0, 0, err
	}
	f, err := c.root.Open(name)
	if err != nil {
		return 0, 0, fmt.Errorf("cache: blob %s: %w", d, err)
	}
	defer f.Close()
	if cached, size, err = measure(f); err == nil && cached == 0 && size > 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, 0, fmt.Errorf("cache: blob %s: %w", d, err)
	}
	return cached, size, nil
}

// measure tells what readMap reads. A file that is of no use has no size.
func measure(f *os.File) (cached, size int64, err error) {
	file, err := readMap(f)
	if errors.Is(err, errHeader) {
		return 0, 0, nil
	}
	return file.present.bytes(), file.log.size, err
}

// readMap reads the map of a blob's file. One whose lock is not to be had at
// once is read without: what is written to it just then is left out, or all of
// it where it is compacted.
func readMap(f *os.File) (*blobFile, error) {
	file := &blobFile{f: f}
	_, err := file.sync(nil)
	if errors.Is(err, errBusy) {
		err = file.replay(nil)
	}
	return file, err
}

// List returns all there is, sorted by kind, name and digest. What others
// remove meanwhile may or may not be listed.
func (c *Cache) List() ([]Item, error) {
	items, err := c.list()
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return items, nil
}

func (c *Cache) list() ([]Item, error) {
	var items []Item
	for _, kind := range kinds {
		files, err := c.names(kind.dir())
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			item, err := c.item(kind, file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest))
	})
	return items, nil
}

// item describes a file. One that is not ours is [fs.ErrNotExist].
func (c *Cache) item(kind Kind, file string) (Item, error) {
	f, err := c.root.Open(kind.dir() + "/" + file)
	if err != nil {
		return Item{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Item{}, err
	}
	it := Item{Kind: kind, Size: info.Size(), Cached: info.Size(), Disk: diskSize(info), Time: info.ModTime()}
	if kind == Refs {
		r, err := c.readRef(file)
		it.Name, it.Digest = r.Name, r.Digest
		return it, err
	}
	var ok bool
	if it.Digest, ok = digestOf(file); !ok || !info.Mode().IsRegular() {
		return Item{}, fs.ErrNotExist
	}
	switch kind {
	case Indexes, Frames:
		it.Used = lastUse(info)
	case Blobs:
		used := readClocks(f, info.ModTime())
		it.Used = time.Unix(int64(slices.Max(used[:])), 0)
		if it.Cached, it.Size, err = measure(f); err != nil {
			return Item{}, err
		}
	}
	it.InUse, err = locked(f, useByte)
	return it, err
}

// diskSize returns how many bytes a file takes on the disk.
func diskSize(info fs.FileInfo) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	return st.Blocks * 512
}

// lastUse returns when an index or frames were used last. That is what their
// access time is made to say; programs that read the file for a reason of
// their own, such as a backup, may set it as well.
func lastUse(info fs.FileInfo) time.Time {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime()
	}
	return time.Unix(st.Atim.Unix())
}
