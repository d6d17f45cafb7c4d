package upper

import (
	"golang.org/x/sys/unix"
)

// A Creation says what a new inode is to be.
type Creation struct {
	Mode         uint32 // S_IFMT | 12 bits, as the program said it
	Umask        uint32 // of the program; it does not count where the directory has a default ACL
	UID, GID     uint32 // of the program
	Major, Minor uint32 // of a device
	Target       string // of a symbolic link
}

// An inheritance is what a directory gives to new files in it.
type inheritance struct {
	known  bool
	setGID bool   // its group, and to directories the bit
	gid    uint32 // as stored
	acl    string // the default ACL
}

// inheritance finds out what a directory gives to new files. FS.topo and i.mu are held, the latter alone.
func (f *FS) inheritance(i *inode, d *descriptor) (inheritance, error) {
	if i.dir.inherits.known {
		return i.dir.inherits, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return inheritance{}, err
	}
	s := f.meant(i.recorded, &st)
	in := inheritance{known: true, setGID: s.Mode&unix.S_ISGID != 0, gid: s.GID}
	if f.user == nil {
		buf := xattrBuffers.Get().(*[maxXattrs]byte)
		defer xattrBuffers.Put(buf)
		n, err := unix.Getxattr(self(d.fd), aclDefault, buf[:])
		if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return inheritance{}, err
		}
		in.acl = string(buf[:max(n, 0)])
	}
	i.dir.inherits = in
	return in, nil
}

const aclDefault = "system.posix_acl_default"

// wanted is what a new inode is to have in a directory.
func (f *FS) wanted(c *Creation, in *inheritance) Stat {
	s := Stat{Mode: c.Mode, Major: c.Major, Minor: c.Minor}
	s.UID, s.GID = f.stored(c.UID, c.GID)
	if in.setGID {
		s.GID = in.gid
		if isDir(s.Mode) {
			s.Mode |= unix.S_ISGID
		}
	}
	switch {
	case s.Mode&unix.S_IFMT == unix.S_IFLNK:
		s.Mode |= 0o777
	case in.acl == "":
		s.Mode &^= c.Umask & 0o777
	}
	return s
}

// A maker makes an inode at a name in a directory, with at most the mode given, and may return it open.
type maker func(dir int, name string, mode uint32) (*descriptor, error)

// Create makes a regular file and opens it.
func (f *FS) Create(dir uint64, name string, c *Creation) (Attr, *Handle, error) {
	open := func(dir int, name string, mode uint32) (*descriptor, error) {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|openFlags, mode)
		if err != nil {
			return nil, err
		}
		return newDescriptor(fd), nil
	}
	i, a, err := f.create(dir, name, c, open)
	if err != nil {
		return a, nil, err
	}
	return a, &Handle{fs: f, id: i.id, i: i, file: i.file.hold()}, nil
}

// Mkdir makes a directory.
func (f *FS) Mkdir(dir uint64, name string, c *Creation) (Attr, error) {
	_, a, err := f.create(dir, name, c, func(dir int, name string, mode uint32) (*descriptor, error) {
		return nil, unix.Mkdirat(dir, name, mode)
	})
	return a, err
}

// Mknod makes what c says, a regular file too. A device 0:0 is refused: it is a whiteout.
func (f *FS) Mknod(dir uint64, name string, c *Creation) (Attr, error) {
	_, a, err := f.create(dir, name, c, func(dir int, name string, mode uint32) (*descriptor, error) {
		return nil, f.makeNode(dir, name, Stat{Mode: mode, Major: c.Major, Minor: c.Minor}, c.Target)
	})
	return a, err
}

// create makes an inode at a name that is not there, and counts it as known.
func (f *FS) create(dir uint64, name string, c *Creation, do maker) (*inode, Attr, error) {
	f.topo.RLock()
	defer f.topo.RUnlock()
	p, err := f.dirInUpper(dir)
	if err != nil {
		return nil, Attr{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e, err := f.vacant(p, name)
	if err != nil {
		return nil, Attr{}, err
	}
	d, err := f.open(p)
	if err != nil {
		return nil, Attr{}, err
	}
	defer d.release()
	in, err := f.inheritance(p, d)
	if err != nil {
		return nil, Attr{}, err
	}
	want := f.wanted(c, &in)
	i := &inode{kind: c.Mode & unix.S_IFMT, names: []link{{p, name}}}
	if isDir(c.Mode) {
		i.dir = new(directory)
	}
	var st unix.Stat_t
	if e == nil {
		err = f.makeIn(i, d, name, &want, &in, do, &st)
	} else {
		err = f.makeOver(i, d, name, &want, &in, do, &st)
	}
	if err != nil {
		if i.file != nil {
			i.file.release()
		}
		return nil, Attr{}, err
	}
	f.created(i, &st)
	f.put(p, name, &entry{name: name, kind: kindOfMode(c.Mode), inode: i})
	return i, f.upperAttr(i, &st), f.changed(d)
}

func kindOfMode(mode uint32) entryKind {
	if isDir(mode) {
		return isDirectory
	}
	return isOther
}

// created is called when a new inode is in the upper, for the kernel to know.
func (f *FS) created(i *inode, st *unix.Stat_t) {
	i.backing, i.ino = st.Ino, f.upperIno(st.Ino)
	if i.dir != nil {
		f.begin(i)
		i.dir.loaded = true
	}
	if i.file != nil {
		i.opens, i.writable = 1, true
	}
	i.inUpper.Store(true)
	i.lookups.Store(1)
	f.register(i)
}

// vacant checks that a name is not there, and returns the whiteout if that is why. p is loaded and locked.
func (f *FS) vacant(p *inode, name string) (*entry, error) {
	e := p.dir.names[name]
	_, below := f.lowerChild(p, name)
	switch {
	case p.dir.removed:
		return nil, unix.ENOENT
	case e == nil && below || e != nil && e.kind != isWhiteout:
		return nil, unix.EEXIST
	case len(name) > maxName:
		return nil, unix.ENAMETOOLONG
	}
	return e, nil
}

// makeIn makes an inode in a directory and gives it what it is to have. What fails half way is taken away.
func (f *FS) makeIn(i *inode, d *descriptor, name string, want *Stat, in *inheritance, do maker, st *unix.Stat_t) error {
	file, err := do(d.fd, name, f.firstMode(want))
	if err != nil {
		return err
	}
	i.file = file
	l := location{d, name}
	if file != nil {
		l = location{file, ""}
	}
	if err = f.settle(i, l, want, in, st); err != nil {
		flags := 0
		if i.dir != nil {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(d.fd, name, flags)
	}
	return err
}

// firstMode is the mode to make an inode with: bits that mean something with an owner have to wait for him.
func (f *FS) firstMode(want *Stat) uint32 {
	mode := want.Mode
	if f.user != nil {
		mode |= 0o600
		if isDir(mode) {
			mode |= 0o700
		}
		mode &^= 0o7000
	}
	if want.UID != f.uid || want.GID != f.gid {
		mode &^= 0o6000
	}
	return mode
}

// settle gives a new inode its owner and mode. Those it inherited from a default ACL stay.
func (f *FS) settle(i *inode, l location, want *Stat, in *inheritance, st *unix.Stat_t) error {
	if err := unix.Fstatat(l.fd, l.name, st, l.at()); err != nil {
		return err
	}
	if in.acl != "" && i.kind != unix.S_IFLNK {
		want.Mode = want.Mode&^0o777 | st.Mode&0o777
	}
	i.bare.Store(in.acl == "")
	if f.user == nil && st.Uid == want.UID && st.Gid == want.GID && (st.Mode == want.Mode || i.kind == unix.S_IFLNK) {
		return nil
	}
	recorded, err := f.give(l, st, nil, *want)
	if err != nil {
		return err
	}
	i.recorded = recorded
	return unix.Fstatat(l.fd, l.name, st, l.at())
}

// makeOver makes an inode where a whiteout is: in the work directory, from where it takes the whiteout's place.
func (f *FS) makeOver(i *inode, d *descriptor, name string, want *Stat, in *inheritance, do maker, st *unix.Stat_t) error {
	work, done, err := f.nursery(in)
	if err != nil {
		return err
	}
	defer done()
	temp := f.tempName()
	if err := f.makeIn(i, work, temp, want, in, do, st); err != nil {
		return err
	}
	if i.dir != nil {
		return f.takePlace(work, temp, d, name)
	}
	if err = unix.Renameat(work.fd, temp, d.fd, name); err != nil {
		_ = unix.Unlinkat(work.fd, temp, 0)
	}
	return err
}

// takePlace puts a new directory, made opaque, in the place of a whiteout, which no rename may replace with one.
func (f *FS) takePlace(work *descriptor, temp string, d *descriptor, name string) error {
	err := f.setPrivate(location{work, temp}, opaque, opaqueYes)
	if err == nil {
		err = unix.Renameat2(work.fd, temp, d.fd, name, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		_ = unix.Unlinkat(work.fd, temp, unix.AT_REMOVEDIR)
		return err
	}
	_ = unix.Unlinkat(work.fd, temp, 0) // or else it is left over
	return nil
}

// nursery is where something can be made that inherits the ACL: the work directory, or one in it that has it. done is called
// when it is empty again.
func (f *FS) nursery(in *inheritance) (d *descriptor, done func(), err error) {
	if in.acl == "" {
		return borrowed(f.dir.Work), func() {}, nil
	}
	l := location{borrowed(f.dir.Work), f.tempName()}
	if err := unix.Mkdirat(l.fd, l.name, 0o700); err != nil {
		return nil, nil, err
	}
	done = func() { _ = unix.Unlinkat(l.fd, l.name, unix.AT_REMOVEDIR) }
	d, err = l.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err == nil {
		err = unix.Setxattr(self(d.fd), aclDefault, []byte(in.acl), 0)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	remove := done
	return d, func() { d.release(); remove() }, nil
}

// Symlink makes a symbolic link to c.Target.
func (f *FS) Symlink(dir uint64, name string, c *Creation) (Attr, error) {
	c.Mode = unix.S_IFLNK | 0o777
	return f.Mknod(dir, name, c)
}

// Tmpfile makes a regular file without a name in a directory, and opens it. It may be given a name by Link.
func (f *FS) Tmpfile(dir uint64, c *Creation) (Attr, *Handle, error) {
	f.topo.RLock()
	defer f.topo.RUnlock()
	p, err := f.dirInUpper(dir)
	if err != nil {
		return Attr{}, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := f.open(p)
	if err != nil {
		return Attr{}, nil, err
	}
	defer d.release()
	in, err := f.inheritance(p, d)
	if err != nil {
		return Attr{}, nil, err
	}
	want := f.wanted(c, &in)
	fd, err := unix.Openat(d.fd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, f.firstMode(&want))
	if err != nil {
		return Attr{}, nil, err
	}
	i := &inode{kind: unix.S_IFREG, orphan: true, file: newDescriptor(fd)}
	i.anchor = i.file.hold()
	var st unix.Stat_t
	if err := f.settle(i, location{i.file, ""}, &want, &in, &st); err != nil {
		i.letGo()
		i.file.release()
		return Attr{}, nil, err
	}
	f.created(i, &st)
	return f.upperAttr(i, &st), &Handle{fs: f, id: i.id, i: i, file: i.file.hold()}, nil
}
