package fs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers/upper"
)

// handles are what is open, by the numbers that the kernel has for it.
type handles struct {
	mu   sync.RWMutex
	open map[uint64]any // *openFile or *openDir
	last uint64
}

func newHandles() handles { return handles{open: make(map[uint64]any)} }

func (h *handles) add(what any) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	h.open[h.last] = what
	return h.last
}

func (h *handles) get(fh uint64) any {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.open[fh]
}

func (h *handles) remove(fh uint64) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	what := h.open[fh]
	delete(h.open, fh)
	return what
}

// An openFile is an open file.
type openFile struct {
	*upper.Handle
	id     uint64
	writes bool
	direct bool // the kernel reads and writes it by itself
}

// file is the open file behind a number.
func (w *writable) file(fh uint64) (*openFile, error) {
	f, ok := w.handles.get(fh).(*openFile)
	if !ok {
		return nil, syscall.EBADF
	}
	return f, nil
}

func (w *writable) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, err := w.fs.Open(in.NodeId, in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0)
	if err != nil {
		return w.status(in.NodeId, err)
	}
	w.opened(in.NodeId, h, in.Flags, out)
	return fuse.OK
}

// opened answers with an open file.
func (w *writable) opened(id uint64, h *upper.Handle, flags uint32, out *fuse.OpenOut) {
	f := &openFile{Handle: h, id: id, writes: flags&syscall.O_ACCMODE != syscall.O_RDONLY}
	w.through.opened(f, out)
	out.Fh = w.handles.add(f)
}

func (w *writable) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c := creation(&in.InHeader, syscall.S_IFREG|in.Mode&0o7777, in.Umask)
	a, h, err := w.fs.Create(in.NodeId, name, &c)
	if err == nil {
		w.opened(a.ID, h, in.Flags, &out.OpenOut)
	}
	return w.entry(in.NodeId, &a, err, &out.EntryOut)
}

func (w *writable) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	c := creation(&in.InHeader, syscall.S_IFREG|in.Mode&0o7777, in.Umask)
	a, h, err := w.fs.Tmpfile(in.NodeId, &c)
	if err == nil {
		w.opened(a.ID, h, in.Flags, &out.OpenOut)
	}
	return w.entry(in.NodeId, &a, err, &out.EntryOut)
}

func (w *writable) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	f, ok := w.handles.remove(in.Fh).(*openFile)
	if !ok {
		return
	}
	w.through.released(f)
	f.Release()
}

// Flush is asked once: what is written is in the upper when the write returns.
func (w *writable) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read ignores the cancel channel, as the read-only adaptor's does.
func (w *writable) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, err := w.file(in.Fh)
	if err != nil {
		return nil, w.status(in.NodeId, err)
	}
	buf = buf[:min(uint64(len(buf)), uint64(in.Size))]
	r := readReplies.Get().(*readReply)
	n, held := 0, r.held[:0]
	if node, ok := f.Lower(); ok {
		n, held, err = operations{w.fs.Tree()}.read(uint64(node)+rootID, buf, in.Offset, held)
	} else {
		n, err = f.Handle.Read(buf, int64(in.Offset))
	}
	w.stats.reads.Add(1)
	if err != nil {
		r.put()
		return nil, w.status(in.NodeId, err)
	}
	r.fill(buf[:n], held)
	w.stats.bytes.Add(uint64(r.size))
	return r, fuse.OK
}

func (w *writable) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f, err := w.file(in.Fh)
	if err != nil {
		return 0, w.status(in.NodeId, err)
	}
	n, err := f.Write(data, int64(in.Offset), in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	return uint32(n), w.status(in.NodeId, err)
}

func (w *writable) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f, err := w.file(in.Fh)
	if err == nil {
		err = f.Fsync(in.FsyncFlags&fsyncData != 0)
	}
	return w.status(in.NodeId, err)
}

// fsyncData is FUSE_FSYNC_FDATASYNC.
const fsyncData = 1

func (w *writable) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	f, err := w.file(in.Fh)
	if err == nil {
		err = f.Fallocate(in.Mode, int64(in.Offset), int64(in.Length), isCommon(&in.InHeader))
	}
	return w.status(in.NodeId, err)
}

func (w *writable) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f, err := w.file(in.Fh)
	if err != nil {
		return w.status(in.NodeId, err)
	}
	off, err := f.Seek(int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return w.status(in.NodeId, err)
}

// maxCopied is how much is copied in one request: the answer has 32 bits for it.
const maxCopied = 1 << 30

func (w *writable) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, err := w.file(in.FhIn)
	if err != nil {
		return 0, w.status(in.NodeId, err)
	}
	to, err := w.file(in.FhOut)
	if err != nil {
		return 0, w.status(in.NodeIdOut, err)
	}
	n, err := from.Copy(int64(in.OffIn), to.Handle, int64(in.OffOut), int(min(in.Len, maxCopied)), isCommon(&in.InHeader))
	return uint32(n), w.status(in.NodeIdOut, err)
}
