package layers

import (
	"io/fs"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// Resolve finds the node of a path, as a process chrooted into the tree would:
// symbolic links stay inside the root, and so does "..". A link at the end of the
// path is followed if follow is set or a slash comes after it. The error is an
// *fs.PathError around fs.ErrNotExist, syscall.ENOTDIR or syscall.ELOOP.
func (t *Tree) Resolve(path string, follow bool) (Node, error) {
	n, err := t.resolve(path, follow)
	if err != nil {
		return 0, &fs.PathError{Op: "resolve", Path: path, Err: err}
	}
	return n, nil
}

func (t *Tree) resolve(rest string, follow bool) (Node, error) {
	at := Root
	for links := 0; rest != ""; {
		if t.nodes[at].mode&syscall.S_IFMT != syscall.S_IFDIR {
			return 0, syscall.ENOTDIR
		}
		name, after, more := strings.Cut(rest, "/")
		switch name {
		case "", ".":
			rest = after
			continue
		case "..":
			at, rest = t.Parent(at), after
			continue
		}
		n, ok := t.Lookup(at, name)
		if !ok {
			return 0, fs.ErrNotExist
		}
		if t.nodes[n].mode&syscall.S_IFMT != syscall.S_IFLNK || !more && !follow {
			if at, rest = n, after; more && rest == "" {
				rest = "." // a slash at the end asks for a directory
			}
			continue
		}
		if links++; links > maxLinks {
			return 0, syscall.ELOOP
		}
		target := t.Readlink(n)
		if strings.HasPrefix(target, "/") {
			at = Root
		}
		if rest = target; more {
			rest = target + "/" + after
		}
	}
	return at, nil
}
