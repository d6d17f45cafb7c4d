package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ErrDamaged is wrapped by the errors of things that were found in the cache,
// are not what they should be, and were dropped.
var ErrDamaged = errors.New("was damaged")

// A Span is a part of a blob whose digest is known.
type Span struct {
	Off, Size int64 // in bytes
	Digest    digest.Digest
}

// A Known is what an index tells of a blob.
type Known struct {
	Blob  digest.Digest // a blob may go by another while it is fetched: see [Cache.Rename]
	Spans iter.Seq[Span]
}

// A BlobCheck tells what there was of a blob, in bytes.
type BlobCheck struct {
	Right     int64  // it has the digest of the blob, or of a span
	Wrong     []Part // it has not, and was dropped
	Unchecked int64  // the rest: less than a span, or of no span, or of which no span is known
}

// A Part is a part of a blob.
type Part struct{ Off, Size int64 }

// CheckBlob reads what there is of a blob and compares it with the digest of
// the whole, if it is, or else with those of the spans that are there. of is
// what is known of it; nil for nothing. What is wrong is dropped, without what
// a span that is right shares with it. What can't be checked stays, unless all
// is to be dropped that is not known to be right. It is no use of the blob, and
// may be done while others use it. A file that is of no use as such is removed,
// and is ErrDamaged; one that is not there is [fs.ErrNotExist].
func (c *Cache) CheckBlob(ctx context.Context, d digest.Digest, of *Known, all bool) (BlobCheck, error) {
	k := blobCheck{cache: c, name: d, of: of}
	err := k.open(ctx)
	if err == nil {
		err = errors.Join(k.run(ctx, all), k.file.f.Close())
	}
	if errors.Is(err, errStopped) {
		err = ctx.Err()
	}
	if err != nil {
		return k.found, fmt.Errorf("cache: check blob %s: %w", d, err)
	}
	return k.found, nil
}

// A blobCheck is the check of a blob.
type blobCheck struct {
	cache *Cache
	name  digest.Digest
	of    *Known
	file  *blobFile
	good  ranges
	found BlobCheck
}

// open opens the file, and reads its map. One without a header is removed, but
// not one that is empty: somebody may be about to write it.
func (k *blobCheck) open(ctx context.Context) error {
	f, err := k.cache.look(Blobs, k.name, os.O_RDWR)
	writable := !errors.Is(err, unix.EROFS)
	if !writable {
		f, err = k.cache.look(Blobs, k.name, os.O_RDONLY)
	}
	if err != nil {
		return err
	}
	k.file = &blobFile{f: f, writable: writable, patience: k.cache.patience, cache: k.cache}
	_, err = k.file.sync(ctx.Done())
	if errors.Is(err, errHeader) {
		err = k.headless()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	k.file.size = k.file.log.size
	return nil
}

// headless removes a file without a header.
func (k *blobCheck) headless() error {
	if info, err := k.file.f.Stat(); err != nil || info.Size() == 0 {
		return errors.Join(err, fs.ErrNotExist)
	}
	removed, err := k.cache.removeLooked(Blobs, k.name, k.file.f)
	switch {
	case err != nil:
		return err
	case removed:
		return fmt.Errorf("its header %w", ErrDamaged)
	}
	return fs.ErrNotExist // another has taken its place
}

func (k *blobCheck) run(ctx context.Context, all bool) error {
	whole := k.file.covers(piece{0, k.file.size})
	if whole {
		ok, err := k.right(ctx, piece{0, k.file.size}, k.digest())
		if err != nil {
			return err
		}
		if ok {
			k.found.Right = k.file.size
			return nil
		}
	}
	bad, err := k.compare(ctx)
	if whole && len(bad) == 0 && err == nil {
		bad, err = k.between(ctx)
	}
	if err != nil {
		return err
	}
	for _, p := range minus(bad, k.good) {
		if err := k.drop(ctx, p); err != nil {
			return err
		}
		k.found.Wrong = append(k.found.Wrong, Part{p.lo, p.hi - p.lo})
	}
	return k.rest(ctx, all)
}

// digest is that of the whole.
func (k *blobCheck) digest() digest.Digest {
	if k.of == nil {
		return k.name
	}
	return k.of.Blob
}

// compare returns which of the spans that are there are wrong.
func (k *blobCheck) compare(ctx context.Context) (bad ranges, err error) {
	if k.of == nil {
		return nil, nil
	}
	for s := range k.of.Spans {
		p := piece{s.Off, s.Off + s.Size}
		if p.lo < 0 || p.hi <= p.lo || !k.file.covers(p) {
			continue
		}
		ok, err := k.right(ctx, p, s.Digest)
		if err != nil {
			return nil, err
		}
		if ok {
			k.good = k.good.add(p)
			continue
		}
		wrong, err := k.wrong(ctx, p, s.Digest)
		if err != nil {
			return nil, err
		}
		if wrong {
			bad = bad.add(p)
		}
	}
	return bad, nil
}

// between returns what is wrong of a blob that is there and has another digest,
// while none of its spans is wrong: all that is between them. Where no spans are
// known, the blob may be on the way to another name.
func (k *blobCheck) between(ctx context.Context) (bad ranges, err error) {
	if k.of == nil {
		unlock, err := k.cache.lockLayer(nil, 0, k.name)
		if errors.Is(err, errBusy) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer unlock()
		if named, err := k.cache.isNamed(Blobs, k.name, k.file.f); !named {
			return nil, err
		}
	}
	all := piece{0, k.file.size}
	wrong, err := k.wrong(ctx, all, k.digest())
	if !wrong {
		return nil, err
	}
	return ranges{all}, nil
}

// checkChunk is how much of a file is read at a time.
const checkChunk = 1 << 20

// right tells whether a piece that is there has a digest. Bytes that can't be
// read have none.
func (k *blobCheck) right(ctx context.Context, p piece, d digest.Digest) (bool, error) {
	v := d.Verifier()
	for buf := make([]byte, min(checkChunk, p.hi-p.lo)); p.lo < p.hi; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, _ := k.file.f.ReadAt(buf[:min(int64(len(buf)), p.hi-p.lo)], dataStart+p.lo)
		if n == 0 {
			return false, nil
		}
		v.Write(buf[:n])
		p.lo += int64(n)
	}
	return v.Verified(), nil
}

// wrong tells whether a piece still has not its digest when nobody changes it.
// Others may have dropped it since it was found to be there.
func (k *blobCheck) wrong(ctx context.Context, p piece, d digest.Digest) (bool, error) {
	if err := waitLock(ctx.Done(), k.file.patience, k.file.f, unix.F_RDLCK, p.lo, p.hi-p.lo); err != nil {
		return false, err
	}
	defer unlock(k.file.f, p.lo, p.hi-p.lo)
	if _, err := k.file.sync(ctx.Done()); err != nil {
		return false, err
	}
	if !k.file.covers(p) {
		return false, nil
	}
	ok, err := k.right(ctx, p, d)
	return !ok && err == nil, err
}

// drop drops a piece, but for what others have dropped of it since it was
// found to be wrong.
func (k *blobCheck) drop(ctx context.Context, p piece) error {
	if !k.file.writable {
		return unix.EROFS
	}
	if err := waitLock(ctx.Done(), k.file.patience, k.file.f, unix.F_WRLCK, p.lo, p.hi-p.lo); err != nil {
		return err
	}
	defer unlock(k.file.f, p.lo, p.hi-p.lo)
	return k.file.discard(ctx.Done(), p)
}

// rest counts what could not be checked, or drops it.
func (k *blobCheck) rest(ctx context.Context, all bool) error {
	k.found.Right = k.good.bytes()
	rest := minus(slices.Clone(k.file.present), k.good)
	k.found.Unchecked = rest.bytes()
	if !all {
		return nil
	}
	for _, p := range rest {
		if err := k.drop(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// minus returns r without what is in s.
func minus(r, s ranges) ranges {
	for _, p := range s {
		r = r.remove(p)
	}
	return r
}

// Look opens the index or the frames of a layer as [Cache.OpenIndex] and
// [Cache.OpenFrames] do, for somebody who looks after the cache: that is no
// use of them.
func (c *Cache) Look(kind Kind, layer digest.Digest) (*os.File, error) {
	f, err := c.look(kind, layer, os.O_RDONLY|unix.O_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("cache: %v of %s: %w", kind, layer, err)
	}
	return f, nil
}

// DropIndex removes the index of a layer, which was found to be damaged, with
// its frames, and reports whether it did: not if it is gone, or another has
// taken its place. Who uses them goes on.
func (c *Cache) DropIndex(ctx context.Context, layer digest.Digest, index *os.File) (bool, error) {
	unlock, err := c.Lock(ctx, layer, nil)
	if err != nil {
		return false, err
	}
	defer unlock()
	dropped, err := c.removeLooked(Indexes, layer, index)
	if dropped {
		var frames string
		if frames, err = Frames.path(layer); err == nil {
			err = c.root.Remove(frames)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dropped, fmt.Errorf("cache: drop index of %s: %w", layer, err)
	}
	return dropped, nil
}

// removeLooked removes a file if it is the one that has the name, and reports
// whether it did.
func (c *Cache) removeLooked(kind Kind, d digest.Digest, f *os.File) (bool, error) {
	named, err := c.isNamed(kind, d, f)
	if !named {
		return false, err
	}
	name, err := kind.path(d)
	if err == nil {
		err = c.root.Remove(name)
	}
	return err == nil, err
}

// isNamed tells whether a file is the one that has the name.
func (c *Cache) isNamed(kind Kind, d digest.Digest, f *os.File) (bool, error) {
	name, err := kind.path(d)
	if err != nil {
		return false, err
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := c.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}
