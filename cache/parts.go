package cache

import (
	"errors"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
)

// A part is the least that a collection takes away: a part of a blob, or the
// index of a layer with its frames.
type part struct {
	kind   Kind // Blobs or Indexes
	digest digest.Digest
	piece         // of a blob; empty for one of which nothing is there
	used   uint32 // when, last; a clock of uses
	disk   int64  // bytes that it takes, roughly
}

// parts returns all that is not in use.
func (c *Cache) parts(stop <-chan struct{}) ([]part, error) {
	var parts []part
	indexes := map[digest.Digest]int{} // where they are in parts
	for _, kind := range []Kind{Blobs, Indexes, Frames} {
		names, err := c.names(kind.dir())
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if err := stopped(stop); err != nil {
				return nil, err
			}
			of, err := c.partsOf(kind, name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if kind != Blobs && len(of) > 0 {
				i, ok := indexes[of[0].digest]
				if ok {
					parts[i].used = max(parts[i].used, of[0].used)
					parts[i].disk += of[0].disk
					continue
				}
				indexes[of[0].digest] = len(parts)
			}
			parts = append(parts, of...)
		}
	}
	return parts, nil
}

// partsOf returns the parts of a file that is not in use.
func (c *Cache) partsOf(kind Kind, name string) ([]part, error) {
	d, ok := digestOf(name)
	if !ok {
		return nil, nil
	}
	f, err := c.root.Open(kind.dir() + "/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if used, err := locked(f, useByte); used || err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if kind == Blobs {
		return partsOfBlob(d, f, info)
	}
	return []part{{kind: Indexes, digest: d, used: clock(lastUse(info)), disk: diskSize(info)}}, nil
}

// minLeftover is from how many bytes on it is worth while to give back the
// room that a blob's file takes and nobody knows of.
const minLeftover = 1 << 20

// partsOfBlob returns the parts of a blob of which something is there, and an
// empty one for room that the file takes for nothing.
func partsOfBlob(d digest.Digest, f *os.File, info fs.FileInfo) ([]part, error) {
	// Without a lock: who takes parts away looks again.
	file := &blobFile{f: f}
	err := file.replay(nil)
	if err != nil && !errors.Is(err, errHeader) {
		return nil, err
	}
	if err != nil || len(file.present) == 0 {
		return []part{{kind: Blobs, digest: d, disk: diskSize(info)}}, nil
	}
	var parts []part
	if n := diskSize(info) - file.needs(); n > minLeftover {
		parts = append(parts, part{kind: Blobs, digest: d, disk: n})
	}
	used, shift := readClocks(f, info.ModTime()), partShift(file.log.size)
	for _, p := range file.present {
		for i := p.lo >> shift; i <= (p.hi-1)>>shift; i++ {
			all := piece{i << shift, min((i+1)<<shift, file.log.size)}
			n := min(p.hi, all.hi) - max(p.lo, all.lo)
			if last := len(parts) - 1; last >= 0 && parts[last].hi == all.hi {
				parts[last].disk += n
				continue
			}
			parts = append(parts, part{kind: Blobs, digest: d, piece: all, used: used[i], disk: n})
		}
	}
	return parts, nil
}

// needs returns how many bytes of disk the file should take at most: pieces
// begin and end within pages.
func (b *blobFile) needs() int64 {
	const page = 4096
	log := int64(b.log.records)*recordSize + page
	return dataStart + b.present.bytes() + int64(len(b.present))*2*page + log
}
