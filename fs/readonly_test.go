package fs

import (
	"testing"

	"golang.org/x/sys/unix"
)

// changes are system calls that would change the sample mounted at a directory.
var changes = map[string]func(dir string) error{
	"open and truncate":   func(dir string) error { return open(dir+"/empty", unix.O_RDONLY|unix.O_TRUNC) },
	"create":              func(dir string) error { return open(dir+"/new", unix.O_WRONLY|unix.O_CREAT) },
	"truncate":            func(dir string) error { return unix.Truncate(dir+"/empty", 1) },
	"chmod":               func(dir string) error { return unix.Chmod(dir+"/empty", 0o600) },
	"chown":               func(dir string) error { return unix.Chown(dir+"/empty", 1, 1) },
	"utimes":              func(dir string) error { return unix.Utimes(dir+"/empty", make([]unix.Timeval, 2)) },
	"mkdir":               func(dir string) error { return unix.Mkdir(dir+"/new", 0o755) },
	"mknod":               func(dir string) error { return unix.Mknod(dir+"/new", unix.S_IFIFO|0o600, 0) },
	"symlink":             func(dir string) error { return unix.Symlink("x", dir+"/new") },
	"link":                func(dir string) error { return unix.Link(dir+"/empty", dir+"/new") },
	"unlink":              func(dir string) error { return unix.Unlink(dir + "/empty") },
	"rmdir":               func(dir string) error { return unix.Rmdir(dir + "/tmp/nothing") },
	"rename":              func(dir string) error { return unix.Rename(dir+"/empty", dir+"/new") },
	"set an attribute":    func(dir string) error { return unix.Setxattr(dir+"/xattrs", "user.x", nil, 0) },
	"remove an attribute": func(dir string) error { return unix.Removexattr(dir+"/xattrs", "user.binary") },
}

// writableOpens are those that would let it be changed later.
var writableOpens = map[string]func(dir string) error{
	"open for writing": func(dir string) error { return open(dir+"/empty", unix.O_WRONLY) },
	"open for both":    func(dir string) error { return open(dir+"/empty", unix.O_RDWR) },
	"create, no name":  func(dir string) error { return open(dir, unix.O_WRONLY|unix.O_TMPFILE) },
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func TestChangesAreRefused(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	for range 2 { // before and after the kernel has learnt to open by itself
		for _, calls := range []map[string]func(string) error{changes, writableOpens} {
			for name, call := range calls {
				if err := call(s.Dir()); err != unix.EROFS {
					t.Errorf("%s: %v, want EROFS", name, err)
				}
			}
		}
		if err := compare(s.Dir(), tree); err != nil {
			t.Error(err)
		}
	}
}

// Root may remount the file system rw. Then the kernel leaves it to us.
func TestChangesAreRefusedAfterARemountToo(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	if err := unix.Mount("", s.Dir(), "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	for name, change := range changes {
		if err := change(s.Dir()); err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	// The kernel now opens by itself, for writing too; but to write it has to ask.
	if _, err := readFile(s.Dir()+"/etc/hostname", 10); err != nil { // the kernel no longer asks at open
		t.Fatal(err)
	}
	fd, err := unix.Open(s.Dir()+"/etc/hostname", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, write := unix.Write(fd, []byte("changed"))
	for name, err := range map[string]error{
		"write": write, "ftruncate": unix.Ftruncate(fd, 0), "fallocate": unix.Fallocate(fd, 0, 0, 100),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	unix.Close(fd)
	if err := unix.Mount("", s.Dir(), "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	if err := compare(s.Dir(), tree); err != nil {
		t.Error(err)
	}
}

func TestWhatChangesNothingIsAllowed(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	fd, err := unix.Open(s.Dir()+"/etc/hostname", unix.O_RDONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	end, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err != nil || end != 6 {
		t.Errorf("the end is at %d, %v", end, err)
	}
	for name, err := range map[string]error{
		"fsync":      unix.Fsync(fd),
		"flock":      unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB),
		"POSIX lock": unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}),
		"fadvise":    unix.Fadvise(fd, 0, 0, unix.FADV_WILLNEED),
		"access":     unix.Access(s.Dir()+"/etc/hostname", unix.R_OK),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := unix.Access(s.Dir()+"/etc/hostname", unix.W_OK); err != unix.EROFS {
		t.Errorf("access for writing: %v, want EROFS", err)
	}
	if _, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err != unix.ENOTTY {
		t.Errorf("an ioctl: %v, want ENOTTY", err)
	}
	var stx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_ALL, &stx); err != nil || stx.Mask&unix.STATX_BTIME != 0 {
		t.Errorf("statx: mask %#x, %v", stx.Mask, err)
	}
}
