package fs

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers"
)

// forever is how long the kernel may keep entries, absent names and attributes, in seconds: 136 years.
const forever = 1 << 32

// adaptor is the go-fuse side of operations: it moves arguments in and answers out, and decides nothing but what
// the kernel may cache. What it does not implement is ENOSYS, which here means "no need to ask": flush, fsync (there
// is nothing to write back), lseek (the kernel knows the size), locks (the kernel keeps them).
type adaptor struct {
	readOnly
	ops      operations
	failures *failures
	pusher   pusher
	stats    counters

	// Written by Init, before the first request.
	noOpen, noOpenDir bool
}

// counters are Stats as they are counted.
type counters struct{ reads, bytes, errors atomic.Uint64 }

func newAdaptor(t *layers.Tree, log *slog.Logger) *adaptor {
	return &adaptor{
		readOnly: readOnly{fuse.NewDefaultRawFileSystem()},
		ops:      operations{t},
		failures: newFailures(log),
		pusher:   pusher{tree: t},
	}
}

func (a *adaptor) String() string { return Subtype }

// Init notes what the kernel can do without us.
func (a *adaptor) Init(s *fuse.Server) {
	flags := s.KernelSettings().Flags64()
	a.noOpen = flags&fuse.CAP_NO_OPEN_SUPPORT != 0
	a.noOpenDir = flags&fuse.CAP_NO_OPENDIR_SUPPORT != 0
	a.pusher.store = s.InodeNotifyStoreCache
}

// Lookup answers an absent name with node ID 0, which the kernel keeps like any entry; an ENOENT it would not.
func (a *adaptor) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	attr, errno := a.ops.lookup(in.NodeId, name)
	switch errno {
	case 0:
		fillEntry(out, &attr)
	case syscall.ENOENT:
		out.EntryValid = forever
	default:
		return fuse.Status(errno)
	}
	return fuse.OK
}

// Forget has nothing to forget.
func (a *adaptor) Forget(uint64, uint64) {}

func (a *adaptor) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	attr, errno := a.ops.attr(in.NodeId)
	if errno == 0 {
		out.AttrValid = forever
		fillAttr(&out.Attr, &attr)
	}
	return fuse.Status(errno)
}

func (a *adaptor) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, errno := a.ops.readlink(in.NodeId)
	return []byte(target), fuse.Status(errno)
}

// Access is not asked where the kernel checks permissions itself, as it does in our mounts.
func (a *adaptor) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.Mask&fuse.W_OK != 0 {
		return fuse.EROFS
	}
	return fuse.OK
}

func (a *adaptor) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dst []byte) (uint32, fuse.Status) {
	n, errno := a.ops.getxattr(in.NodeId, name, dst)
	return uint32(n), fuse.Status(errno)
}

func (a *adaptor) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dst []byte) (uint32, fuse.Status) {
	n, errno := a.ops.listxattr(in.NodeId, dst)
	return uint32(n), fuse.Status(errno)
}

// Open is asked once: after ENOSYS the kernel opens files itself, keeping their pages.
func (a *adaptor) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0 {
		return fuse.EROFS
	}
	if a.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// OpenDir is asked once as well, by kernels from 5.1 on.
func (a *adaptor) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if a.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// Flush is asked once: there is nothing to write at a close.
func (a *adaptor) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read ignores the cancel channel: a signal to the reader does not fail the read (a fatal one ends it in the kernel).
func (a *adaptor) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r := readReplies.Get().(*readReply)
	n, held, err := a.ops.read(in.NodeId, buf[:min(uint64(len(buf)), uint64(in.Size))], in.Offset, r.held[:0])
	a.stats.reads.Add(1)
	if err != nil {
		r.put()
		return nil, a.failed(in.NodeId, err)
	}
	r.fill(buf[:n], held)
	a.stats.bytes.Add(uint64(r.size))
	a.pushAfter(in, r.size)
	return r, fuse.OK
}

// pushAfter lets the pusher do its work if all of a small file is read.
func (a *adaptor) pushAfter(in *fuse.ReadIn, size int) {
	if n := layers.Node(in.NodeId - rootID); in.Offset == 0 && size <= maxPushed && uint64(size) == a.ops.tree.Attr(n).Size {
		a.pusher.read(n)
	}
}

// failed counts and logs the errors that are not answers, and returns what the caller is told.
func (a *adaptor) failed(id uint64, err error) fuse.Status {
	errno := errnoOf(err)
	if errno == syscall.EIO {
		a.stats.errors.Add(1)
		a.failures.report(layers.Node(id-rootID), err)
	}
	return fuse.Status(errno)
}

func (a *adaptor) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	l, errno := a.ops.list(in.NodeId)
	if errno != 0 {
		return fuse.Status(errno)
	}
	for pos := in.Offset; ; pos++ {
		e, ok := l.at(pos)
		if !ok || !out.AddDirEntry(dirent(&e)) {
			return fuse.OK
		}
	}
}

func (a *adaptor) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	l, errno := a.ops.list(in.NodeId)
	if errno != 0 {
		return fuse.Status(errno)
	}
	for pos := in.Offset; ; pos++ {
		e, ok := l.at(pos)
		if !ok {
			return fuse.OK
		}
		entry := out.AddDirLookupEntry(dirent(&e))
		if entry == nil {
			return fuse.OK
		}
		if !e.dot {
			fillEntry(entry, &e.attr)
		}
	}
}

func (a *adaptor) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s := a.ops.statfs()
	*out = fuse.StatfsOut{
		Blocks: s.blocks, Files: s.files,
		Bsize: blockSize, Frsize: blockSize, NameLen: maxName,
	}
	return fuse.OK
}

// Ioctl knows none: chattr and lsattr then say that the file system has no flags.
func (a *adaptor) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

// maxParts is how many parts of a tar a read may be answered with. They are decoded spans, as large as a request at
// least but for the odd one.
const maxParts = 4

// A readReply is the answer to a read: parts of the layer's tar, which the kernel copies out of the memory of decoded
// spans, or the buffer that go-fuse gave for it.
type readReply struct {
	held   [maxParts]layers.Part
	slices [maxParts][]byte
	n      int // of held, or 1 for the buffer, or 0 for nothing at all
	size   int
}

var readReplies = sync.Pool{New: func() any { return new(readReply) }}

// fill sets the answer to what is held, or to the buffer if that is nothing. Behind what is held there may be parts of a
// try that failed, which are released already.
func (r *readReply) fill(buf []byte, held []layers.Part) {
	clear(r.held[len(held):])
	r.n, r.size = len(held), len(buf)
	for i := range held {
		r.held[i], r.slices[i] = held[i], held[i].Data
		r.size += len(held[i].Data)
	}
	if r.n == 0 && len(buf) > 0 {
		r.slices[0], r.n = buf, 1
	}
}

func (r *readReply) Size() int { return r.size }

// Slices has go-fuse write the answer as it is, and call Done after that.
func (r *readReply) Slices() ([][]byte, fuse.Status) { return r.slices[:r.n], fuse.OK }

// Bytes is for who can't write slices.
func (r *readReply) Bytes(buf []byte) ([]byte, fuse.Status) {
	buf = buf[:0]
	for _, s := range r.slices[:r.n] {
		buf = append(buf, s...)
	}
	return buf, fuse.OK
}

// Done is called once, when go-fuse has sent the answer; not at all for one of no bytes.
func (r *readReply) Done() {
	for i := range r.held {
		if release := r.held[i].Release; release != nil {
			release()
		}
	}
	r.put()
}

// put keeps r for another answer.
func (r *readReply) put() {
	*r = readReply{}
	readReplies.Put(r)
}
