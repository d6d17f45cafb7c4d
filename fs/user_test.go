package fs

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// userDir is an empty directory of nobody.
func userDir(t testing.TB) string {
	t.Helper()
	dir := publicDir(t)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAUserMountsThroughTheHelper(t *testing.T) {
	dir := userDir(t)
	server := start(t, nobody, "serve", dir, "noexec").ready(t)
	m := entry(t, dir)
	if m.FSType != "fuse.imgfs" || m.Source != `sample, as \ itself` {
		t.Errorf("type %q, source %q", m.FSType, m.Source)
	}
	for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if !strings.Contains(","+m.Options+",", ","+o+",") {
			t.Errorf("options %s are without %s", m.Options, o)
		}
	}
	play(t, nobody, "compare", dir)
	if _, err := os.Stat(filepath.Join(dir, "etc")); !os.IsPermission(err) {
		t.Errorf("root sees another's mount: %v", err)
	}
	server.in.Close() // which makes it unmount
	if err := server.Wait(); err != nil {
		t.Errorf("server: %v", err)
	}
	if m, ok, err := MountAt(dir); ok || err != nil {
		t.Errorf("after the unmount: %v, %v", m, err)
	}
}

func TestAUserIsToldWhatHeMayNot(t *testing.T) {
	foreign := publicDir(t)
	if err := os.Chmod(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	closed := publicDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(closed, "below")
	if err := os.Mkdir(below, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{userDir(t), "suid"}, "leave out --suid and --dev, or run as root"},
		{[]string{userDir(t), "dev"}, "leave out --suid and --dev, or run as root"},
		{[]string{userDir(t), "allow_other"}, "have root add the line user_allow_other to /etc/fuse.conf"},
		{[]string{foreign}, "no permission (choose a directory that you can read and write)"},
		{[]string{closed}, "no permission"},
		{[]string{below}, "no permission"},
	} {
		for _, role := range []string{"check", "serve"} {
			if line := start(t, nobody, role, tc.args...).line(t); !strings.Contains(line, tc.says) {
				t.Errorf("%s %v: %q does not say %q", role, tc.args, line, tc.says)
			}
		}
		if m, err := topmost(tc.args[0]); m != nil || err != nil {
			t.Errorf("%v: left mounted: %v, %v", tc.args, m, err)
		}
	}
}

func TestAUserIsToldThatTheDeviceIsClosed(t *testing.T) {
	if err := os.Chmod("/dev/fuse", 0o600); err != nil { // of the tests' own mount namespace
		t.Fatal(err)
	}
	defer os.Chmod("/dev/fuse", 0o666)
	for _, role := range []string{"check", "serve"} {
		if line := start(t, nobody, role, userDir(t)).line(t); !strings.Contains(line, "chmod 666 /dev/fuse") {
			t.Errorf("%s says %q", role, line)
		}
	}
}

func TestAUserMayLetOthersInIfTheHelpersConfigurationSaysSo(t *testing.T) {
	config := publicDir(t) + "/fuse.conf"
	if err := os.WriteFile(config, []byte("user_allow_other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(config, "/etc/fuse.conf", "", unix.MS_BIND, ""); err != nil { // in the tests' own namespace
		t.Fatal(err)
	}
	defer unix.Unmount("/etc/fuse.conf", 0)
	dir := userDir(t)
	play(t, nobody, "check", dir, "allow_other")
	start(t, nobody, "serve", dir, "allow_other").ready(t)
	play(t, 0, "compare", dir)
	if err := Unmount(dir, false); err != nil {
		t.Error(err)
	}
}

func TestWhatTheHelperSaysComesWithWhatToDo(t *testing.T) {
	for said, fix := range map[string]string{
		"fusermount3: mount failed: Operation not permitted":                        "is fusermount3 set-uid root?",
		"fusermount3: option allow_other only allowed if 'user_allow_other' is set": "leave out --allow-other",
		"fusermount3: too many FUSE filesystems mounted; mount_max=N":               "have root raise mount_max",
	} {
		err := helperRefused("/mnt", &helperError{said: said})
		if !strings.Contains(err.Error(), said) || !strings.Contains(err.Error(), fix) {
			t.Errorf("%q does not say %q", err, fix)
		}
	}
}

func TestRootOfAUserNamespaceMountsByItself(t *testing.T) {
	p := prepare(t, 0, "namespace", publicDir(t))
	p.SysProcAttr = namespaces(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS)
	p.begin(t)
	p.ready(t)
}

func TestRootWithoutTheCapabilityMountsThroughTheHelper(t *testing.T) {
	dir := publicDir(t)
	play(t, 0, "uncapable", dir)
	if err := Unmount(dir, false); err != nil {
		t.Error(err)
	}
}

func TestRootUnmountsAUsersMount(t *testing.T) {
	dir := userDir(t)
	server := start(t, nobody, "serve", dir).ready(t)
	if err := Unmount(dir, false); err != nil {
		t.Error(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestAUserClearsHisDeadMount(t *testing.T) {
	dir := userDir(t)
	kill(t, start(t, nobody, "serve", dir).ready(t))
	play(t, nobody, "unmount", dir)
	if m, err := topmost(dir); m != nil || err != nil {
		t.Errorf("still there: %v, %v", m, err)
	}
}

func TestAUserIsToldThatHisMountIsInUse(t *testing.T) {
	dir := userDir(t)
	start(t, nobody, "serve", dir).ready(t)
	holder := start(t, nobody, "hold", dir).ready(t)
	if line := start(t, nobody, "unmount", dir).line(t); !strings.Contains(line, "in use") {
		t.Errorf("unmount says %q", line)
	}
	kill(t, holder)
	play(t, nobody, "unmount", dir)
}

func TestAUserDoesNotUnmountAnothers(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	if line := start(t, nobody, "unmount", s.Dir()).line(t); !strings.Contains(line, "unmount "+s.Dir()+": ") {
		t.Errorf("unmount says %q", line)
	}
	if err := compare(s.Dir(), tree); err != nil {
		t.Error(err)
	}
}
