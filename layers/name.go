package layers

import (
	"errors"
	"path"
	"strings"
)

// Bounds on names, in bytes: NAME_MAX and PATH_MAX of Linux.
const (
	maxName = 255
	maxPath = 4096
)

var (
	errEmptyName = errors.New("empty name")
	errNUL       = errors.New("name has a NUL in it")
	errLongName  = errors.New("component of over 255 bytes")
	errLongPath  = errors.New("path of over 4096 bytes")
)

// clean turns the name of an entry into its path from the root: no slash at
// either end, no empty component, no ".". ".." is resolved without a look at the tree,
// as containerd and umoci do, and the root's parent is the root; dots tells whether
// there was one. The root's own path is empty.
func clean(name string) (p string, dots bool) {
	for {
		short := strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/")
		if len(short) == len(name) {
			break
		}
		name = short
	}
	name = strings.TrimRight(name, "/")
	tidy := true
	for rest, more := name, name != ""; more; {
		var c string
		c, rest, more = strings.Cut(rest, "/")
		switch c {
		case "", ".":
			tidy = false
		case "..":
			tidy, dots = false, true
		}
	}
	if !tidy {
		name = path.Clean("/" + name)[1:]
	}
	return name, dots
}

// checkPath refuses a cleaned path that Linux could not hold.
func checkPath(p string) error {
	if len(p) > maxPath {
		return errLongPath
	}
	for more := len(p) > maxName; more; {
		var c string
		if c, p, more = strings.Cut(p, "/"); len(c) > maxName {
			return errLongName
		}
	}
	return nil
}

// Markers, as the OCI image specification's layer.md has them from AUFS.
const (
	markerPrefix      = ".wh."
	bookkeepingPrefix = ".wh..wh."
	opaqueMarker      = ".wh..wh..opq"
)

// A role is what an entry's name makes of it.
type role int

const (
	plain       role = iota
	whiteout         // hides a name of the layers below
	opaque           // hides what layers below gave its directory
	bookkeeping      // AUFS's own, or below that
	malformed        // a marker that can't be one, or below a marker
)

// roleOf tells an entry's role by its cleaned path.
func roleOf(p string, isDir bool) role {
	if !strings.Contains(p, markerPrefix) {
		return plain
	}
	for more := true; more; {
		var c string
		c, p, more = strings.Cut(p, "/")
		hidden, marker := strings.CutPrefix(c, markerPrefix)
		switch {
		case !marker:
			continue
		case c != opaqueMarker && strings.HasPrefix(c, bookkeepingPrefix):
			return bookkeeping
		case more || isDir:
			return malformed
		case c == opaqueMarker:
			return opaque
		case hidden == "" || hidden == "." || hidden == "..":
			return malformed
		}
		return whiteout
	}
	return plain
}
