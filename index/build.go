package index

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"imgfs/index/inflate"
)

// Want is what a layer is expected to be.
type Want struct {
	Blob   digest.Digest // "" if not known: then the index has the sha256
	Size   int64         // of the blob in bytes; negative if not known
	DiffID digest.Digest // "" if not known: then the index has the sha256
}

// An Output is where Build writes to.
type Output struct {
	Index io.Writer
	// Frames is called once, when a part of the layer turns out to have no way in: a zstd frame that is larger than a
	// span may be. That part of the tar goes there as zstd frames of a span each. If it is nil, such a layer
	// gives ErrUnsupported.
	Frames func() (io.Writer, error)
}

// Build reads a layer's blob from r, once and to its end, and writes its index to out as it goes. The memory it takes
// doesn't depend on the size of the layer, but for about 100 bytes a span. What has been written counts only if there
// is no error.
//
// The same blob gives the same index, byte for byte, as long as the program isn't built with another version
// of this package or of its compressor.
//
// Errors: a *MismatchError if the layer isn't the one that is wanted; one that wraps ErrMalformed, an *EntryError
// where an entry is to blame; one that wraps ErrUnsupported; or one that wraps what r and out failed with. A malformed
// blob that isn't the one that is wanted gives a *MismatchError.
func Build(r io.Reader, want Want, out Output) error {
	if err := want.check(); err != nil {
		return err
	}
	in := newIntake(r, want)
	defer in.close()
	err := build(in, want, out)
	if err != nil && in.failed() == nil && isMalformed(err) {
		if e := in.verify(); e != nil {
			err = e
		}
	}
	if m := (*MismatchError)(nil); err == nil || errors.As(err, &m) || errors.As(err, new(*EntryError)) {
		return err
	}
	return fmt.Errorf("indexing %s: %w", layerName(want.Blob), err)
}

func (w *Want) check() error {
	for _, d := range []digest.Digest{w.Blob, w.DiffID} {
		if d == "" {
			continue
		}
		if err := d.Validate(); err != nil {
			return fmt.Errorf("digest %s: %w", quote(d.String()), err)
		}
	}
	return nil
}

// isMalformed tells whether an error is about the blob's bytes.
func isMalformed(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, ErrUnsupported)
}

func build(in *intake, want Want, to Output) error {
	blob, format, err := in.sniff()
	if err != nil {
		return err
	}
	out, err := newWriter(to.Index, format)
	if err != nil {
		return err
	}
	spans := &spanner{in: in, open: to.Frames}
	scan, err := codecs[format].scan(blob, spans)
	if err != nil {
		return err
	}
	diff := algorithm(want.DiffID).Hash()
	tar := newStream(scan, spans, diff, out.state)
	src := &source{next: tar.next}
	err = walkAll(src, want.Blob, out)
	tar.close()
	if e := spans.close(); err == nil {
		err = e
	}
	if err != nil {
		return cause(in, err)
	}
	if err := in.verify(); err != nil {
		return err
	}
	t := &out.table
	t.blob, t.size, t.diffID = in.hash.digest(), in.off, digest.NewDigest(algorithm(want.DiffID), diff)
	if want.DiffID != "" && want.DiffID != t.diffID {
		return &MismatchError{want.Blob, "diff ID", want.DiffID.String(), t.diffID.String()}
	}
	if err := spans.fill(t, src.off); err != nil {
		return err
	}
	return out.finish()
}

// walkAll reads the whole tar.
func walkAll(src *source, layer digest.Digest, out *writer) error {
	w := newWalker(src, layer)
	for {
		e, err := w.next()
		if err == io.EOF {
			return src.drain()
		}
		if err != nil {
			return err
		}
		if err := out.entry(e); err != nil {
			return err
		}
	}
}

// cause finds what an error of the walk comes from.
func cause(in *intake, err error) error {
	if e := in.failed(); e != nil {
		return e
	}
	if errors.Is(err, inflate.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}
