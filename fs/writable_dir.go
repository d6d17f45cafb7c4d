package fs

import (
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers/upper"
)

// An openDir is a directory that somebody reads.
type openDir struct {
	end atomic.Uint64 // where its listing ended when he began
}

// OpenDir lets the kernel keep the listing: it drops it when it changes the directory.
func (w *writable) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	end, err := w.fs.End(in.NodeId)
	if err != nil {
		return w.status(in.NodeId, err)
	}
	d := new(openDir)
	d.end.Store(end)
	out.Fh = w.handles.add(d)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

func (w *writable) ReleaseDir(in *fuse.ReleaseIn) { w.handles.remove(in.Fh) }

// endOf is where a reader's listing ends, which is found anew when he begins again.
func (w *writable) endOf(in *fuse.ReadIn) (uint64, error) {
	d, ok := w.handles.get(in.Fh).(*openDir)
	if !ok {
		return 0, syscall.EBADF
	}
	if in.Offset == 0 {
		end, err := w.fs.End(in.NodeId)
		if err != nil {
			return 0, err
		}
		d.end.Store(end)
	}
	return d.end.Load(), nil
}

// ReadDir lists names. The kernel asks for it only if it does not know ReadDirPlus.
func (w *writable) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return w.readDir(in, func(l *upper.Listed) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: l.Name, Mode: l.Mode, Off: l.Next})
	})
}

func (w *writable) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return w.readDir(in, func(l *upper.Listed) bool {
		if l.Dot {
			return out.AddDirLookupEntry(fuse.DirEntry{Name: l.Name, Ino: l.ID, Mode: l.Mode, Off: l.Next}) != nil
		}
		return w.addEntry(in.NodeId, l, out)
	})
}

// readDir lists a directory until add says that there is no more room.
func (w *writable) readDir(in *fuse.ReadIn, add func(*upper.Listed) bool) fuse.Status {
	end, err := w.endOf(in)
	if err != nil {
		return w.status(in.NodeId, err)
	}
	for pos := in.Offset; ; {
		l, ok, err := w.fs.List(in.NodeId, pos, end)
		if err != nil {
			return w.status(in.NodeId, err)
		}
		if !ok || !add(&l) {
			return fuse.OK
		}
		pos = l.Next
	}
}

// addEntry adds an entry with its attributes, if it is there still; one that can't be looked up is added without.
func (w *writable) addEntry(dir uint64, l *upper.Listed, out *fuse.DirEntryList) bool {
	a, err := w.fs.Lookup(dir, l.Name)
	if err == syscall.ENOENT {
		return true
	}
	if err != nil {
		w.status(dir, err)
		return out.AddDirLookupEntry(fuse.DirEntry{Name: l.Name, Mode: l.Mode, Off: l.Next}) != nil
	}
	e := out.AddDirLookupEntry(fuse.DirEntry{Name: l.Name, Ino: a.Ino, Mode: a.Mode, Off: l.Next})
	if e == nil {
		w.fs.Forget(a.ID, 1)
		return false
	}
	w.entry(dir, &a, nil, e)
	return true
}

func (w *writable) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return w.status(in.NodeId, w.fs.FsyncDir(in.NodeId))
}
