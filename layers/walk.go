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
func (w *walker) forget() { w.way = w.way[:0] }

// parent finds the directory of a cleaned path. What is missing is made, symbolic
// links are followed inside the root.
func (w *walker) parent(path string) (dir uint32, base string, err error) {
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return root, path, nil
	}
	prefix, base := path[:slash], path[slash+1:]
	at := w.recall(prefix)
	for at.end < len(prefix) {
		rest := prefix[at.end:]
		if at.end > 0 {
			rest = rest[1:]
		}
		name, _, _ := strings.Cut(rest, "/")
		at.end = len(prefix) - len(rest) + len(name)
		if at.dir, err = w.enter(at.dir, name, &at.links); err != nil {
			w.forget()
			return 0, "", err
		}
		w.way = append(w.way, at)
	}
	w.last = append(w.last[:0], prefix...)
	return at.dir, base, nil
}

// recall drops the steps of the way which are not towards path, and is the last of the others.
func (w *walker) recall(path string) step {
	common := commonPrefix(path, w.last)
	for i := len(w.way) - 1; i >= 0; i-- {
		end := w.way[i].end
		if end <= common && (end == len(path) || path[end] == '/') {
			w.way = w.way[:i+1]
			return w.way[i]
		}
	}
	w.way = w.way[:0]
	return step{dir: root}
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
