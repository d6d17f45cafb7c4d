package index

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrMalformed is wrapped by the errors of a layer that isn't what it should be: neither gzip nor zstd nor a tar,
	// cut short, or a tar with an entry that breaks the rules.
	ErrMalformed = errors.New("malformed layer")
	// ErrUnsupported is wrapped by the error of a layer in a format that can't be read yet.
	ErrUnsupported = errors.New("unsupported layer format")
	// ErrStale is wrapped by the error of Open for an index that another version of this package wrote: build it again.
	ErrStale = errors.New("index is of another version")
	// ErrDamaged is wrapped by the errors of an index whose bytes aren't those that were written: build it again.
	ErrDamaged = errors.New("index is damaged")
	// ErrCorrupt is wrapped by the errors of reads for which the blob gave other bytes than those that were indexed.
	ErrCorrupt = errors.New("blob is corrupt")
)

// A MismatchError says that a layer isn't the one that was asked for.
type MismatchError struct {
	Blob            digest.Digest // the layer
	What            string        // "digest", "size" or "diff ID"
	Expected, Found string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: %s is %s, expected %s", layerName(e.Blob), e.What, e.Found, e.Expected)
}

// An EntryError says which entry of a layer is malformed. It wraps ErrMalformed.
type EntryError struct {
	Blob  digest.Digest // the layer, "" if its digest isn't known
	Entry string        // name of the entry, or of the one before where its own couldn't be read
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("%s: entry %s: %v", layerName(e.Blob), quote(e.Entry), e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// maxQuoted is how much of a name or a value is shown in an error, in bytes.
const maxQuoted = 300

// quote makes text out of a layer fit to be printed: a blob of 1 KiB can hold a name of 1 MiB.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(s[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// layerName is how errors speak of a layer.
func layerName(blob digest.Digest) string {
	if blob == "" {
		return "layer"
	}
	return "layer " + blob.String()
}
