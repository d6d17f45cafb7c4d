package cache

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// A Usage is what a cache takes, and what it may take.
type Usage struct {
	Kinds []KindUsage
	// Unfinished is the bytes on disk of what is just being written and has no
	// name yet.
	Unfinished int64
	Room
}

// A KindUsage is what all things of a kind take.
type KindUsage struct {
	Kind  Kind
	Items int
	Disk  int64 // bytes on disk
	InUse int64 // of them, those that some process has open
}

// A Room is what a cache takes and may take, as a whole, in bytes.
type Room struct {
	Disk  int64 // on disk, with what is just being written
	Limit int64 // what that may be; 0 for any number
	Free  int64 // what is left of its file system
	Floor int64 // what should be left of that; 0 for nothing
}

// over returns how many bytes are to be taken away.
func (r Room) over() int64 {
	over := max(0, r.Floor-r.Free)
	if r.Limit > 0 {
		over = max(over, r.Disk-r.Limit)
	}
	return over
}

// ample is over, and some more if that is anything: so that who adds to a cache
// that is full does not collect at every turn.
func (r Room) ample() int64 {
	over := r.over()
	if over > 0 {
		over += r.spare()
	}
	return over
}

// anyway is over, and some even if that is nothing.
func (r Room) anyway() int64 { return max(r.over(), r.spare()) }

func (r Room) spare() int64 {
	bound := r.Limit
	if bound == 0 {
		bound = r.Floor
	}
	return min(collectStep, bound/32)
}

// Free space that is kept by default.
const (
	floorShare = 20 // a part of the file system
	maxFloor   = 2 << 30
)

// Usage tells what there is. It looks at each file once, and into none.
func (c *Cache) Usage() (Usage, error) {
	u, err := c.usage()
	if err != nil {
		return Usage{}, fmt.Errorf("cache: %w", err)
	}
	return u, nil
}

func (c *Cache) usage() (u Usage, err error) {
	for _, kind := range kinds {
		of := KindUsage{Kind: kind}
		err := c.eachFile(kind.dir(), func(name string, disk int64) error {
			of.Items++
			of.Disk += disk
			if kind == Documents || kind == Refs {
				return nil
			}
			used, err := c.inUse(kind.dir() + "/" + name)
			if used {
				of.InUse += disk
			}
			return err
		})
		if err != nil {
			return Usage{}, err
		}
		u.Kinds = append(u.Kinds, of)
		u.Disk += of.Disk
	}
	err = c.eachFile(tempDir, func(_ string, disk int64) error {
		u.Unfinished += disk
		return nil
	})
	if err != nil {
		return Usage{}, err
	}
	u.Disk += u.Unfinished
	err = u.bound(c)
	return u, err
}

func (c *Cache) inUse(name string) (bool, error) {
	f, err := c.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return locked(f, useByte)
}

// room is Usage as a whole. It takes a system call for each file.
func (c *Cache) room() (r Room, err error) {
	dirs := []string{tempDir}
	for _, kind := range kinds {
		dirs = append(dirs, kind.dir())
	}
	for _, dir := range dirs {
		err := c.eachFile(dir, func(_ string, disk int64) error {
			r.Disk += disk
			return nil
		})
		if err != nil {
			return Room{}, err
		}
	}
	err = r.bound(c)
	return r, err
}

// bound asks what the limits come to. There are none in a cache that could
// not be made.
func (r *Room) bound(c *Cache) error {
	r.Limit = c.bounds.Size
	dir, err := c.root.Open(".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := control(dir, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return err
	}
	r.Free, r.Floor = int64(st.Bavail)*st.Bsize, c.bounds.Free
	if r.Floor < 0 {
		r.Floor = min(maxFloor, int64(st.Blocks)*st.Bsize/floorShare)
	}
	return nil
}

// eachFile calls do with the names in a directory of the cache, and the bytes
// that each takes on disk. It passes over what is removed meanwhile.
func (c *Cache) eachFile(dir string, do func(name string, disk int64) error) error {
	f, err := c.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		err := control(f, func(fd int) error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = do(name, st.Blocks*512)
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", dir, name, err)
		}
	}
	return nil
}
