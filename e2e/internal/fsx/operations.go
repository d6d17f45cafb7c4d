package fsx

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An operation makes plans.
type operation struct {
	weight int
	plan   func(*run) plan
}

// operations are all that are done by path, and those of handles.
var operations = append([]operation{
	{30, (*run).create}, {12, (*run).mkdir}, {6, (*run).mknod}, {8, (*run).symlink}, {12, (*run).link}, {15, (*run).unlink}, {10, (*run).rmdir},
	{25, (*run).rename}, {8, (*run).truncate}, {30, (*run).stat}, {10, (*run).chmod}, {8, (*run).chown}, {8, (*run).utimes}, {12, (*run).setXattr},
	{6, (*run).getXattr}, {5, (*run).removeXattr}, {4, (*run).readlink}, {8, (*run).list}, {3, (*run).dotdot}, {2, (*run).statfs}, {1, (*run).umask},
	{6, (*run).read}, {4, (*run).access},
	{25, (*run).openFile}, {4, (*run).openTmp}, {6, (*run).direct},
}, handleOperations...)

// removals are what is done when there is too much.
var removals = []operation{{10, (*run).unlink}, {10, (*run).rmdir}, {1, (*run).rename}}

func (r *run) create() plan {
	path, mode, data := r.newPath(), r.mode(), r.data()
	flags := unix.O_CREAT | unix.O_WRONLY | pick(r, 0, 0, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_NOFOLLOW)
	return plan{makes: path, says: fmt.Sprintf("create %.80q, flags %#x, mode %o, %d bytes", path, flags, mode, len(data)), do: func(s *side) outcome {
		fd, err := s.opened(path, flags, mode&0o7777)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		return numbered(unix.Write(fd, data))
	}}
}

func (r *run) mkdir() plan {
	path, mode := r.newPath(), pick[uint32](r, 0o755, 0o777, 0o700, 0o2775, 0o1777)
	return plan{makes: path, says: fmt.Sprintf("mkdir %.80q %o", path, mode), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome { return result(unix.Mkdirat(dir, name, mode)) })
	}}
}

func (r *run) mknod() plan {
	path, mode := r.newPath(), r.mode()
	kind, dev := pick[uint32](r, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFREG), unix.Mkdev(511, uint32(r.rng.IntN(300))) // of no driver
	return plan{makes: path, says: fmt.Sprintf("mknod %.80q %o %#x", path, kind|mode, dev), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome {
			return result(unix.Mknodat(dir, name, kind|mode, int(dev)))
		})
	}}
}

func (r *run) symlink() plan {
	path, target := r.newPath(), pick(r, r.path(), "..", "../..", "/", "/a", "../a/b", ".", "nowhere", "/../../a", "")
	return plan{makes: path, says: fmt.Sprintf("symlink %.80q to %.80q", path, target), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome { return result(unix.Symlinkat(target, dir, name)) })
	}}
}

func (r *run) link() plan {
	from, to := r.path(), r.newPath()
	return plan{makes: to, says: fmt.Sprintf("link %.80q to %.80q", from, to), do: func(s *side) outcome {
		return s.in(from, func(dir int, name string) outcome {
			return s.in(to, func(dir2 int, name2 string) outcome {
				return result(unix.Linkat(dir, name, dir2, name2, 0))
			})
		})
	}}
}

func (r *run) unlink() plan {
	path := r.path()
	return plan{says: fmt.Sprintf("unlink %.80q", path), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome { return result(unix.Unlinkat(dir, name, 0)) })
	}}
}

func (r *run) rmdir() plan {
	path := r.path()
	return plan{says: fmt.Sprintf("rmdir %.80q", path), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome { return result(unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)) })
	}}
}

func (r *run) rename() plan {
	from, to := r.path(), r.newPath()
	if r.chance(2) {
		to = r.path()
	}
	flags := pick[uint](r, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE)
	may := r.isOriginal(from) || flags == unix.RENAME_EXCHANGE && r.isOriginal(to)
	return plan{
		makes: to,
		says:  fmt.Sprintf("rename %.80q to %.80q, flags %d", from, to, flags),
		do: func(s *side) outcome {
			return s.in(from, func(dir int, name string) outcome {
				return s.in(to, func(dir2 int, name2 string) outcome {
					return result(unix.Renameat2(dir, name, dir2, name2, flags))
				})
			})
		},
		excused: func(o outcome) bool { return may && o.errno == unix.EXDEV },
	}
}

// isOriginal tells whether a path is a directory that was there at the beginning.
func (r *run) isOriginal(path string) bool {
	dir, name, err := r.sides[1].parent(path)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	e := entry{dir: dir}
	if unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &e.st) != nil {
		return false
	}
	return r.originals[e.identity()]
}

// isOpen tells whether a path is of a file that is open.
func (r *run) isOpen(path string) bool {
	model := r.sides[1]
	dir, name, err := model.parent(path)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	var st, of unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	return slices.ContainsFunc(model.handles[:], func(fd int) bool { return fd >= 0 && unix.Fstat(fd, &of) == nil && of.Ino == st.Ino })
}

func (r *run) truncate() plan {
	path, size := r.path(), r.offset()
	return plan{says: fmt.Sprintf("truncate %.80q to %d", path, size), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_WRONLY, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		return result(unix.Ftruncate(fd, size))
	}}
}

func (r *run) stat() plan {
	path := r.path()
	return plan{says: fmt.Sprintf("stat %.80q", path), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome { return stat(dir, name, unix.AT_SYMLINK_NOFOLLOW) })
	}}
}

func (r *run) chmod() plan {
	path, mode := r.path(), r.mode()
	if r.Passthrough && r.isOpen(path) {
		mode &= 0o1777
	}
	return plan{says: fmt.Sprintf("chmod %.80q %o", path, mode), do: func(s *side) outcome {
		return s.noLink(path, func(dir int, name string) outcome { return result(unix.Fchmodat(dir, name, mode, 0)) })
	}}
}

// noLink is in for calls that follow a link, which would lead from one side to the other.
func (s *side) noLink(path string, f func(dir int, name string) outcome) outcome {
	return s.in(path, func(dir int, name string) outcome {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return result(err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return outcome{s: "a link"}
		}
		return f(dir, name)
	})
}

func (r *run) chown() plan {
	path := r.path()
	uid, gid := r.owner()
	return plan{says: fmt.Sprintf("chown %.80q %d:%d", path, uid, gid), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome {
			return result(unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
		})
	}}
}

func (r *run) utimes() plan {
	path, times := r.path(), r.times()
	return plan{says: fmt.Sprintf("utimes %.80q %v", path, times), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome {
			return result(unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW))
		})
	}}
}

func (r *run) setXattr() plan {
	path, flags := r.path(), pick(r, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	name, value := r.attribute()
	return plan{says: fmt.Sprintf("setxattr %.80q %s=%q, flags %d", path, name, value, flags), do: func(s *side) outcome {
		return s.chdir(path, func(file string) outcome { return result(unix.Lsetxattr(file, name, value, flags)) })
	}}
}

func (r *run) getXattr() plan {
	path := r.path()
	name, _ := r.attribute()
	return plan{says: fmt.Sprintf("getxattr %.80q %s", path, name), do: func(s *side) outcome {
		return s.chdir(path, func(file string) outcome { return getXattr(file, name) })
	}}
}

func (r *run) removeXattr() plan {
	path := r.path()
	name, _ := r.attribute()
	return plan{says: fmt.Sprintf("removexattr %.80q %s", path, name), do: func(s *side) outcome {
		return s.chdir(path, func(file string) outcome {
			o := result(unix.Lremovexattr(file, name))
			if o.errno == unix.ENODATA && strings.HasPrefix(name, "system.") {
				o.errno = 0 // whether it is an error not to have had an ACL depends on the file system
			}
			return o
		})
	}}
}

func (r *run) readlink() plan {
	path := r.path()
	return plan{says: fmt.Sprintf("readlink %.80q", path), do: func(s *side) outcome {
		return s.in(path, func(dir int, name string) outcome {
			target := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(dir, name, target)
			o := numbered(n, err)
			o.s = string(target[:max(n, 0)])
			return o
		})
	}}
}

// dotdot compares what is above a directory.
func (r *run) dotdot() plan {
	path := r.path() + "/.."
	return plan{says: fmt.Sprintf("stat %.80q", path), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_PATH, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		return stat(fd, "", unix.AT_EMPTY_PATH)
	}}
}

func (r *run) statfs() plan {
	path := r.path()
	return plan{says: fmt.Sprintf("statfs %.80q", path), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_PATH, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		var st unix.Statfs_t
		err = unix.Fstatfs(fd, &st)
		o := result(err)
		o.n = st.Namelen + int64(st.Blocks) + st.Frsize
		return o
	}}
}

func (r *run) umask() plan {
	mask := pick(r, 0, 0o22, 0o77, 0o27)
	return plan{says: fmt.Sprintf("umask %o", mask), do: func(*side) outcome {
		unix.Umask(mask)
		return outcome{}
	}}
}

// read reads a file by its path, without a handle that stays.
func (r *run) read() plan {
	path, off, n := r.path(), r.offset(), 1+r.rng.IntN(30000)
	return plan{says: fmt.Sprintf("read %.80q, %d at %d", path, n, off), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		return pread(fd, n, off)
	}}
}

// direct writes past the page cache, and reads that. What has to be aligned, and whether, is the file system's own business.
func (r *run) direct() plan {
	path, off, value := r.path(), int64(r.rng.IntN(64))<<12, byte(r.rng.Uint32())
	return plan{says: fmt.Sprintf("direct %.80q, write and read %#x at %d", path, value, off), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return result(err)
		}
		page, err := unix.Mmap(-1, 0, 1<<12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return result(err)
		}
		defer unix.Munmap(page)
		for i := range page {
			page[i] = value
		}
		o := numbered(unix.Pwrite(fd, page, off))
		n, err := unix.Pread(fd, page, off)
		o.s = fmt.Sprintf("%v %x", numbered(n, err), sum(page))
		return o
	}}
}

func (r *run) access() plan {
	path, mode := r.path(), uint32(r.rng.IntN(8))
	return plan{says: fmt.Sprintf("access %.80q %o", path, mode), do: func(s *side) outcome {
		return s.noLink(path, func(dir int, name string) outcome { return result(unix.Faccessat(dir, name, mode, 0)) })
	}}
}

func pread(fd, n int, off int64) outcome {
	b := make([]byte, n)
	n, err := unix.Pread(fd, b, off)
	o := numbered(max(n, 0), err)
	if err == nil {
		o.s = string(sum(b[:n]))
	}
	return o
}

// list lists a directory with a small buffer, and makes and removes names in it meanwhile. What is there all the time has to come once.
func (r *run) list() plan {
	path, extra, gone := r.path(), pick(r, letters...), pick(r, letters...)
	return plan{says: fmt.Sprintf("list %.80q, making %.5s and removing %.5s meanwhile", path, extra, gone), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return result(err)
		}
		defer unix.Close(fd)
		seen := make(map[string]int)
		buf := make([]byte, 300) // one long name, or some short ones
		names, err := getdents(fd, buf)
		made := unix.Mkdirat(fd, extra, 0o700)
		removed := unix.Unlinkat(fd, gone, 0)
		for ; err == nil && len(names) > 0; names, err = getdents(fd, buf) {
			for _, name := range names {
				seen[name]++
			}
		}
		o := result(err)
		o.s = fmt.Sprint(result(made), result(removed))
		delete(seen, extra)
		delete(seen, gone)
		return outcome{o.errno, int64(len(seen)), o.s + fmt.Sprint(seen)}
	}}
}
