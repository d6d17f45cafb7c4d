package index

import (
	"crypto/sha256"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A writer writes an index as its parts come, and keeps the table for the end.
type writer struct {
	w       io.Writer
	off     int64
	zip     *zstd.Encoder // for entries
	quick   *zstd.Encoder // for states: a better one makes them 1% smaller, and takes 4% of the build more
	buf     []byte        // for compressed data
	table   table
	entries *pieceEncoder // those that haven't been written
	states  []byte        // that haven't been written
	stated  int           // how many
}

func newWriter(w io.Writer, format Format) (*writer, error) {
	zip, err := newEncoder(zstd.SpeedBetterCompression)
	if err != nil {
		return nil, err
	}
	quick, err := newEncoder(zstd.SpeedDefault)
	if err != nil {
		return nil, err
	}
	x := &writer{w: w, zip: zip, quick: quick, table: table{format: format}, entries: newPieceEncoder()}
	return x, x.write(head())
}

func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithEncoderLevel(level))
}

func (w *writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.off += int64(n)
	return err
}

// store compresses data, each part by itself, and writes it.
func (w *writer) store(zip *zstd.Encoder, parts ...[]byte) (stored, error) {
	w.buf = w.buf[:0]
	raw := 0
	for _, p := range parts {
		w.buf = zip.EncodeAll(p, w.buf)
		raw += len(p)
	}
	s := stored{off: w.off, len: uint32(len(w.buf)), raw: uint32(raw), sum: sha256.Sum256(w.buf)}
	return s, w.write(w.buf)
}

// state adds an encoded state.
func (w *writer) state(b []byte) error {
	w.states = append(w.states, b...)
	if w.stated++; w.stated < statesStored {
		return nil
	}
	return w.flushStates()
}

// flushStates writes states.
func (w *writer) flushStates() error {
	if w.stated == 0 {
		return nil
	}
	s, err := w.store(w.quick, w.states)
	w.table.states = append(w.table.states, s)
	w.states, w.stated = w.states[:0], 0
	return err
}

// entry adds an entry.
func (w *writer) entry(e *Entry) error {
	w.entries.add(e)
	w.table.entries++
	if !w.entries.full() {
		return nil
	}
	return w.flush()
}

// flush writes a piece.
func (w *writer) flush() error {
	if w.entries.count == 0 {
		return nil
	}
	parts, count := w.entries.take()
	s, err := w.store(w.zip, parts...)
	w.table.pieces = append(w.table.pieces, piece{s, count})
	return err
}

// finish writes the rest, once the table is complete but for the entries and the states.
func (w *writer) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.flushStates(); err != nil {
		return err
	}
	if err := w.table.check(w.off); err != nil {
		return err
	}
	b := w.table.appendTo(nil)
	if err := w.write(b); err != nil {
		return err
	}
	return w.write(trailer(b))
}
