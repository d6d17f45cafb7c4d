package upper

import (
	"container/list"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A descriptor is an open file which is closed when nobody uses it any more.
type descriptor struct {
	fd   int
	refs atomic.Int32
}

func newDescriptor(fd int) *descriptor {
	d := &descriptor{fd: fd}
	d.refs.Store(1)
	return d
}

// borrowed is a descriptor that somebody else closes.
func borrowed(fd int) *descriptor {
	d := newDescriptor(fd)
	return d.hold()
}

// hold keeps d open until release. Who calls it knows that it is open: by a lock, or by holding it already.
func (d *descriptor) hold() *descriptor {
	d.refs.Add(1)
	return d
}

func (d *descriptor) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// openDirectories is how many descriptors of directories are kept: more than the depth of trees and the number of
// directories that programs work in at a time, and fewer than half of what a process may have by default.
const openDirectories = 400

// descriptors are those of directories that were used last.
type descriptors struct {
	mu    sync.Mutex
	open  map[*inode]*list.Element // of keptDir
	order list.List                // the one used last in front
}

type keptDir struct {
	dir *inode
	*descriptor
}

func (d *descriptors) init() {
	d.open = make(map[*inode]*list.Element)
	d.order.Init()
}

// get returns the descriptor of a directory, held, if it is open.
func (d *descriptors) get(dir *inode) (*descriptor, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.open[dir]
	if !ok {
		return nil, false
	}
	d.order.MoveToFront(e)
	return e.Value.(keptDir).hold(), true
}

// keep keeps a descriptor, which it takes over, and returns the one that is kept, held.
func (d *descriptors) keep(dir *inode, fd int) *descriptor {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.open[dir]; ok { // somebody else was faster
		unix.Close(fd)
		return e.Value.(keptDir).hold()
	}
	if d.order.Len() >= openDirectories {
		d.drop(d.order.Back())
	}
	kept := newDescriptor(fd)
	d.open[dir] = d.order.PushFront(keptDir{dir, kept})
	return kept.hold()
}

// forget lets go of a directory's descriptor.
func (d *descriptors) forget(dir *inode) {
	if dir.dir == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.open[dir]; ok {
		d.drop(e)
	}
}

func (d *descriptors) drop(e *list.Element) {
	kept := d.order.Remove(e).(keptDir)
	delete(d.open, kept.dir)
	kept.release()
}

func (d *descriptors) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.order.Len() > 0 {
		d.drop(d.order.Back())
	}
}

// openFlags are of everything that is opened in the upper.
const openFlags = unix.O_NOFOLLOW | unix.O_CLOEXEC

// open returns the descriptor of a directory in the upper, held. FS.topo is held.
func (f *FS) open(dir *inode) (*descriptor, error) {
	if dir == f.root {
		return dir.anchor.hold(), nil
	}
	if d, ok := f.descriptors.get(dir); ok {
		return d, nil
	}
	if dir.dir.removed {
		return nil, unix.ENOENT
	}
	at := dir.names[0]
	parent, err := f.open(at.dir)
	if err != nil {
		return nil, err
	}
	defer parent.release()
	fd, err := unix.Openat(parent.fd, at.name, unix.O_RDONLY|unix.O_DIRECTORY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	return f.descriptors.keep(dir, fd), nil
}

// A location is where an inode of the upper is reached: a name in a directory, or an open file where the name is empty.
type location struct {
	*descriptor
	name string
}

// locate returns where an inode of the upper is reached, held. FS.topo and i.mu are held.
func (f *FS) locate(i *inode) (location, error) {
	if i == f.root || i.orphan {
		if i.anchor == nil {
			return location{}, unix.ESTALE
		}
		return location{i.anchor.hold(), ""}, nil
	}
	at := i.names[0]
	d, err := f.open(at.dir)
	return location{d, at.name}, err
}

// at are the flags of calls that take a location.
func (l location) at() int {
	if l.name == "" {
		return unix.AT_EMPTY_PATH
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// path is a path for calls that take neither a descriptor nor a name. Where the name is empty they have to follow it.
func (l location) path() string {
	if l.name == "" {
		return self(l.fd)
	}
	return self(l.fd) + "/" + l.name
}

// openIn opens what is at a location.
func (l location) open(flags int) (*descriptor, error) {
	var fd int
	var err error
	if l.name == "" {
		fd, err = unix.Open(self(l.fd), flags|unix.O_CLOEXEC, 0)
	} else {
		fd, err = unix.Openat(l.fd, l.name, flags|openFlags, 0)
	}
	if err != nil {
		return nil, err
	}
	return newDescriptor(fd), nil
}
