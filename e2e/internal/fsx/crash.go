package fsx

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What RunWithCrashes says, a line each: Ready when it begins to work, at the beginning and after each crash, and Crashed when it
// has noticed one. It goes on when it reads a line.
const (
	Ready   = "ready"
	Crashed = "crashed"
)

// errCrashed tells that the server of the tested file system is gone.
var errCrashed = errors.New("the server is gone")

// RunWithCrashes is Run, while somebody kills the server of the tested file system as often as it says, and mounts it anew. What was
// done by then has to be there, and what was being done has to be there or not, whole.
func RunWithCrashes(c Config, crashes int) error {
	r, err := start(c)
	if err != nil {
		return err
	}
	// What is copied up changes the time of the directory that it comes into, which is set back a moment later.
	r.does, r.noSetID, r.noTimes = atomic, true, true
	if err := r.dropSetID(); err != nil {
		return err
	}
	input := bufio.NewReader(os.Stdin)
	done := 0
	for i := range crashes {
		fmt.Println(Ready)
		if err := r.untilCrash(&done); err != nil {
			return r.failed(done, err)
		}
		r.letGo()
		fmt.Println(Crashed)
		if _, err := input.ReadString('\n'); err != nil {
			return err
		}
		if err := r.recover(); err != nil {
			return r.failed(done, fmt.Errorf("after crash %d: %w", i, err))
		}
	}
	return nil
}

// untilCrash works until the server is gone.
func (r *run) untilCrash(done *int) error {
	for ; ; *done++ {
		if err := r.step(); errors.Is(err, errCrashed) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// crashed tells whether an outcome comes of the server's end, of which an overlay over it has words of its own.
func (r *run) crashed(o outcome) bool {
	switch o.errno {
	case unix.ENOTCONN, unix.ECONNABORTED:
		return true
	case unix.ESTALE:
		return r.Overlayfs
	case unix.EIO:
		if r.Overlayfs { // which asks its upper for statfs(2), and not the server
			return true
		}
		var st unix.Statfs_t
		err := unix.Fstatfs(r.sides[0].root, &st)
		return err == unix.ENOTCONN || err == unix.ECONNABORTED
	}
	return false
}

// letGo closes all that is open in the tested file system.
func (r *run) letGo() {
	s := r.sides[0]
	for h := range s.handles {
		if s.handles[h] >= 0 {
			unix.Close(s.handles[h])
			s.handles[h] = -1
		}
	}
	unix.Close(s.root)
	_ = unix.Chdir("/")
}

// recover compares what is there after a crash: the last operation was done or not, and the model follows.
func (r *run) recover() error {
	if err := r.sides[0].openRoot(); err != nil {
		return err
	}
	r.restoreInodes()
	err := r.check()
	if err != nil {
		r.log = append(r.log, "as it is after the crash: "+err.Error())
		r.restoreInodes()
		r.pending.by.become()
		o := r.pending.do(r.sides[1])
		users[0].become()
		r.log = append(r.log, fmt.Sprintf("after the crash: %v", o))
		if err = r.check(); err != nil && r.pending.makes != "" {
			// What was being made may not have its owner and mode yet.
			for _, s := range r.sides {
				o := s.in(r.pending.makes, func(dir int, name string) outcome {
					return result(errors.Join(unix.Fchownat(dir, name, 0, 0, unix.AT_SYMLINK_NOFOLLOW), unix.Unlinkat(dir, name, 0)))
				})
				if o.errno == unix.EISDIR {
					s.in(r.pending.makes, func(dir int, name string) outcome { return result(unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)) })
				}
			}
			err = r.check()
		}
	}
	s := r.sides[1]
	for h := range s.handles {
		if s.handles[h] >= 0 {
			unix.Close(s.handles[h])
			s.handles[h], r.open[h] = -1, ""
		}
	}
	return err
}

// atomic are the operations that are one call, which is done or not.
var atomic = []operation{
	{20, (*run).touch}, {12, (*run).mkdir}, {6, (*run).mknod}, {8, (*run).symlink}, {12, (*run).link}, {20, (*run).unlink}, {15, (*run).rmdir}, {30, (*run).rename},
	{8, (*run).truncate}, {10, (*run).stat}, {15, (*run).chmod}, {10, (*run).chown}, {8, (*run).utimes}, {12, (*run).setXattr}, {5, (*run).removeXattr},
	{25, (*run).openFile}, {38, onFile((*run).writePage)}, {6, onFile((*run).ftruncate)}, {8, onFile((*run).fallocate)},
	{6, onFile((*run).fsync)}, {10, onFile((*run).closeFile)},
}

// dropSetID takes set-ID bits off all files. To take them off and to write are two things to do, and a crash may come in between.
func (r *run) dropSetID() error {
	return walk(r.sides[1].root, "", func(e entry) error {
		mode := uint32(e.st.Mode)
		if mode&unix.S_IFMT != unix.S_IFREG || mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
			return nil
		}
		var all []outcome
		for _, s := range r.sides {
			all = append(all, s.in(e.path, func(dir int, name string) outcome { return result(unix.Fchmodat(dir, name, mode&0o1777, 0)) }))
		}
		if all[0] != all[1] {
			return fmt.Errorf("chmod %s: %v", e.path, all)
		}
		return nil
	})
}

// writePage writes within a page: more is more requests to the server.
func (r *run) writePage(h int) plan {
	page, at, data := r.offset()>>12<<12, int64(r.rng.IntN(4096)), r.data()
	data = data[:min(len(data), int(4096-at))]
	return plan{says: fmt.Sprintf("write %d at %d", len(data), page+at), do: func(s *side) outcome {
		return numbered(unix.Pwrite(s.handles[h], data, page+at))
	}}
}

// touch makes an empty file.
func (r *run) touch() plan {
	path, mode := r.newPath(), r.mode()
	return plan{makes: path, says: fmt.Sprintf("touch %.80q, mode %o", path, mode), do: func(s *side) outcome {
		fd, err := s.opened(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, mode&0o7777)
		if err == nil {
			unix.Close(fd)
		}
		return result(err)
	}}
}
