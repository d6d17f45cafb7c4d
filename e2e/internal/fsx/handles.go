package fsx

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// handleOperations are done with a file that is open already, whatever has become of its names.
var handleOperations = []operation{
	{25, onFile((*run).pread)}, {30, onFile((*run).pwrite)}, {8, onFile((*run).append)}, {6, onFile((*run).ftruncate)}, {8, onFile((*run).fallocate)},
	{6, onFile((*run).fstat)}, {3, onFile((*run).fsync)}, {3, onFile((*run).fchmod)}, {3, onFile((*run).fchown)}, {3, onFile((*run).futimes)},
	{4, onFile((*run).fxattr)}, {8, onFile((*run).mmapWrite)}, {5, onFile((*run).mmapRead)}, {4, onFile((*run).seek)}, {6, onFile((*run).copyRange)},
	{3, onFile((*run).flock)}, {4, onFile((*run).lock)}, {2, onFile((*run).linkTmp)}, {18, onFile((*run).closeFile)},
}

// onFile makes an operation of what is done with an open file.
func onFile(f func(r *run, h int) plan) func(*run) plan {
	return func(r *run) plan {
		h, ok := r.handle()
		if !ok {
			return r.openFile()
		}
		p := f(r, h)
		p.says = fmt.Sprintf("%s of #%d (%.80s)", p.says, h, r.open[h])
		return p
	}
}

// openFile opens a file, and leaves it open.
func (r *run) openFile() plan {
	path, mode := r.path(), r.mode()
	if r.Passthrough {
		mode &= 0o1777
	}
	flags := pick(r, unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY) |
		pick(r, 0, 0, unix.O_APPEND, unix.O_TRUNC, unix.O_CREAT, unix.O_CREAT|unix.O_EXCL, unix.O_NOFOLLOW)
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		flags &^= unix.O_TRUNC
		if r.Overlayfs { // a copy-up would not be seen
			flags = flags&^unix.O_ACCMODE | unix.O_RDWR
		}
	}
	return r.opening(fmt.Sprintf("%.80q, flags %#x", path, flags), func(s *side) (int, error) { return s.opened(path, flags, mode&0o7777) })
}

// openTmp opens a file without a name.
func (r *run) openTmp() plan {
	path, mode := r.path(), r.mode()
	if r.Passthrough {
		mode &= 0o1777
	}
	return r.opening(fmt.Sprintf("tmpfile in %.80q", path), func(s *side) (int, error) {
		return s.opened(path, unix.O_TMPFILE|unix.O_RDWR, mode&0o7777)
	})
}

// opening opens a file in a free place, or in one of a file that is closed then.
func (r *run) opening(how string, open func(*side) (int, error)) plan {
	h := r.rng.IntN(maxHandles)
	return plan{says: fmt.Sprintf("open #%d: %s", h, how), do: func(s *side) outcome {
		if s.handles[h] >= 0 {
			unix.Close(s.handles[h])
			s.handles[h], r.open[h] = -1, ""
		}
		fd, err := open(s)
		if err != nil {
			return result(err)
		}
		s.handles[h], r.open[h] = fd, how
		return outcome{}
	}}
}

func (r *run) closeFile(h int) plan {
	return plan{says: "close", do: func(s *side) outcome {
		err := unix.Close(s.handles[h])
		s.handles[h], r.open[h] = -1, ""
		return result(err)
	}}
}

func (r *run) pread(h int) plan {
	off, n := r.offset(), 1+r.rng.IntN(30000)
	return plan{says: fmt.Sprintf("read %d at %d", n, off), do: func(s *side) outcome { return pread(s.handles[h], n, off) }}
}

func (r *run) pwrite(h int) plan {
	off, data := r.offset(), r.data()
	return plan{says: fmt.Sprintf("write %d at %d", len(data), off), do: func(s *side) outcome {
		return numbered(unix.Pwrite(s.handles[h], data, off))
	}}
}

// append writes where the file's position is, which is the end if it was opened so.
func (r *run) append(h int) plan {
	data := r.data()
	return plan{says: fmt.Sprintf("write %d", len(data)), do: func(s *side) outcome { return numbered(unix.Write(s.handles[h], data)) }}
}

func (r *run) ftruncate(h int) plan {
	size := r.offset()
	return plan{says: fmt.Sprintf("truncate to %d", size), do: func(s *side) outcome { return result(unix.Ftruncate(s.handles[h], size)) }}
}

func (r *run) fallocate(h int) plan {
	mode := pick[uint32](r, 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE,
		unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE)
	off, n := r.offset(), 1+int64(r.rng.IntN(30000))
	return plan{says: fmt.Sprintf("fallocate %#x, %d at %d", mode, n, off), do: func(s *side) outcome {
		return result(unix.Fallocate(s.handles[h], mode, off, n))
	}}
}

func (r *run) fstat(h int) plan {
	return plan{says: "stat", do: func(s *side) outcome { return stat(s.handles[h], "", unix.AT_EMPTY_PATH) }}
}

func (r *run) fsync(h int) plan {
	sync := pick(r, unix.Fsync, unix.Fdatasync)
	return plan{says: "sync", do: func(s *side) outcome { return result(sync(s.handles[h])) }}
}

func (r *run) fchmod(h int) plan {
	mode := r.mode()
	if r.Passthrough {
		mode &= 0o1777
	}
	return plan{says: fmt.Sprintf("chmod %o", mode), do: func(s *side) outcome { return result(unix.Fchmod(s.handles[h], mode)) }}
}

func (r *run) fchown(h int) plan {
	uid, gid := r.owner()
	return plan{says: fmt.Sprintf("chown %d:%d", uid, gid), do: func(s *side) outcome { return result(unix.Fchown(s.handles[h], uid, gid)) }}
}

func (r *run) futimes(h int) plan {
	times := r.times()
	return plan{says: fmt.Sprintf("utimes %v", times), do: func(s *side) outcome {
		return result(unix.UtimesNanoAt(s.handles[h], "", times, unix.AT_EMPTY_PATH))
	}}
}

func (r *run) fxattr(h int) plan {
	name, value := r.attribute()
	return plan{says: fmt.Sprintf("setxattr %s=%q", name, value), do: func(s *side) outcome {
		return result(unix.Fsetxattr(s.handles[h], name, value, 0))
	}}
}

func (r *run) mmapWrite(h int) plan {
	off, data := r.rng.IntN(20000), r.data()
	return plan{says: fmt.Sprintf("write %d at %d through a mapping", len(data), off), do: func(s *side) outcome {
		var st unix.Stat_t
		if err := unix.Fstat(s.handles[h], &st); err != nil || r.Mapped && setID(st.Mode) {
			return result(err)
		}
		return mapped(s.handles[h], off, data, len(data))
	}}
}

func (r *run) mmapRead(h int) plan {
	off, n := r.rng.IntN(20000), 1+r.rng.IntN(30000)
	return plan{says: fmt.Sprintf("read %d at %d through a mapping", n, off), do: func(s *side) outcome { return mapped(s.handles[h], off, nil, n) }}
}

func (r *run) seek(h int) plan {
	off, whence := r.offset(), pick(r, unix.SEEK_DATA, unix.SEEK_HOLE)
	return plan{says: fmt.Sprintf("seek %d from %d", whence, off), do: func(s *side) outcome { return seek(s.handles[h], off, whence) }}
}

func (r *run) copyRange(h int) plan {
	to, ok := r.handle()
	if !ok {
		to = h
	}
	from, at, n := r.offset(), r.offset(), 1+r.rng.IntN(30000)
	return plan{says: fmt.Sprintf("copy %d at %d to %d of #%d", n, from, at, to), do: func(s *side) outcome {
		in, out := from, at
		return numbered(unix.CopyFileRange(s.handles[h], &in, s.handles[to], &out, n, 0))
	}}
}

func (r *run) flock(h int) plan {
	how := pick(r, unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN) | unix.LOCK_NB
	return plan{says: fmt.Sprintf("flock %d", how), do: func(s *side) outcome { return result(unix.Flock(s.handles[h], how)) }}
}

func (r *run) lock(h int) plan {
	kind, off, n := pick[int16](r, unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK), int64(r.rng.IntN(10)), int64(r.rng.IntN(5))
	return plan{says: fmt.Sprintf("lock %d, %d at %d", kind, n, off), do: func(s *side) outcome { return lock(s.handles[h], kind, off, n) }}
}

// linkTmp gives the file another name, or its first if it was made without one.
func (r *run) linkTmp(h int) plan {
	path := r.newPath()
	return plan{makes: path, says: fmt.Sprintf("link to %.80q", path), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome {
			return result(unix.Linkat(s.handles[h], "", dir, name, unix.AT_EMPTY_PATH))
		})
	}}
}
