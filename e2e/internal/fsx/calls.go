package fsx

import (
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// parent opens the directory that a path's last name is in. Links on the way are followed, within the side.
func (s *side) parent(path string) (dir int, name string, err error) {
	at := "."
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		at, path = path[:i], path[i+1:]
	}
	dir, err = s.open(at, unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY})
	return dir, path, err
}

// open opens a path, which leads nowhere out of the side.
func (s *side) open(path string, how unix.OpenHow) (fd int, err error) {
	how.Flags |= unix.O_CLOEXEC
	how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	for {
		// EAGAIN tells that something was renamed meanwhile, anywhere on the machine.
		if fd, err = unix.Openat2(s.root, path, &how); err != unix.EAGAIN {
			return fd, err
		}
	}
}

// in calls f with the directory of a path and the last name in it.
func (s *side) in(path string, f func(dir int, name string) outcome) outcome {
	dir, name, err := s.parent(path)
	if err != nil {
		return result(err)
	}
	defer unix.Close(dir)
	return f(dir, name)
}

// opened opens a file, following links within the side.
func (s *side) opened(path string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_NONBLOCK)}
	if flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 {
		how.Mode = uint64(mode)
	}
	return s.open(path, how)
}

// chdir calls f with the name, where its directory is the working directory: extended attributes have no calls that take
// a directory.
func (s *side) chdir(path string, f func(name string) outcome) outcome {
	return s.in(path, func(dir int, name string) outcome {
		if err := unix.Fchdir(dir); err != nil {
			return result(err)
		}
		return f(name)
	})
}

func getXattr(name, attr string) outcome {
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(name, attr, buf)
	o := numbered(n, err)
	if err == nil {
		o.s = string(buf[:n])
	}
	return o
}

// listXattrs lists the names of attributes, sorted, with a space in between.
func listXattrs(name string) outcome {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(name, buf)
	if err != nil {
		return result(err)
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return outcome{s: strings.Join(names, " ")}
}

// stat is what stat tells of a name.
func stat(dir int, name string, flags int) outcome {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS, &st); err != nil {
		return result(err)
	}
	return outcome{s: described(&st)}
}

// lock sets a lock of an open file description (F_OFD_SETLK).
func lock(fd int, kind int16, off, length int64) outcome {
	return result(unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: off, Len: length}))
}

// mapped writes to a file, or reads it if there is no data, through a shared mapping of the pages from 0 on.
func mapped(fd int, off int, data []byte, size int) outcome {
	prot := unix.PROT_READ
	if data != nil {
		prot |= unix.PROT_WRITE
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return result(err)
	}
	size = min(size, int(st.Size)-off) // past the end there is a signal
	if size <= 0 {
		return outcome{s: "nothing to map"}
	}
	m, err := unix.Mmap(fd, 0, off+size, prot, unix.MAP_SHARED)
	if err != nil {
		return result(err)
	}
	defer unix.Munmap(m)
	if data == nil {
		return outcome{s: string(sum(m[off : off+size]))}
	}
	copy(m[off:off+size], data)
	return result(unix.Msync(m, unix.MS_SYNC))
}

// seek is lseek(2) to data or a hole. Where those begin may differ, but not that there is data behind an offset within the file, or
// how it fails: so it tells whether a hole at off has anything but zeros.
func seek(fd int, off int64, whence int) outcome {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return result(err) // of directories, each file system has its own idea
	}
	at, err := unix.Seek(fd, off, whence)
	if whence == unix.SEEK_HOLE || err != nil {
		if err == unix.ENXIO && whence == unix.SEEK_DATA {
			return outcome{} // a hole up to the end, or data of zeros for who keeps no holes
		}
		return result(err)
	}
	skipped := make([]byte, min(at-off, 1<<20))
	n, err := unix.Pread(fd, skipped, off)
	if err != nil && err != unix.EBADF {
		return result(err)
	}
	if n > 0 && slices.ContainsFunc(skipped[:n], func(b byte) bool { return b != 0 }) {
		return outcome{s: "data in a hole"}
	}
	return outcome{}
}

// getdents reads some entries of a directory, and returns their names.
func getdents(fd int, buf []byte) ([]string, error) {
	n, err := unix.Getdents(fd, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	var names []string
	for b := buf[:n]; len(b) > 0; {
		d := (*syscall.Dirent)(unsafe.Pointer(&b[0]))
		raw := b[unsafe.Offsetof(d.Name):d.Reclen]
		name, _, _ := strings.Cut(string(raw), "\x00")
		names = append(names, name)
		b = b[d.Reclen:]
	}
	return names, nil
}
