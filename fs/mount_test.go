package fs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// mounted mounts a tree for the length of a test.
func mounted(t testing.TB, tree *layers.Tree, o *Options) *Server {
	t.Helper()
	s, err := Mount(publicDir(t), tree, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			s.Detach()
		}
		s.Wait()
	})
	return s
}

func TestTheMountIsTheTree(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	for range 2 { // from the server, and from the kernel's caches
		if err := compare(s.Dir(), tree); err != nil {
			t.Error(err)
		}
	}
}

func TestOtherUsersSeeARootsMountByTheImagesPermissions(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	play(t, nobody, "compare", s.Dir())
}

func TestTheMountTableShowsWhatIsMounted(t *testing.T) {
	for _, tc := range []struct {
		o           *Options
		name        string
		has, hasNot []string
	}{
		{nil, "imgfs", []string{"ro", "nosuid", "nodev"}, []string{"noexec"}},
		{&Options{NoExec: true}, "imgfs", []string{"ro", "nosuid", "nodev", "noexec"}, nil},
		{&Options{Name: "docker://alpine, the #1 \\ of all"}, "docker://alpine, the #1 \\ of all", []string{"ro"}, nil},
		{&Options{Suid: true}, "imgfs", []string{"ro", "nodev"}, []string{"nosuid"}},
		{&Options{Dev: true}, "imgfs", []string{"ro", "nosuid"}, []string{"nodev"}},
	} {
		s := mounted(t, sample().tree(t), tc.o)
		m := entry(t, s.Dir())
		if m.FSType != "fuse.imgfs" || m.Source != tc.name {
			t.Errorf("%+v: type %q, source %q", tc.o, m.FSType, m.Source)
		}
		options := "," + m.Options + ","
		for _, o := range tc.has {
			if !strings.Contains(options, ","+o+",") {
				t.Errorf("%+v: options %s are without %s", tc.o, m.Options, o)
			}
		}
		for _, o := range tc.hasNot {
			if strings.Contains(options, ","+o+",") {
				t.Errorf("%+v: options %s have %s", tc.o, m.Options, o)
			}
		}
		for _, o := range []string{"ro", "default_permissions", "allow_other"} {
			if !strings.Contains(","+m.VFSOptions+",", ","+o+",") {
				t.Errorf("%+v: file system options %s are without %s", tc.o, m.VFSOptions, o)
			}
		}
	}
}

// entry is the entry of the mount table for a directory.
func entry(t testing.TB, dir string) *mountinfo.Info {
	t.Helper()
	m, err := topmost(dir)
	if err != nil || m == nil {
		t.Fatalf("%s is not in the mount table: %v", dir, err)
	}
	return m
}

func TestMountsAreListed(t *testing.T) {
	s := mounted(t, sample().tree(t), &Options{Name: "one"})
	infos, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	want := Info{Dir: s.Dir(), Name: "one"}
	found := 0
	for _, i := range infos {
		if i == want {
			found++
		}
	}
	if found != 1 {
		t.Errorf("%v has %v %d times", infos, want, found)
	}
	if want.Dead() {
		t.Error("a live mount is said to be dead")
	}
	link := filepath.Join(publicDir(t), "link")
	if err := os.Symlink(s.Dir(), link); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := MountAt(link); got != want || !ok || err != nil {
		t.Errorf("through a symlink: %v, %v, %v", got, ok, err)
	}
	if got, ok, err := MountAt(publicDir(t)); ok || err != nil {
		t.Errorf("where nothing is mounted: %v, %v", got, err)
	}
	if got, ok, err := MountAt("/proc"); ok || err != nil {
		t.Errorf("where another file system is mounted: %v, %v", got, err)
	}
}

func TestTheKernelReadsFarAhead(t *testing.T) {
	m := entry(t, mounted(t, sample().tree(t), nil).Dir())
	got, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", m.Major, m.Minor))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintln(readAheadKiB); string(got) != want {
		t.Errorf("read_ahead_kb is %swant %s", got, want)
	}
}

func TestStatfsHasRealFigures(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	var got unix.Statfs_t
	if err := unix.Statfs(s.Dir(), &got); err != nil {
		t.Fatal(err)
	}
	files, bytes := tree.Usage()
	want := unix.Statfs_t{
		Type: unix.FUSE_SUPER_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: 255,
		Blocks: (bytes + 4095) / 4096, Files: files,
		Fsid: got.Fsid, Flags: unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RELATIME | 0x20, // ST_VALID
	}
	if got != want {
		t.Errorf("got\n\t%+v, want\n\t%+v", got, want)
	}
}

func TestADirectoryThatCannotBeMountedOnIsRefusedWithWhatToDo(t *testing.T) {
	tree := sample().tree(t)
	live := mounted(t, tree, &Options{Name: "docker://live"})
	dir := publicDir(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(path("file"), nil, 0o644), os.MkdirAll(path("full/x"), 0o755),
		os.Symlink(live.Dir(), path("link")), os.Symlink("loop", path("loop")),
		os.Symlink("none", path("dangling")), os.Mkdir(path("empty"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	user := host{device: "/dev/fuse", helper: "fusermount3", configs: []string{path("none")}}
	for _, tc := range []struct {
		host  host
		dir   string
		o     *Options
		says  string
		cause error
	}{
		{thisHost(), path("none/x"), nil, "no such directory (make it with mkdir -p)", syscall.ENOENT},
		{thisHost(), path("dangling"), nil, "no such directory", syscall.ENOENT},
		{thisHost(), path("none"), nil, "no such directory (make it with mkdir -p)", syscall.ENOENT},
		{thisHost(), path("file"), nil, "not a directory", syscall.ENOTDIR},
		{thisHost(), path("file/x"), nil, "can't be reached", syscall.ENOTDIR},
		{thisHost(), path("loop"), nil, "can't be reached", syscall.ELOOP},
		{thisHost(), path("full"), nil, "not empty (choose an empty directory)", syscall.ENOTEMPTY},
		{thisHost(), live.Dir(), nil, "docker://live is mounted there", syscall.EBUSY},
		{thisHost(), path("link"), nil, "docker://live is mounted there (unmount it with imgfs umount)", syscall.EBUSY},
		{thisHost(), "/proc", nil, "a proc file system is mounted there", syscall.EBUSY},
		{thisHost(), "/", nil, "file system is mounted there", syscall.EBUSY},
		{host{device: path("none"), root: true}, path("empty"), nil, "modprobe fuse", syscall.ENOENT},
		{host{device: path("none"), helper: "fusermount3"}, path("empty"), nil, "--device " + path("none"), syscall.ENOENT},
		{host{device: "/dev/fuse", helper: "none"}, path("empty"), nil, "there is no none (install fuse3)", exec.ErrNotFound},
		{host{}, path("empty"), &Options{Suid: true}, "leave out --suid and --dev", syscall.EPERM},
		{host{}, path("empty"), &Options{Dev: true}, "leave out --suid and --dev", syscall.EPERM},
		{host{device: path("empty"), root: true}, path("empty"), nil, "can't be opened", syscall.EISDIR},
		{user, path("empty"), &Options{AllowOther: true}, "leave out --allow-other", syscall.EPERM},
	} {
		_, err := tc.host.check(tc.dir, tc.o.withDefaults())
		wantRefusal(t, err, tc.dir, tc.says, tc.cause)
		_, err = tc.host.mount(tc.dir, tree, tc.o)
		wantRefusal(t, err, tc.dir, tc.says, tc.cause)
		if m, err := topmost(tc.dir); err != nil || m != nil && strings.HasPrefix(tc.dir, dir) {
			t.Errorf("%s: left mounted: %v, %v", tc.dir, m, err)
		}
	}
}

// wantRefusal checks an error of Mount or Check.
func wantRefusal(t *testing.T, err error, dir, says string, cause error) {
	t.Helper()
	var m *MountError
	if !errors.Is(err, ErrMount) || !errors.As(err, &m) || m.Op != "mount" || m.Dir != dir {
		t.Fatalf("%s: %#v is no mount error of it", dir, err)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %q does not say %q", dir, err, says)
	}
	if !errors.Is(err, cause) {
		t.Errorf("%s: %q is not %v", dir, err, cause)
	}
}

func TestADeviceThatIsNotFUSEsIsRefused(t *testing.T) {
	dir := publicDir(t)
	_, err := host{device: "/dev/null", root: true}.mount(dir, sample().tree(t), nil)
	wantRefusal(t, err, dir, "mount(2): invalid argument", syscall.EINVAL)
}

func TestTheHelpersConfigurationIsReadAsTheHelperReadsIt(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "user_allow_other\n": true, "mount_max = 7\n \tuser_allow_other # yes\n": true,
		"#user_allow_other\n": false, "user_allow_other = 1\n": false, "user_allow_others\n": false,
	} {
		config := filepath.Join(t.TempDir(), "fuse.conf")
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := (host{configs: []string{config + ".none", config}}).permitsOthers(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestACheckMountsNothing(t *testing.T) {
	dir := publicDir(t)
	link := filepath.Join(publicDir(t), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if got, err := Check(link, nil); got != dir || err != nil {
		t.Errorf("a good directory: %q, %v, want %q", got, err, dir)
	}
	if m, err := topmost(dir); m != nil || err != nil {
		t.Errorf("mounted: %v, %v", m, err)
	}
}

func TestOwnersCanBeMapped(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	clone, err := unix.OpenTree(unix.AT_FDCWD, s.Dir(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(clone)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNamespace(t))}
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, attr); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(clone, "etc/hostname", &st, 0); err != nil {
		t.Fatal(err)
	}
	if st.Uid != mappedTo || st.Gid != mappedTo {
		t.Errorf("owners are %d:%d, want %d", st.Uid, st.Gid, mappedTo)
	}
}
