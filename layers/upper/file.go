package upper

import (
	"fmt"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// A Handle is an open file. All that have the same file open share its descriptor; what they see is the file as it is, whether
// it has been copied up since or not.
type Handle struct {
	fs   *FS
	id   uint64
	i    *inode      // nil while it is the lower's
	file *descriptor // nil where it was the lower's when it was opened
}

// FD is a descriptor of the file, or -1 if it was the lower's when it was opened. It is valid until Release.
func (h *Handle) FD() int {
	if h.file == nil {
		return -1
	}
	return h.file.fd
}

// Open opens a regular file, by open(2)'s flags: the access, and O_TRUNC. A file of the lower that is to be written is copied up, but
// for content that would be truncated. killPriv is whether set-uid and set-gid bits go with that.
func (f *FS) Open(id uint64, flags uint32, killPriv bool) (*Handle, error) {
	truncates := flags&unix.O_TRUNC != 0
	if flags&unix.O_ACCMODE == unix.O_RDONLY && !truncates {
		return f.openToRead(id)
	}
	size := int64(maxSize)
	if truncates {
		size = 0
	}
	i, err := f.inUpper(id, size)
	if err != nil {
		return nil, err
	}
	h, err := f.openUpper(i, true)
	if err != nil || !truncates {
		return h, err
	}
	if err = unix.Ftruncate(h.file.fd, 0); err == nil && killPriv {
		err = f.killPriv(i)
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

func (f *FS) openToRead(id uint64) (*Handle, error) {
	i, err := f.find(id)
	if err != nil {
		return nil, err
	}
	if i == nil || !i.inUpper.Load() {
		return &Handle{fs: f, id: id}, nil
	}
	return f.openUpper(i, false)
}

// openUpper opens a file that is in the upper.
func (f *FS) openUpper(i *inode, write bool) (*Handle, error) {
	if i.kind != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	f.topo.RLock()
	defer f.topo.RUnlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file == nil || write && !i.writable {
		d, writable, err := f.openFile(i, write)
		if err != nil {
			return nil, err
		}
		if i.file != nil {
			i.file.release() // who has it open keeps it
		}
		i.file, i.writable = d, writable
	}
	i.opens++
	return &Handle{fs: f, id: i.id, i: i, file: i.file.hold()}, nil
}

// openFile opens a file to read and to write; to read alone if that is enough and there is no more to be had.
func (f *FS) openFile(i *inode, write bool) (d *descriptor, writable bool, err error) {
	l, err := f.locate(i)
	if err != nil {
		return nil, false, err
	}
	defer l.release()
	if d, err = l.open(unix.O_RDWR); err == nil || write {
		return d, err == nil, err
	}
	d, err = l.open(unix.O_RDONLY)
	return d, false, err
}

// Release closes the file.
func (h *Handle) Release() {
	if h.file == nil {
		return
	}
	h.file.release()
	h.i.mu.Lock()
	defer h.i.mu.Unlock()
	if h.i.opens--; h.i.opens == 0 {
		h.i.file.release()
		h.i.file = nil
	}
}

// Lower returns the node of the lower where the content is; false if it is in the upper, by now.
func (h *Handle) Lower() (layers.Node, bool) {
	if h.file != nil {
		return 0, false
	}
	if i, err := h.fs.find(h.id); err != nil || i != nil && i.inUpper.Load() {
		return 0, false
	}
	return lowerNode(h.id), true
}

// hold returns a descriptor of the file in the upper, held: that of the handle, or another one if it was the lower's when it was
// opened.
func (h *Handle) hold() (*descriptor, error) {
	if h.file != nil {
		return h.file.hold(), nil
	}
	i, err := h.fs.find(h.id)
	if err != nil {
		return nil, err
	}
	return h.fs.holdFile(i, false)
}

// holdFile returns a descriptor of a file in the upper, held, whether it is open or not.
func (f *FS) holdFile(i *inode, write bool) (*descriptor, error) {
	f.topo.RLock()
	defer f.topo.RUnlock()
	i.mu.RLock()
	defer i.mu.RUnlock()
	return f.holdFileLocked(i, write)
}

// holdFileLocked is holdFile where FS.topo and i.mu are held.
func (f *FS) holdFileLocked(i *inode, write bool) (*descriptor, error) {
	if i.file != nil && (i.writable || !write) {
		return i.file.hold(), nil
	}
	d, _, err := f.openFile(i, write)
	return d, err
}

// Read reads from off on, fewer bytes than p has only at the end of the file.
func (h *Handle) Read(p []byte, off int64) (int, error) {
	if n, ok := h.Lower(); ok {
		return h.fs.readLower(n, p, off)
	}
	d, err := h.hold()
	if err != nil {
		return 0, err
	}
	defer d.release()
	return readFull(d.fd, p, off)
}

func readFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err != nil || n == 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (f *FS) readLower(n layers.Node, p []byte, off int64) (int, error) {
	size := f.tree.Attr(n).Size
	if off < 0 || uint64(off) >= size {
		return 0, nil
	}
	p = p[:min(uint64(len(p)), size-uint64(off))]
	done, err := f.tree.ReadAt(n, p, off)
	if done == len(p) {
		return done, nil
	}
	return done, fmt.Errorf("%d bytes at %d: %w", len(p), off, err)
}

// Write writes at off. killPriv is whether set-uid and set-gid bits go with that.
func (h *Handle) Write(p []byte, off int64, killPriv bool) (int, error) {
	if h.file == nil {
		return 0, unix.EBADF
	}
	n, err := unix.Pwrite(h.file.fd, p, off)
	if err == nil && killPriv {
		err = h.fs.killPriv(h.i)
	}
	return max(n, 0), err
}

// KillPriv takes the bits of a file that go when somebody without privilege changes it, and tells whether it had any.
func (f *FS) KillPriv(id uint64) (changed bool, err error) {
	before, err := f.GetAttr(id)
	if err != nil || before.Mode == withoutPriv(before.Mode) {
		return false, err
	}
	i, err := f.inUpper(id, maxSize)
	if err != nil {
		return false, err
	}
	return true, f.killPriv(i)
}

// killPriv takes the set-uid bit, and the set-gid bit of what a group may execute, as Linux does when somebody without
// privilege changes a file. Capabilities go by themselves.
func (f *FS) killPriv(i *inode) error {
	f.topo.RLock()
	defer f.topo.RUnlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	l, err := f.locate(i)
	if err != nil {
		return err
	}
	defer l.release()
	return f.dropPriv(i, l)
}

// dropPriv is killPriv where FS.topo and i.mu are held.
func (f *FS) dropPriv(i *inode, l location) error {
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, l.name, &st, l.at()); err != nil {
		return err
	}
	want := f.meant(i.recorded, &st)
	if want.Mode == withoutPriv(want.Mode) {
		return nil
	}
	want.Mode = withoutPriv(want.Mode)
	var err error
	i.recorded, err = f.give(l, &st, i.recorded, want)
	return err
}

func withoutPriv(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&0o010 != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// Fsync makes content durable, and if not only data is asked for, what stat(2) tells.
func (h *Handle) Fsync(dataOnly bool) error {
	if h.file == nil || h.fs.sync == SyncNever {
		return nil
	}
	if dataOnly {
		return unix.Fdatasync(h.file.fd)
	}
	return unix.Fsync(h.file.fd)
}

// FsyncDir makes the names of a directory durable.
func (f *FS) FsyncDir(id uint64) error {
	i, err := f.find(id)
	if err != nil || i == nil || !i.inUpper.Load() || f.sync == SyncNever {
		return err
	}
	f.topo.RLock()
	i.mu.RLock()
	l, err := f.locate(i)
	i.mu.RUnlock()
	f.topo.RUnlock()
	if err != nil {
		return err
	}
	defer l.release()
	d, err := l.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.release()
	return unix.Fsync(d.fd)
}

// Fallocate is fallocate(2).
func (h *Handle) Fallocate(mode uint32, off, length int64, killPriv bool) error {
	if h.file == nil {
		return unix.EBADF
	}
	if err := unix.Fallocate(h.file.fd, mode, off, length); err != nil || !killPriv {
		return err
	}
	return h.fs.killPriv(h.i)
}

// Seek finds data or a hole, by SEEK_DATA or SEEK_HOLE.
func (h *Handle) Seek(off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	n, ok := h.Lower()
	if !ok {
		d, err := h.hold()
		if err != nil {
			return 0, err
		}
		defer d.release()
		return unix.Seek(d.fd, off, whence)
	}
	if off < 0 || uint64(off) >= h.fs.tree.Attr(n).Size {
		return 0, unix.ENXIO
	}
	begin, end := h.fs.tree.Data(n, off)
	switch {
	case whence == unix.SEEK_HOLE && begin > off:
		return off, nil
	case whence == unix.SEEK_HOLE:
		return end, nil
	case begin == end:
		return 0, unix.ENXIO
	}
	return begin, nil
}

// Copy copies within the upper, as copy_file_range(2). From the lower it is EXDEV: the kernel copies then.
func (h *Handle) Copy(off int64, to *Handle, toOff int64, length int, killPriv bool) (int, error) {
	if to.file == nil {
		return 0, unix.EBADF
	}
	if _, ok := h.Lower(); ok {
		return 0, unix.EXDEV
	}
	from, err := h.hold()
	if err != nil {
		return 0, err
	}
	defer from.release()
	n, err := unix.CopyFileRange(from.fd, &off, to.file.fd, &toOff, length, 0)
	if err == nil && killPriv {
		err = h.fs.killPriv(to.i)
	}
	return max(n, 0), err
}

// Statfs is what statfs(2) tells of the upper's file system.
func (f *FS) Statfs() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	err := unix.Fstatfs(f.dir.Upper, &st)
	return st, err
}

// Untold tells whether an open file of the upper was changed since stat(2) last told of it: by somebody who wrote to it not
// through us.
func (h *Handle) Untold() bool {
	var st unix.Stat_t
	return unix.Fstat(h.file.fd, &st) != nil || st.Ctim.Nano() != h.i.told.Load()
}

// Privileged tells whether an open file of the upper has bits that go when somebody without privilege changes it.
func (h *Handle) Privileged() bool {
	var st unix.Stat_t
	return unix.Fstat(h.file.fd, &st) != nil || st.Mode != withoutPriv(st.Mode)
}
