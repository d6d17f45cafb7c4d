package cache

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync/atomic"
	"time"
)

// Behind the header, in its page, a blob's file tells when the parts of the
// blob were used last:
//
//	64  magic "imgfsuse"
//	72  CRC-32C of the rest
//	76  1000 clocks: seconds since 1970, 4 bytes each, little-endian; 0 is never
//
// A part is 1 MiB or, of a blob for which that makes too many, the least power
// of two that does not. Where this is damaged or was never written, parts
// were used when the file was last written to. Every writer writes the later
// of its own times and those that are there, so that losing a writer, or this
// whole record, loses no more than an order in which to throw things away.
const (
	usesStart = 64
	usesMagic = "imgfsuse"
	numClocks = 1000
	usesSize  = 12 + 4*numClocks
	minShift  = 20 // of the size of a part
)

// Times are written savePause after the first one that is new, and when the
// blob is closed: never by who reads. savePatience bounds the wait for others
// who write to the file.
const (
	savePause    = 5 * time.Minute
	savePatience = time.Second
)

// partShift returns the logarithm of the size of the parts of a blob.
func partShift(size int64) (shift uint) {
	for shift = minShift; size>>shift >= numClocks; shift++ {
	}
	return shift
}

// clock returns a time as files hold it.
func clock(t time.Time) uint32 { return uint32(max(0, t.Unix())) }

// clocks are the times at which the parts of a blob were used.
type clocks [numClocks]uint32

// readClocks reads those of a blob's file. They are written where there are
// none that are valid.
func readClocks(f io.ReaderAt, written time.Time) (c clocks) {
	var b [usesSize]byte
	_, err := f.ReadAt(b[:], usesStart)
	if err != nil || string(b[:8]) != usesMagic || crc32.Checksum(b[12:], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		for i := range c {
			c[i] = clock(written)
		}
		return c
	}
	for i := range c {
		c[i] = binary.LittleEndian.Uint32(b[12+4*i:])
	}
	return c
}

// encode is the inverse of readClocks.
func (c *clocks) encode() []byte {
	b := append(make([]byte, 0, usesSize), usesMagic...)
	b = append(b, 0, 0, 0, 0)
	for _, t := range c {
		b = binary.LittleEndian.AppendUint32(b, t)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

// uses are the times at which this process used the parts of a blob, of which
// its file may not know yet. Safe for concurrent use.
type uses struct {
	now     func() time.Time
	shift   uint
	written time.Time // when the file was last written to, before this process did
	save    *time.Timer
	unsaved atomic.Bool
	clocks  [numClocks]atomic.Uint32
}

// newUses returns those of a blob of that size. save is called in a goroutine
// of its own, some time after there is something to save.
func newUses(size int64, written time.Time, now func() time.Time, save func()) *uses {
	u := &uses{now: now, shift: partShift(size), written: written, save: time.AfterFunc(forever, save)}
	u.save.Stop()
	return u
}

// note tells that p, which is in the blob, is used now. It writes nothing.
func (u *uses) note(p piece) {
	if u == nil || p.lo == p.hi {
		return
	}
	now := clock(u.now())
	for i := p.lo >> u.shift; i <= (p.hi-1)>>u.shift; i++ {
		if u.clocks[i].Load() < now {
			u.clocks[i].Store(now)
		}
	}
	if !u.unsaved.Load() && u.unsaved.CompareAndSwap(false, true) {
		u.save.Reset(savePause)
	}
}

// merge returns the later of the times that f has and those that are known.
func (u *uses) merge(f io.ReaderAt) clocks {
	c := readClocks(f, u.written)
	for i := range c {
		c[i] = max(c[i], u.clocks[i].Load())
	}
	return c
}

// saveUses writes what is known of uses.
func (b *blobFile) saveUses() error {
	if b.uses == nil || !b.uses.unsaved.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), savePatience)
	defer cancel()
	return b.withLog(ctx.Done(), true, func() error {
		if !b.uses.unsaved.Swap(false) {
			return nil
		}
		if err := b.replay(nil); err != nil {
			return err // a file that has lost its header gets nothing in its place
		}
		c := b.uses.merge(b.f)
		_, err := b.f.WriteAt(c.encode(), usesStart)
		return err
	})
}

// close saves uses, and closes the file. That they could not be saved is no
// error: nobody but a collection misses them.
func (b *blobFile) close() error {
	if b.uses != nil {
		b.uses.save.Stop()
		_ = b.saveUses()
	}
	return b.f.Close()
}
