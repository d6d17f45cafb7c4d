package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Ref is what a name resolved to at some time.
type Ref struct {
	Name      string        `json:"name"` // any bytes that are valid UTF-8
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Time      time.Time     `json:"time"` // when it first did
}

// Ref returns what was put under name last, or [fs.ErrNotExist].
func (c *Cache) Ref(name string) (Ref, error) {
	r, err := c.readRef(refFile(name))
	if err == nil && r.Name != name {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Ref{}, fmt.Errorf("cache: ref %q: %w", name, err)
	}
	return r, nil
}

// PutRef keeps r under its name. It writes nothing if the name stands for that
// digest and media type already: the time stays that of the first PutRef.
func (c *Cache) PutRef(r Ref) error {
	if err := r.Digest.Validate(); err != nil {
		return fmt.Errorf("cache: ref %q: digest %.200q: %w", r.Name, r.Digest, err)
	}
	if r.Name == "" || r.Name != strings.ToValidUTF8(r.Name, "") {
		return fmt.Errorf("cache: ref %q: no name can be that", r.Name)
	}
	if old, err := c.Ref(r.Name); err == nil && old.Digest == r.Digest && old.MediaType == r.MediaType {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cache: ref %q: %w", r.Name, err)
	}
	return c.put(Refs, Refs.dir()+"/"+refFile(r.Name), append(b, '\n'))
}

// readRef reads a file in the directory of refs. One that does not parse, or
// stands under another name than its own, is dropped.
func (c *Cache) readRef(file string) (Ref, error) {
	path := Refs.dir() + "/" + file
	b, err := c.readSmall(path)
	if err != nil {
		return Ref{}, err
	}
	var r Ref
	if json.Unmarshal(b, &r) != nil || r.Digest.Validate() != nil || refFile(r.Name) != file {
		return Ref{}, c.drop(path)
	}
	return r, nil
}

// maxRefFile is the longest file name that an escaped name may make. File
// systems stop at 255.
const maxRefFile = 200

// refFile returns the file name of a ref: letters, digits, '-', '_' and '.'
// stand for themselves, all other bytes, and a '.' in front, are %XX. A name
// that would be too long keeps its beginning and ends with '~' and its
// SHA-256. So no two names share a file, and no file has a special name.
func refFile(name string) string {
	const upperhex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		ch := name[i]
		switch {
		case 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', '0' <= ch && ch <= '9',
			ch == '-', ch == '_', ch == '.' && i > 0:
			b.WriteByte(ch)
		default:
			b.WriteByte('%')
			b.WriteByte(upperhex[ch>>4])
			b.WriteByte(upperhex[ch&15])
		}
		if b.Len() > maxRefFile {
			sum := sha256.Sum256([]byte(name))
			return b.String()[:maxRefFile-1-2*len(sum)] + "~" + hex.EncodeToString(sum[:])
		}
	}
	return b.String()
}
