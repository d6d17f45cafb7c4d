package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"imgfs/index/inflate"
)

// maxState bounds what is kept for a checkpoint: the window, and the header of a block.
const maxState = inflate.WindowSize + 3 + math.MaxUint16

// A writer writes an index as its parts come, and keeps the table for the end.
type writer struct {
	w       io.Writer
	off     int64
	zip     *zstd.Encoder
	buf     []byte // for compressed data
	table   table
	piece   []byte // entries that haven't been written
	count   uint32 // of them
	context context
}

func newWriter(w io.Writer, format Format) (*writer, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	x := &writer{w: w, zip: zip, table: table{format: format}}
	return x, x.write(head())
}

func (w *writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.off += int64(n)
	return err
}

// store compresses data and writes it.
func (w *writer) store(raw []byte) (stored, error) {
	w.buf = w.zip.EncodeAll(raw, w.buf[:0])
	s := stored{off: w.off, len: uint32(len(w.buf)), raw: uint32(len(raw)), sum: sha256.Sum256(w.buf)}
	return s, w.write(w.buf)
}

// checkpoint starts a span. The digest of the one before must have been set.
func (w *writer) checkpoint(c *inflate.Checkpoint) error {
	s := span{in: c.In, out: c.Out}
	if !c.Member {
		state, err := appendState(nil, c)
		if err != nil {
			return err
		}
		if s.state, err = w.store(state); err != nil {
			return err
		}
	}
	w.table.spans = append(w.table.spans, s)
	return nil
}

// entry adds an entry.
func (w *writer) entry(e *Entry) error {
	w.piece = w.context.appendEntry(w.piece, e)
	w.count++
	w.table.entries++
	if len(w.piece) < pieceTarget && w.count < maxPieceEntries {
		return nil
	}
	return w.flush()
}

// flush writes a piece.
func (w *writer) flush() error {
	if w.count == 0 {
		return nil
	}
	s, err := w.store(w.piece)
	w.table.pieces = append(w.table.pieces, piece{s, w.count})
	w.piece, w.count, w.context = w.piece[:0], 0, context{}
	return err
}

// finish writes the rest, once the table is complete but for the entries.
func (w *writer) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.table.check(w.off, int64(w.table.entries)); err != nil {
		return err
	}
	b := w.table.appendTo(nil)
	if err := w.write(b); err != nil {
		return err
	}
	return w.write(trailer(b))
}

// appendState encodes what a decoder must know at a checkpoint within a member.
func appendState(b []byte, c *inflate.Checkpoint) ([]byte, error) {
	if len(c.Block) > math.MaxUint16 || len(c.Window) > inflate.WindowSize {
		return nil, errState
	}
	b = append(b, c.BlockBit)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Block)))
	b = append(b, c.Block...)
	return append(b, c.Window...), nil
}

var errState = errors.New("malformed checkpoint")

// parseState decodes what appendState encoded. The checkpoint shares b's memory.
func parseState(b []byte, c *inflate.Checkpoint) error {
	if len(b) < 3 || b[0] > 7 {
		return errState
	}
	n := int(binary.LittleEndian.Uint16(b[1:]))
	if n > len(b)-3 || len(b)-3-n > inflate.WindowSize || n == 0 && b[0] != 0 {
		return errState
	}
	c.BlockBit = b[0]
	if n > 0 {
		c.Block = b[3 : 3+n]
	}
	c.Window = b[3+n:]
	return nil
}
