package layers

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"math"
	"slices"
	"syscall"

	"imgfs/index"
)

// A sparse is the content of a file with holes.
type sparse struct {
	extents []index.Extent // sorted, without overlap, within the size
	stored  uint64         // bytes of data: the sum of their lengths
}

// Extents are where a regular file has data: sorted, without overlap, within its size. The rest is holes. They belong to
// the tree.
func (t *Tree) Extents(n Node) []index.Extent {
	d := &t.nodes[n]
	switch {
	case d.mode&syscall.S_IFMT != syscall.S_IFREG || d.size == 0:
		return nil
	case d.isSparse:
		return t.sparse[d.ref].extents
	}
	return []index.Extent{{Offset: int64(d.ref), Length: int64(d.size)}}
}

// stored is how many bytes of d, a regular file, the tar holds.
func (t *Tree) stored(d *node) uint64 {
	if d.isSparse {
		return t.sparse[d.ref].stored
	}
	return d.size
}

// ReadAt reads the content of a regular file, with io.ReaderAt's contract:
// fewer bytes than len(p) come with an error, io.EOF at the end of the file. Holes
// are zeros. What is no regular file gives syscall.EISDIR or syscall.EINVAL in an
// *fs.PathError, as do errors of the layer's tar.
func (t *Tree) ReadAt(n Node, p []byte, off int64) (int, error) {
	d := &t.nodes[n]
	if err := readable(d, off); err != nil {
		return 0, t.pathError("read", n, err)
	}
	if uint64(off) >= d.size {
		return 0, io.EOF
	}
	var atEnd error
	if left := d.size - uint64(off); uint64(len(p)) > left {
		p, atEnd = p[:left], io.EOF
	}
	done, err := t.readContent(d, p, off)
	if err != nil {
		return done, t.pathError("read", n, err)
	}
	return done, atEnd
}

// Data finds the first run of data at or after off in a regular file, as far as the
// tar tells data from holes. Where there is none, it is empty, at the end of the file.
func (t *Tree) Data(n Node, off int64) (begin, end int64) {
	d := &t.nodes[n]
	size := int64(d.size)
	if d.mode&syscall.S_IFMT != syscall.S_IFREG || off >= size {
		return size, size
	}
	if !d.isSparse {
		return off, size
	}
	for _, e := range after(t.sparse[d.ref].extents, off) {
		switch {
		case e.Length == 0:
		case begin == end:
			begin, end = max(e.Logical, off), e.Logical+e.Length
		case e.Logical == end:
			end += e.Length
		default:
			return begin, end
		}
	}
	if begin == end {
		return size, size
	}
	return begin, end
}

// after are those extents that end after off.
func after(extents []index.Extent, off int64) []index.Extent {
	first, _ := slices.BinarySearchFunc(extents, off, func(e index.Extent, off int64) int {
		return cmp.Compare(e.Logical+e.Length, off+1)
	})
	return extents[first:]
}

// Hold is ReadAt without a copy: it appends to parts what the size bytes of a
// regular file from off on are made of, all of which have to be within the file.
// It may append none, without an error: ReadAt is the way then, as it is
// for sparse files. Who calls it releases the parts.
func (t *Tree) Hold(n Node, parts []Part, off int64, size int) ([]Part, error) {
	d := &t.nodes[n]
	if err := readable(d, off); err != nil {
		return parts, t.pathError("read", n, err)
	}
	tar, ok := t.tars[d.data].(Holder)
	if !ok || d.isSparse || size <= 0 || uint64(off) > d.size || uint64(size) > d.size-uint64(off) {
		return parts, nil
	}
	held, err := tar.Hold(parts, int64(d.ref)+off, size)
	if err != nil {
		return parts, t.pathError("read", n, err)
	}
	return held, nil
}

// HoldReady is Hold for a whole file whose content needs nothing to be read or
// decoded. It appends none where that is not so, or n is no file with content.
func (t *Tree) HoldReady(n Node, parts []Part) []Part {
	d := &t.nodes[n]
	if d.mode&syscall.S_IFMT != syscall.S_IFREG || d.isSparse || d.size == 0 || d.size > math.MaxInt32 {
		return parts
	}
	tar, ok := t.tars[d.data].(Holder)
	if !ok {
		return parts
	}
	return tar.HoldReady(parts, int64(d.ref), int(d.size))
}

// Content tells where the content of a regular file is: by the position of its
// layer, and by extents in that layer's tar, which belong to the tree. There are
// none for what has no content.
func (t *Tree) Content(n Node) (layer int, extents []index.Extent) {
	d := &t.nodes[n]
	switch {
	case d.mode&syscall.S_IFMT != syscall.S_IFREG || d.size == 0:
		return 0, nil
	case d.isSparse:
		return int(d.data), t.sparse[d.ref].extents
	}
	return int(d.data), []index.Extent{{Offset: int64(d.ref), Length: int64(d.size)}}
}

// readable tells why d can't be read at off.
func readable(d *node, off int64) error {
	switch {
	case d.mode&syscall.S_IFMT == syscall.S_IFDIR:
		return syscall.EISDIR
	case d.mode&syscall.S_IFMT != syscall.S_IFREG || off < 0:
		return syscall.EINVAL
	}
	return nil
}

// readContent fills p, all of which lies within d's size.
func (t *Tree) readContent(d *node, p []byte, off int64) (int, error) {
	tar := t.tars[d.data]
	if !d.isSparse {
		return readFull(tar, p, int64(d.ref)+off)
	}
	done := 0
	for _, e := range after(t.sparse[d.ref].extents, off) {
		if done == len(p) {
			return done, nil
		}
		done += hole(p[done:], e.Logical-(off+int64(done)))
		into := off + int64(done) - e.Logical
		data := p[done:]
		if int64(len(data)) > e.Length-into {
			data = data[:e.Length-into]
		}
		n, err := readFull(tar, data, e.Offset+into)
		if done += n; err != nil {
			return done, err
		}
	}
	return done + hole(p[done:], int64(len(p)-done)), nil
}

// hole zeroes up to n bytes of p and tells how many it did.
func hole(p []byte, n int64) int {
	p = p[:min(max(n, 0), int64(len(p)))]
	clear(p)
	return len(p)
}

// readFull is r.ReadAt for bytes that have to be there.
func readFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (t *Tree) pathError(op string, n Node, err error) error {
	return &fs.PathError{Op: op, Path: t.Path(n), Err: err}
}
