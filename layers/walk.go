package layers

import (
	"errors"
	"strings"
	"syscall"
)

// Links can make paths much longer than the layer that has them. These bound the
// bytes of link targets that are walked in one Merge: some to start with, and
// some for each entry. An image with merged /usr takes about 10 an entry.
const (
	freeLinkBytes     = 16 << 20
	linkBytesPerEntry = 256
)

var (
	errLinkBytes   = errors.New("symbolic links lead too far")
	errBelowMarker = errors.New("leads below a whiteout marker")
)

// A walker finds the directories that entries are in. It remembers the way to the
// last one, since most entries are close to the one before.
type walker struct {
	*draft
	way       []step
	last      []byte // the path that way leads along
	linkBytes int64  // of targets walked
}

// A step of a way: where the component of walker.last that ends at end leads.
type step struct {
	end   int
	dir   uint32
	links int // symbolic links so far
}

// forget is called when something that may be on the way was replaced or hidden.
func (w *walker) forget() { w.way, w.last = w.way[:0], w.last[:0] }

// follow goes a step further on the way, along a path.
func (w *walker) follow(path string, s step) {
	w.way = append(w.way, s)
	w.last = append(w.last, path[len(w.last):s.end]...)
}

// here is the last step of the way.
func (w *walker) here() step {
	if len(w.way) == 0 {
		return step{dir: root}
	}
	return w.way[len(w.way)-1]
}

// towards is how many steps of the way are towards a path's directory.
func (w *walker) towards(path string) int {
	n := len(w.last)
	if n < len(path) && path[n] == '/' && path[:n] == string(w.last) {
		return len(w.way)
	}
	common := commonPrefix(path, w.last)
	for i := len(w.way); i > 0; i-- {
		if end := w.way[i-1].end; end <= common && end < len(path) && path[end] == '/' {
			return i
		}
	}
	return 0
}

// keep drops all but so many steps of the way.
func (w *walker) keep(steps int) {
	w.way = w.way[:steps]
	w.last = w.last[:w.here().end]
}

func commonPrefix(a string, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// after is what so many steps of the way, which are towards a path, don't cover of it.
func (w *walker) after(steps int, path string) string {
	if steps > 0 {
		return path[w.way[steps-1].end+1:]
	}
	return path
}

// ordinary tells whether a path has nothing about it to think of, given the rest of it that the way doesn't cover: it is
// clean, not too long, and there is no marker in it. What the way covers is so.
func ordinary(path, rest string) bool {
	if len(path) > maxPath || strings.IndexByte(rest, 0) >= 0 {
		return false
	}
	for more := true; more; {
		var c string
		if c, rest, more = strings.Cut(rest, "/"); c == "" || len(c) > maxName {
			return false
		}
		if c[0] == '.' && (c == "." || c == ".." || strings.HasPrefix(c, markerPrefix)) {
			return false
		}
	}
	return true
}

// parent finds the directory of a cleaned path, which the way is towards. What is missing is made, symbolic
// links are followed inside the root.
func (w *walker) parent(path string) (at step, base string, err error) {
	at, base = w.here(), w.after(len(w.way), path)
	for {
		slash := strings.IndexByte(base, '/')
		if slash < 0 {
			return at, base, nil
		}
		name := base[:slash]
		base = base[slash+1:]
		at.end = len(path) - len(base) - 1
		if at.dir, err = w.enter(at.dir, name, &at.links); err != nil {
			w.forget()
			return step{}, "", err
		}
		w.follow(path, at)
	}
}

// enter goes from a directory to the one that has a name in it, or that a link of
// that name leads to. It makes what is missing.
func (w *walker) enter(dir uint32, name string, links *int) (uint32, error) {
	id, ok := w.child(dir, name)
	if ok && w.at(id).kind() == syscall.S_IFDIR {
		return id, nil
	}
	dir, missing, err := w.walk(dir, name, links)
	if err != nil {
		return 0, err
	}
	for _, name := range missing {
		if strings.HasPrefix(name, markerPrefix) {
			return 0, errBelowMarker
		}
	}
	for _, name := range missing {
		if dir, err = w.makeDir(dir, name); err != nil {
			return 0, err
		}
	}
	return dir, nil
}

// walk follows a path from a directory, as a process chrooted into the tree would, to
// a directory. Where something is missing it goes on as if it were there,
// and tells what is to be made.
func (w *walker) walk(dir uint32, path string, links *int) (at uint32, missing []string, err error) {
	if strings.HasPrefix(path, "/") {
		dir = root
	}
	for todo := []string{path}; len(todo) > 0; {
		last := len(todo) - 1
		name, rest, more := strings.Cut(todo[last], "/")
		if todo[last] = rest; !more {
			todo = todo[:last]
		}
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." && len(missing) > 0:
			missing = missing[:len(missing)-1]
			continue
		case name == "..":
			dir = w.spots[dir].parent
			continue
		}
		id, ok := uint32(0), false
		if len(missing) == 0 {
			id, ok = w.child(dir, name)
		}
		if !ok {
			missing = append(missing, name)
			continue
		}
		switch ino := w.at(id); ino.kind() {
		case syscall.S_IFDIR:
			dir = id
		case syscall.S_IFLNK:
			if err := w.spend(int64(ino.size), links); err != nil {
				return 0, nil, err
			}
			target := w.target(ino)
			if strings.HasPrefix(target, "/") {
				dir = root
			}
			todo = append(todo, target)
		default:
			return 0, nil, syscall.ENOTDIR
		}
	}
	return dir, missing, nil
}

// spend accounts for one symbolic link.
func (w *walker) spend(bytes int64, links *int) error {
	*links++
	w.linkBytes += bytes
	switch {
	case *links > maxLinks:
		return syscall.ELOOP
	case w.linkBytes > freeLinkBytes+linkBytesPerEntry*int64(w.now):
		return errLinkBytes
	}
	return nil
}
