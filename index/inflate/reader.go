package inflate

import (
	"io"
	"math"
)

// A Reader decodes a gzip file from its start to its end: all its members, as gzip does, and it checks their sizes
// and CRCs. Zeros may follow the last member, and nothing else. It reads ahead in its source, up to the end of the
// source. It has about 220 KiB of buffers, and 40 more if it tells of checkpoints. It is not safe for concurrent use.
type Reader struct {
	d   decoder
	err error // what comes when the output has been read
}

// NewReader returns a Reader of the gzip file that r gives. Where checkpoints are depends on the file and on o only,
// not on how r or the caller portion it.
func NewReader(r io.Reader, o *Options) *Reader {
	z := &Reader{}
	z.d.input.reset(r, 0)
	z.d.stop = math.MaxInt64
	z.d.check = true
	z.d.marks = newMarks(o)
	return z
}

// Read implements io.Reader. At the end of the file, all of which has been checked then, it returns io.EOF. Errors
// are those of the source, those of Options.Checkpoint, and CorruptErrors; each comes again at the next call. Bytes
// that were read before an error may belong to a member whose CRC is wrong.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.d.rd == z.d.wr {
		if z.err != nil {
			return 0, z.err
		}
		z.err = z.d.more()
	}
	n := copy(p, z.d.out[z.d.rd:z.d.wr])
	z.d.rd += uint(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it writes all that Read would give, without a copy in between.
func (z *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if z.d.rd < z.d.wr {
			n, err := w.Write(z.d.out[z.d.rd:z.d.wr])
			z.d.rd += uint(n)
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
		if z.err == io.EOF {
			return written, nil
		}
		if z.err != nil {
			return written, z.err
		}
		z.err = z.d.more()
	}
}

// End returns where the last member that was read to its end has ended: bytes from the start of the file. After
// io.EOF that is the size of the file without zeros at its end.
func (z *Reader) End() int64 { return z.d.endOffset }
