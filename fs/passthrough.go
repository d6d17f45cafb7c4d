package fs

import (
	"log/slog"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// passthrough lets the kernel read and write files of the upper by itself (Linux 6.9 and later, as root). All that is open of one
// inode has to be either that way or through us: the kernel answers EIO to a mixture.
type passthrough struct {
	kernel *fuse.Server // nil where it can't
	log    *slog.Logger

	// mu protects the following.
	mu    sync.Mutex
	off   bool              // it turned out that the kernel won't
	files map[uint64]*opens // by node ID
}

// opens count how an inode is open.
type opens struct {
	direct, cached int
	writers        int   // of direct
	backing        int32 // what the kernel knows the file of the upper by, while direct is not 0
}

func newPassthrough(log *slog.Logger) passthrough {
	return passthrough{log: log, files: make(map[uint64]*opens)}
}

// opened decides how a file is open, and answers so. Where it is not the kernel's own, its pages may be kept if there is no other way
// to write it.
func (p *passthrough) opened(f *openFile, out *fuse.OpenOut) {
	if p.kernel == nil {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.files[f.id]
	if o == nil {
		o = new(opens)
		p.files[f.id] = o
	}
	if f.direct = o.cached == 0 && p.register(f, o); f.direct {
		o.direct++
		if f.writes {
			o.writers++
		}
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, o.backing
		return
	}
	if o.cached++; o.cached > 1 || f.FD() < 0 {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
}

// register makes the kernel know the file of the upper.
func (p *passthrough) register(f *openFile, o *opens) bool {
	if o.direct > 0 {
		return true
	}
	if p.off || f.FD() < 0 || f.writes && f.Privileged() {
		return false
	}
	backing, errno := p.kernel.RegisterBackingFd(&fuse.BackingMap{Fd: int32(f.FD())})
	switch errno {
	case 0:
		o.backing = backing
		return true
	case syscall.EPERM, syscall.EOPNOTSUPP, syscall.ELOOP, syscall.ENOTTY:
		p.log.Debug("the kernel does not read and write the upper by itself", "error", errno)
		p.off = true
	}
	return false
}

// writes tells whether the kernel may write an inode by itself.
func (p *passthrough) writes(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.files[id]
	return o != nil && o.writers > 0
}

// released is called when a file is closed. What was written through a mapping the kernel has to be told, to ask for the times anew.
func (p *passthrough) released(f *openFile) {
	if p.kernel == nil {
		return
	}
	p.close(f)
	if f.direct && f.writes && f.Untold() {
		p.kernel.InodeNotify(f.id, -1, 0)
	}
}

func (p *passthrough) close(f *openFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.files[f.id]
	if f.direct {
		o.direct--
		if f.writes {
			o.writers--
		}
		if o.direct == 0 {
			p.kernel.UnregisterBackingFd(o.backing)
		}
	} else {
		o.cached--
	}
	if o.direct == 0 && o.cached == 0 {
		delete(p.files, f.id)
	}
}
