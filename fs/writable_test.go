package fs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imgfs/layers"
	"imgfs/layers/upper"
)

// mountUpper mounts a tree at base/mnt, with the upper base/upper. What it returns ends the mount.
func mountUpper(base string, tree *layers.Tree, o *Options) (*Server, func() error, error) {
	dir := filepath.Join(base, "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	d, err := upper.Open(filepath.Join(base, "upper"), &upper.Options{Image: digest.FromString("sample"), Mountpoint: dir})
	if err != nil {
		return nil, nil, err
	}
	u, err := upper.New(d, tree, nil)
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	s, err := MountUpper(dir, u, o)
	if err != nil {
		u.Close()
		d.Close()
		return nil, nil, err
	}
	return s, func() error {
		err := s.Unmount()
		if err != nil {
			err = errors.Join(err, s.Detach())
		}
		s.Wait()
		u.Close()
		d.Close()
		return err
	}, nil
}

// writableRole serves the sample with an upper below args[0] until its input ends.
func writableRole(args []string) error {
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	_, end, err := mountUpper(args[0], tree, &Options{Name: "sample"})
	if err != nil {
		return err
	}
	fmt.Println("ok")
	io.Copy(io.Discard, os.Stdin)
	return end()
}

// A writableMount is a mount of the sample with an upper, which another process serves: what asks and what answers would
// wait for each other in one.
type writableMount struct {
	t      testing.TB
	base   string
	server *process
}

// newWritableMount mounts it for the length of a test.
func newWritableMount(t testing.TB) *writableMount {
	t.Helper()
	m := &writableMount{t: t, base: publicDir(t)}
	m.mount()
	return m
}

func (m *writableMount) mount() {
	m.t.Helper()
	server := start(m.t, uint32(os.Geteuid()), "writable", m.base).ready(m.t)
	m.server = server
	m.t.Cleanup(func() {
		if m.server == server {
			m.unmount()
		}
	})
}

func (m *writableMount) unmount() {
	m.t.Helper()
	m.server.in.Close()
	out, err := io.ReadAll(m.server.out)
	if err == nil {
		_, err = m.server.Process.Wait()
	}
	if err != nil || string(out) != "ok\n" {
		m.t.Errorf("server: %v\n%s", err, out)
	}
	m.server = nil
}

// at is a path in the mount.
func (m *writableMount) at(path string) string { return m.base + "/mnt/" + path }

// modeVariable is set in the processes that run the tests of writable mounts in other modes.
const modeVariable = "IMGFS_TEST_UPPER_MODE"

// isUser tells whether the test runs as a user without privilege.
func isUser() bool { return os.Geteuid() != 0 }

func TestWritableMountsInOtherModes(t *testing.T) {
	if os.Getenv(modeVariable) != "" {
		return
	}
	for name, attr := range map[string]*syscall.SysProcAttr{
		"namespaced": namespaces(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS),
		"user":       {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
	} {
		t.Run(name, func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe, "-test.run=^TestAWritableMount")
			cmd.Env = append(os.Environ(), roleVariable+"=tests", modeVariable+"="+name)
			attr.Pdeathsig = syscall.SIGKILL
			cmd.SysProcAttr = attr
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// notPOSIX are tests of posixtest that say nothing of a file system: a process's locks don't conflict with each other, on none;
// and ext4 has not the room for large attributes.
var notPOSIX = map[string]bool{"FcntlFlockLocksFile": true, "XAttrLarge": true}

func TestAWritableMountIsAFileSystemAsPOSIXHasIt(t *testing.T) {
	m := newWritableMount(t)
	for name, test := range posixtest.All {
		if notPOSIX[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for _, dir := range []string{m.at(name), m.at("tmp/nothing/" + name)} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				test(t, dir)
			}
		})
	}
}

// must fails the test at an error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// reads fails the test if a file holds something else.
func reads(t testing.TB, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %d bytes that are not the %d wanted, %v", path, len(got), len(want), err)
	}
}

func TestAWritableMountKeepsWhatWasWritten(t *testing.T) {
	m := newWritableMount(t)
	must(t, os.WriteFile(m.at("new"), []byte("new\n"), 0o640), appendTo(m.at("etc/hostname"), "more\n"), os.Remove(m.at("empty")),
		os.RemoveAll(m.at("many")), os.Mkdir(m.at("many"), 0o700), os.Rename(m.at("setuid"), m.at("many/setuid")), os.Link(m.at("new"), m.at("tmp/new")))
	var before, after unix.Stat_t
	must(t, unix.Lstat(m.at("tmp/hard"), &before))
	for range 2 {
		reads(t, m.at("new"), "new\n")
		reads(t, m.at("tmp/new"), "new\n")
		reads(t, m.at("tmp/hard"), "imgfs\nmore\n")
		reads(t, m.at("etc/hostname"), "imgfs\nmore\n")
		reads(t, m.at("big"), noise(bigSize))
		if names, err := os.ReadDir(m.at("many")); len(names) != 1 || err != nil {
			t.Errorf("%v, %v", names, err)
		}
		if _, err := os.Lstat(m.at("empty")); !os.IsNotExist(err) {
			t.Errorf("what was removed: %v", err)
		}
		must(t, unix.Lstat(m.at("tmp/hard"), &after))
		if after.Ino != before.Ino || after.Nlink != 2 {
			t.Errorf("inode %d with %d links, was %d", after.Ino, after.Nlink, before.Ino)
		}
		m.unmount()
		m.mount()
	}
}

func TestAWritableMountShowsWritesToThoseWhoHaveTheFileOpen(t *testing.T) {
	m := newWritableMount(t)
	old, err := os.Open(m.at("etc/hostname"))
	must(t, err)
	defer old.Close()
	mapped, err := unix.Mmap(int(old.Fd()), 0, 6, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mapped)
	if string(mapped) != "imgfs\n" {
		t.Fatalf("mapped %q", mapped)
	}
	f, err := os.OpenFile(m.at("etc/hostname"), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("IMGFS\nand more\n"), 0)
	must(t, err, f.Close())
	buf := make([]byte, 100)
	if n, err := old.ReadAt(buf, 0); string(buf[:n]) != "IMGFS\nand more\n" || err != io.EOF {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if string(mapped) != "IMGFS\n" {
		t.Errorf("mapped %q", mapped)
	}
	must(t, old.Close()) // from here on the kernel may write by itself
	f, err = os.OpenFile(m.at("etc/hostname"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("third"), 0)
	must(t, err)
	reads(t, m.at("etc/hostname"), "third\nand more\n")
}

func TestAWritableMountTellsTheTimeOfWritesThroughAMapping(t *testing.T) {
	m := newWritableMount(t)
	f, err := os.Create(m.at("mapped"))
	must(t, err, f.Truncate(4096))
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	old := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.at("mapped"), old, 0))
	copy(mapped, "written")
	must(t, unix.Msync(mapped, unix.MS_SYNC), unix.Munmap(mapped), f.Close())
	reads(t, m.at("mapped"), "written"+strings.Repeat("\x00", 4096-7))
	eventually(t, func() bool {
		var st unix.Stat_t
		return unix.Stat(m.at("mapped"), &st) == nil && st.Mtim.Sec > 1
	})
}

func TestAWritableMountGivesNamesToTemporaryFiles(t *testing.T) {
	m := newWritableMount(t)
	fd, err := unix.Open(m.at("etc"), unix.O_TMPFILE|unix.O_RDWR, 0o640)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("temporary"))
	must(t, err, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, m.at("etc/named"), unix.AT_SYMLINK_FOLLOW))
	reads(t, m.at("etc/named"), "temporary")
}

func TestAWritableMountRenamesWithFlags(t *testing.T) {
	m := newWritableMount(t)
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, m.at(from), unix.AT_FDCWD, m.at(to), flags)
	}
	for _, tc := range []struct {
		from, to string
		flags    uint
		want     error
	}{
		{"big", "empty", unix.RENAME_NOREPLACE, unix.EEXIST},
		{"big", "none", unix.RENAME_EXCHANGE, unix.ENOENT},
		{"big", "other", unix.RENAME_WHITEOUT, unix.EINVAL},
		{"many", "other", 0, unix.EXDEV},
		{"nobody", "old", unix.RENAME_EXCHANGE, nil},
		{"big", "other", unix.RENAME_NOREPLACE, nil},
	} {
		if err := rename(tc.from, tc.to, tc.flags); err != tc.want {
			t.Errorf("%s to %s, %d: %v, want %v", tc.from, tc.to, tc.flags, err, tc.want)
		}
	}
	reads(t, m.at("old"), "mine\n")
	reads(t, m.at("other"), noise(bigSize))
}

func TestAWritableMountFindsTheHolesOfTheImage(t *testing.T) {
	m := newWritableMount(t)
	for range 2 {
		f, err := os.Open(m.at("sparse"))
		must(t, err)
		data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		must(t, err)
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		must(t, err, f.Close())
		if data != 64<<10 || hole < data+100_000 || hole > data+110_000 {
			t.Errorf("data from %d to %d", data, hole)
		}
		must(t, os.Chmod(m.at("sparse"), 0o644)) // which copies it
	}
	var st unix.Stat_t
	must(t, unix.Stat(m.at("sparse"), &st))
	if st.Blocks > 2*110 || st.Size != 1<<20 {
		t.Errorf("the copy has %d blocks, size %d", st.Blocks, st.Size)
	}
}

func TestAWritableMountHasTheSpaceOfItsUpper(t *testing.T) {
	m := newWritableMount(t)
	var got, want unix.Statfs_t
	must(t, unix.Statfs(m.at(""), &got), unix.Statfs(m.base, &want))
	if got.Blocks != want.Blocks || got.Files != want.Files || got.Bsize != want.Bsize || got.Namelen != 255 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAWritableMountListsWhatWasNotDeletedMeanwhile(t *testing.T) {
	m := newWritableMount(t)
	for range 2 { // the second time from what the kernel has kept
		d, err := os.Open(m.at("many"))
		must(t, err)
		seen := 0
		for {
			names, err := d.Readdirnames(7)
			if err == io.EOF {
				break
			}
			must(t, err)
			for _, name := range names {
				must(t, os.Remove(m.at("many/"+name)), os.WriteFile(m.at("many/new-"+fmt.Sprint(seen)), nil, 0o600))
				seen++
			}
		}
		if seen != 1000 {
			t.Errorf("%d names were seen", seen)
		}
		must(t, d.Close())
	}
}

// eventually waits for something that happens by itself: the kernel tells us of a close when it has time.
func eventually(t testing.TB, happened func() bool) {
	t.Helper()
	for range 1000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it did not happen")
}

func TestAnErrorOfTheUpperIsToldAsItIs(t *testing.T) {
	log := lines{make(chan slog.Record, 10)}
	w := newWritable(nil, slog.New(log))
	for _, tc := range []struct {
		err    error
		want   fuse.Status
		logged bool
	}{
		{nil, fuse.OK, false},
		{unix.ENOSPC, fuse.Status(unix.ENOSPC), false},
		{unix.EDQUOT, fuse.Status(unix.EDQUOT), false},
		{unix.ENOSYS, fuse.Status(unix.EOPNOTSUPP), false},
		{unix.EIO, fuse.EIO, true},
		{fmt.Errorf("reading the image: %w", unix.ENOENT), fuse.EIO, true},
	} {
		errors := w.stats.errors.Load()
		if got := w.status(uint64(100+len(log.records)), tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
		if logged := w.stats.errors.Load() > errors; logged != tc.logged {
			t.Errorf("%v: counted %v", tc.err, logged)
		}
	}
	if n := len(log.records); n != 2 {
		t.Errorf("%d lines in the log", n)
	}
}

func TestTheKernelReadsAndWritesTheUpperByItselfWhereItCan(t *testing.T) {
	base := publicDir(t)
	must(t, os.Mkdir(base+"/mnt", 0o755))
	d, err := upper.Open(base+"/upper", &upper.Options{Image: digest.FromString("sample")})
	must(t, err)
	defer d.Close()
	u, err := upper.New(d, sample().tree(t), nil)
	must(t, err)
	defer u.Close()
	w, o := newWritable(u, slog.Default()), (*Options)(nil).withDefaults()
	s, err := thisHost().attachAndServe(base+"/mnt", &attachment{writable: true}, o, w, &w.stats, writableOptions(new(attachment), o))
	must(t, err)
	defer s.Wait()
	defer s.Detach()
	path := base + "/mnt/big-too"
	must(t, os.WriteFile(path, []byte(noise(bigSize)), 0o644))
	reads(t, path, noise(bigSize))
	if direct := w.through.kernel != nil; direct != (s.Stats().Reads == 0) {
		t.Errorf("by itself: %v, but it asked for %d reads", direct, s.Stats().Reads)
	}
	old, err := os.Open(base + "/mnt/big") // as long as it is open that way, it is not read directly
	must(t, err, appendTo(base+"/mnt/big", "more"))
	reads(t, base+"/mnt/big", noise(bigSize)+"more")
	must(t, old.Close())
	if s.Stats().Reads == 0 {
		t.Error("the image's file was not asked for")
	}
}
