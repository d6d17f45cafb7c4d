package index

import (
	"fmt"
	"io"
	"iter"
)

// Entries are decoded some at a time, and a few times as many ahead of who wants them.
const (
	batchSize  = 1024
	numBatches = 4
)

// A batch is some entries that were decoded together. Its memory is used again.
type batch struct {
	entries []Entry  // batchSize at most
	extents []Extent // of those that have one that holds all: likewise
	err     error    // what comes after them: io.EOF after the last
}

func newBatch() *batch {
	return &batch{entries: make([]Entry, 0, batchSize), extents: make([]Extent, 0, batchSize)}
}

// Entries gives the tar's entries in order, or an error, after which there is nothing more. It wraps ErrDamaged, or
// what the file failed with. An Entry, with its lists, is valid until the next one is asked for. Its strings stay as they
// are, but those of many entries share memory: who keeps a few of them copies those.
//
// The entries are decoded ahead in a goroutine, which ends with the iteration.
func (x *Index) Entries() iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		full, free := make(chan *batch, numBatches), make(chan *batch, numBatches)
		for range numBatches {
			free <- newBatch()
		}
		go func() {
			defer close(full)
			r := entryReader{index: x, pieces: x.t.pieces}
			for b := range free {
				b.err = r.fill(b)
				if full <- b; b.err != nil {
					return
				}
			}
		}()
		defer func() {
			close(free)
			for range full { // until nothing reads the file any more
			}
		}()
		for b := range full {
			for i := range b.entries {
				if !yield(&b.entries[i], nil) {
					return
				}
			}
			if b.err != nil {
				if b.err != io.EOF {
					yield(nil, b.err)
				}
				return
			}
			free <- b
		}
	}
}

// An entryReader decodes an index's pieces in turn.
type entryReader struct {
	index  *Index
	pieces []piece // that are left
	raw    []byte  // the present one
	d      pieceDecoder
}

// fill puts entries into a batch. The error, io.EOF where the last piece ends, is what comes after them.
func (r *entryReader) fill(b *batch) (err error) {
	b.entries, b.extents = b.entries[:0], b.extents[:0]
	if r.d.left == 0 {
		if len(r.pieces) == 0 {
			return io.EOF
		}
		p := &r.pieces[0]
		if r.raw, err = r.index.load(&p.stored, r.raw); err != nil {
			return err
		}
		r.pieces = r.pieces[1:]
		r.d.start(r.raw, p.count, r.index.t.tarSize)
	}
	if err := r.d.fill(b); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
