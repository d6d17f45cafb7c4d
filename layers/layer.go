package layers

import (
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/opencontainers/go-digest"

	"imgfs/index"
)

// A Layer is one layer of an image, as its index tells it.
type Layer struct {
	// Digest names the layer's blob, in errors and warnings.
	Digest digest.Digest
	// Entries are the layer's entries in the order of its tar. Merge keeps
	// nothing of an Entry after the next one was asked for.
	Entries iter.Seq2[*index.Entry, error]
	// NumEntries is about how many there are, or 0. Merge sets memory aside for them.
	NumEntries int
	// Tar is the uncompressed tar, which the Offsets of extents refer to. Merge
	// does not read it, Tree.ReadAt does, from several goroutines at once. If it
	// is a Holder, Tree.Hold gives its bytes without a copy.
	Tar io.ReaderAt
}

// A Holder is a tar that has its bytes in memory.
type Holder interface {
	// Hold appends to parts what the n > 0 bytes from off on are made of; nothing
	// if there is no room in parts for that. It is as index.Reader's.
	Hold(parts []Part, off int64, n int) ([]Part, error)
	// HoldReady is Hold for bytes that need nothing to be read or decoded;
	// otherwise it appends nothing.
	HoldReady(parts []Part, off int64, n int) []Part
}

// A Part is bytes of a tar in memory, which are to be released.
type Part = index.Part

// An Xattr is an extended attribute.
type Xattr = index.Xattr

// An EntryError tells which entry of which layer can't be applied, and why.
type EntryError struct {
	Layer digest.Digest
	Entry string // the name as the tar has it
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("layer %s: entry %s: %v", e.Layer, quote(e.Entry), e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// A Warning is something odd in a layer which does not keep it from being merged.
type Warning struct {
	Layer digest.Digest
	Entry string // the name as the tar has it; empty in the last of too many warnings
	Text  string
}

func (w Warning) String() string {
	if w.Entry == "" {
		return w.Text
	}
	return fmt.Sprintf("layer %s: entry %s: %s", w.Layer, quote(w.Entry), w.Text)
}

// maxQuoted is how much of a name is shown in a message, in bytes.
const maxQuoted = 300

// quote makes a name of the tar fit to be printed.
func quote(name string) string {
	if len(name) > maxQuoted {
		return strconv.Quote(name[:maxQuoted]) + "…"
	}
	return strconv.Quote(name)
}
