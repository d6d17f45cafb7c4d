package fs

import (
	"log/slog"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imgfs/layers"
	"imgfs/layers/upper"
)

// writable is the go-fuse side of upper.FS: it moves arguments in and answers out. The upper is changed through this mount
// alone, so the kernel may keep what it is told as long as it likes, but for what it changes itself.
type writable struct {
	fuse.RawFileSystem
	fs       *upper.FS
	failures *failures
	stats    counters
	handles  handles
	through  passthrough
}

func newWritable(u *upper.FS, log *slog.Logger) *writable {
	return &writable{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: u, failures: newFailures(log),
		handles: newHandles(), through: newPassthrough(log),
	}
}

func (w *writable) String() string { return Subtype }

// Init notes what the kernel can do without us.
func (w *writable) Init(s *fuse.Server) {
	if s.KernelSettings().Flags64()&fuse.CAP_PASSTHROUGH != 0 && w.fs.Mode() == upper.Trusted {
		w.through.kernel = s
	}
}

// status is what the caller is told of an error. A bare errno is an answer of the upper's, or of the file system it is on. All else
// is a failure of ours.
func (w *writable) status(id uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno, ok := err.(syscall.Errno)
	switch {
	case ok && errno == syscall.ENOSYS:
		return fuse.Status(syscall.EOPNOTSUPP) // ENOSYS would make the kernel stop asking for good
	case ok && errno != syscall.EIO:
		return fuse.Status(errno)
	}
	w.stats.errors.Add(1)
	w.failures.report(layers.Node(id-rootID), err)
	return fuse.EIO
}

// Lookup answers an absent name with node ID 0, which the kernel keeps like any entry.
func (w *writable) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	a, err := w.fs.Lookup(in.NodeId, name)
	if err == syscall.ENOENT {
		out.EntryValid = forever
		return fuse.OK
	}
	return w.entry(in.NodeId, &a, err, out)
}

// entry answers with an entry.
func (w *writable) entry(id uint64, a *upper.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return w.status(id, err)
	}
	out.NodeId = a.ID
	out.EntryValid, out.AttrValid = forever, forever
	fillUpperAttr(&out.Attr, a)
	return fuse.OK
}

// attr answers with attributes.
func (w *writable) attr(id uint64, a *upper.Attr, err error, out *fuse.AttrOut) fuse.Status {
	if err != nil {
		return w.status(id, err)
	}
	out.AttrValid = forever
	fillUpperAttr(&out.Attr, a)
	return fuse.OK
}

// fillUpperAttr fills in attributes.
func fillUpperAttr(out *fuse.Attr, a *upper.Attr) {
	*out = fuse.Attr{
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: uint32(a.Atime.Nsec), Mtimensec: uint32(a.Mtime.Nsec), Ctimensec: uint32(a.Ctime.Nsec),
		Mode: a.Mode, Nlink: a.Nlink,
		Owner:   fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:    encodeDev(a.Major, a.Minor),
		Blksize: blockSize,
	}
}

func (w *writable) Forget(id, n uint64) { w.fs.Forget(id, n) }

func (w *writable) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := w.fs.GetAttr(in.NodeId)
	return w.attr(in.NodeId, &a, err, out)
}

func (w *writable) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := upper.Change{KillPriv: in.Valid&fuse.FATTR_KILL_SUIDGID != 0}
	if in.Valid&fuse.FATTR_MODE != 0 {
		c.Mode = &in.Mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		c.UID = &in.Uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		c.GID = &in.Gid
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		size := int64(in.Size)
		c.Size = &size
	}
	c.Atime = changedTime(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
	c.Mtime = changedTime(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
	a, err := w.fs.SetAttr(in.NodeId, &c)
	return w.attr(in.NodeId, &a, err, out)
}

// changedTime is a time as SETATTR has it, or nil if it stays.
func changedTime(valid, set, now uint32, sec uint64, nsec uint32) *unix.Timespec {
	switch {
	case valid&set == 0:
		return nil
	case valid&now != 0:
		return &unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return &unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

func (w *writable) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := w.fs.Readlink(in.NodeId)
	return []byte(target), w.status(in.NodeId, err)
}

// Access is asked where the kernel does not check permissions. There the one user is root, who may do everything but execute what
// nobody may.
func (w *writable) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.Mask&fuse.X_OK == 0 {
		return fuse.OK
	}
	a, err := w.fs.GetAttr(in.NodeId)
	if err == nil && a.Mode&0o111 == 0 && a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		err = syscall.EACCES
	}
	return w.status(in.NodeId, err)
}

func (w *writable) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dst []byte) (uint32, fuse.Status) {
	if name == "security.capability" && len(dst) == 0 && isCommon(in) {
		w.beforeDirectWrite(in.NodeId)
	}
	n, err := w.fs.Getxattr(in.NodeId, name, dst)
	return uint32(n), w.status(in.NodeId, err)
}

// beforeDirectWrite takes set-uid and set-gid bits from a file that somebody without privilege is about to write without us: it
// got them after it was opened so. What Linux does in our place is to ask for the file's capabilities, each time as long as it
// has such bits. It does that too before it refuses a chown(2), which takes the bits then: but not to take them would be worse.
func (w *writable) beforeDirectWrite(id uint64) {
	if !w.through.writes(id) {
		return
	}
	changed, err := w.fs.KillPriv(id)
	if err != nil {
		w.status(id, err)
	}
	if changed {
		w.through.kernel.InodeNotify(id, -1, 0)
	}
}

func (w *writable) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dst []byte) (uint32, fuse.Status) {
	n, err := w.fs.Listxattr(in.NodeId, dst)
	return uint32(n), w.status(in.NodeId, err)
}

func (w *writable) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	kill := in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0
	return w.status(in.NodeId, w.fs.Setxattr(in.NodeId, name, value[:min(uint64(len(value)), uint64(in.Size))], in.Flags, kill))
}

func (w *writable) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return w.status(in.NodeId, w.fs.Removexattr(in.NodeId, name))
}

// isCommon tells whether set-uid bits of a file go when the caller changes it, where Linux does not say so.
func isCommon(in *fuse.InHeader) bool { return in.Uid != 0 }

// creation is what a request makes.
func creation(in *fuse.InHeader, mode, umask uint32) upper.Creation {
	return upper.Creation{Mode: mode, Umask: umask, UID: in.Uid, GID: in.Gid}
}

func (w *writable) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c := creation(&in.InHeader, in.Mode, in.Umask)
	c.Major, c.Minor = decodeDev(in.Rdev)
	a, err := w.fs.Mknod(in.NodeId, name, &c)
	return w.entry(in.NodeId, &a, err, out)
}

// decodeDev is encodeDev, the other way round.
func decodeDev(dev uint32) (major, minor uint32) { return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00 }

func (w *writable) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c := creation(&in.InHeader, syscall.S_IFDIR|in.Mode&0o7777, in.Umask)
	a, err := w.fs.Mkdir(in.NodeId, name, &c)
	return w.entry(in.NodeId, &a, err, out)
}

func (w *writable) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	c := creation(in, 0, 0)
	c.Target = target
	a, err := w.fs.Symlink(in.NodeId, name, &c)
	return w.entry(in.NodeId, &a, err, out)
}

func (w *writable) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := w.fs.Link(in.Oldnodeid, in.NodeId, name)
	return w.entry(in.NodeId, &a, err, out)
}

func (w *writable) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return w.status(in.NodeId, w.fs.Unlink(in.NodeId, name))
}

func (w *writable) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return w.status(in.NodeId, w.fs.Rmdir(in.NodeId, name))
}

func (w *writable) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	return w.status(in.NodeId, w.fs.Rename(in.NodeId, from, in.Newdir, to, in.Flags))
}

func (w *writable) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	st, err := w.fs.Statfs()
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: maxName,
	}
	return w.status(in.NodeId, err)
}

// Ioctl knows none.
func (w *writable) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
