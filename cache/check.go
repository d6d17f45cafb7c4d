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

// A BlobCheck tells what there was of a blob, in bytes.
type BlobCheck struct {
	Right     int64  // it has the digest of the blob, or of a span
	Wrong     []Part // it has not, and was dropped
	Unchecked int64  // the rest: less than a span, or of no span, or of which no span is known
}

// A Part is a part of a blob.
type Part struct{ Off, Size int64 }

// CheckBlob reads what there is of a blob and compares it with the digest of
// the whole, if it is, or else with those of the spans that are there; nil if
// none is known. What is wrong is dropped, without what a span that is right
// shares with it. What can't be checked stays, unless all is to be dropped
// that is not known to be right. It is no use of the blob, and may be done
// while others use it. A file that is of no use as such is ErrDamaged.
func (c *Cache) CheckBlob(ctx context.Context, d digest.Digest, spans iter.Seq[Span], all bool) (BlobCheck, error) {
	k := blobCheck{ctx: ctx, digest: d}
	err := k.open(c)
	if err == nil {
		err = errors.Join(k.run(spans, all), k.file.f.Close())
	}
	if err != nil {
		return k.found, fmt.Errorf("cache: check blob %s: %w", d, err)
	}
	return k.found, nil
}

// A blobCheck is the check of a blob.
type blobCheck struct {
	ctx    context.Context
	digest digest.Digest
	file   *blobFile
	good   ranges
	found  BlobCheck
}

// open opens the file, and reads its map. One without a header is removed, but
// not one that is empty: somebody may be about to write it.
func (k *blobCheck) open(c *Cache) error {
	f, err := c.look(Blobs, k.digest, os.O_RDWR)
	writable := !errors.Is(err, unix.EROFS)
	if !writable {
		f, err = c.look(Blobs, k.digest, os.O_RDONLY)
	}
	if err != nil {
		return err
	}
	k.file = &blobFile{f: f, writable: writable, patience: c.patience, cache: c}
	_, err = k.file.sync(k.ctx.Done())
	if info, empty := f.Stat(); empty == nil && info.Size() == 0 {
		err = fs.ErrNotExist
	}
	if errors.Is(err, errHeader) {
		var removed bool
		if removed, err = c.removeLooked(Blobs, k.digest, f); removed {
			err = fmt.Errorf("its header %w", ErrDamaged)
		} else if err == nil {
			err = fs.ErrNotExist // another file has taken its place
		}
	}
	if err != nil {
		return errors.Join(k.stopped(err), f.Close())
	}
	k.file.size = k.file.log.size
	return nil
}

// stopped returns the reason for which the wait for a lock was ended.
func (k *blobCheck) stopped(err error) error {
	if errors.Is(err, errStopped) {
		return k.ctx.Err()
	}
	return err
}

func (k *blobCheck) run(spans iter.Seq[Span], all bool) error {
	whole := piece{0, k.file.size}
	isWhole := k.file.covers(whole)
	if isWhole {
		ok, err := k.right(whole, k.digest)
		if err != nil {
			return err
		}
		if ok {
			k.found.Right = k.file.size
			return nil
		}
	}
	bad, err := k.compare(spans)
	if err != nil {
		return err
	}
	if isWhole && len(bad) == 0 {
		// What is wrong is in no span, if there are any.
		if wrong, err := k.wrong(whole, k.digest); err != nil {
			return err
		} else if wrong {
			bad = ranges{whole}
		}
	}
	for _, p := range minus(bad, k.good) {
		if err := k.drop(p); err != nil {
			return err
		}
		k.found.Wrong = append(k.found.Wrong, Part{p.lo, p.hi - p.lo})
	}
	return k.rest(all)
}

// compare returns which of the spans that are there are wrong.
func (k *blobCheck) compare(spans iter.Seq[Span]) (bad ranges, err error) {
	if spans == nil {
		return nil, nil
	}
	for s := range spans {
		p := piece{s.Off, s.Off + s.Size}
		if p.lo < 0 || p.hi <= p.lo || !k.file.covers(p) {
			continue
		}
		ok, err := k.right(p, s.Digest)
		if err != nil {
			return nil, err
		}
		if ok {
			k.good = k.good.add(p)
			continue
		}
		wrong, err := k.wrong(p, s.Digest)
		if err != nil {
			return nil, err
		}
		if wrong {
			bad = bad.add(p)
		}
	}
	return bad, nil
}

// right tells whether a piece that is there has a digest. Bytes that can't be
// read have none.
func (k *blobCheck) right(p piece, d digest.Digest) (bool, error) {
	v := d.Verifier()
	for buf := make([]byte, min(streamed, p.hi-p.lo)); p.lo < p.hi; {
		if err := k.ctx.Err(); err != nil {
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

// streamed is how much of a file is read at a time.
const streamed = 1 << 20

// wrong tells whether a piece still has not its digest when nobody changes it.
// Others may have dropped it since it was found to be there.
func (k *blobCheck) wrong(p piece, d digest.Digest) (bool, error) {
	if err := waitLock(k.ctx.Done(), k.file.patience, k.file.f, unix.F_RDLCK, p.lo, p.hi-p.lo); err != nil {
		return false, k.stopped(err)
	}
	defer unlock(k.file.f, p.lo, p.hi-p.lo)
	if _, err := k.file.sync(k.ctx.Done()); err != nil {
		return false, k.stopped(err)
	}
	if !k.file.covers(p) {
		return false, nil
	}
	ok, err := k.right(p, d)
	return !ok && err == nil, err
}

// drop drops a piece, but for what others have dropped of it since it was
// found to be wrong.
func (k *blobCheck) drop(p piece) error {
	if !k.file.writable {
		return unix.EROFS
	}
	done := k.ctx.Done()
	if err := waitLock(done, k.file.patience, k.file.f, unix.F_WRLCK, p.lo, p.hi-p.lo); err != nil {
		return k.stopped(err)
	}
	defer unlock(k.file.f, p.lo, p.hi-p.lo)
	return k.stopped(k.file.discard(done, p))
}

// rest counts what could not be checked, or drops it.
func (k *blobCheck) rest(all bool) error {
	k.found.Right = k.good.bytes()
	rest := minus(slices.Clone(k.file.present), k.good)
	k.found.Unchecked = rest.bytes()
	if !all {
		return nil
	}
	for _, p := range rest {
		if err := k.drop(p); err != nil {
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
	return c.look(kind, layer, os.O_RDONLY|unix.O_NOATIME)
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
	name, err := kind.path(d)
	if err != nil {
		return false, err
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := c.root.Lstat(name)
	if err != nil || !os.SameFile(mine, there) {
		return false, err
	}
	err = c.root.Remove(name)
	return err == nil, err
}
