package cache

import (
	_ "crypto/sha256" // digests name an algorithm; only linked ones are valid
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Kind is what a file of the cache holds.
type Kind uint8

// The kinds.
const (
	Documents Kind = iota
	Refs
	Indexes
	Frames
	Blobs
)

var kinds = [...]Kind{Documents, Refs, Indexes, Frames, Blobs}

// String returns the plural that is also the name of the kind's directory.
func (k Kind) String() string {
	switch k {
	case Documents:
		return "documents"
	case Refs:
		return "refs"
	case Indexes:
		return "indexes"
	case Frames:
		return "frames"
	case Blobs:
		return "blobs"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

func (k Kind) dir() string { return k.String() }

// path returns where the file of a digest is, relative to the cache. Digests
// come from manifests, so they are checked before they become a name.
func (k Kind) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("cache: digest %.200q: %w", d, err)
	}
	return k.dir() + "/" + d.Algorithm().String() + "-" + d.Encoded(), nil
}

// digestOf is the inverse of path for the last element of it.
func digestOf(name string) (digest.Digest, bool) {
	algorithm, encoded, _ := strings.Cut(name, "-")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	return d, d.Validate() == nil
}
