package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// of is a machine with files, whose names say what they are: a program ends in *, a link in @.
func of(t *testing.T, uid int, files map[string]string) *Machine {
	t.Helper()
	m := &Machine{Root: t.TempDir(), UID: uid, User: "joe", Path: []string{"/usr/local/bin", "/usr/bin"}}
	for name, content := range files {
		path := m.at(strings.TrimRight(name, "*@"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch name[len(name)-1] {
		case '@':
			err = os.Symlink(content, path)
		case '*':
			err = os.WriteFile(path, []byte(content), 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// expect compares a finding: its state, a part of what it says, and the command.
func expect(t *testing.T, f Finding, state State, say, fix string) {
	t.Helper()
	if f.State != state || !strings.Contains(f.Detail, say) || f.Fix != fix {
		t.Errorf("the finding is %+v, want %s, %q, %q", f, state, say, fix)
	}
}

const user = 1000

var debian = map[string]string{"/etc/os-release": "NAME=\"Debian\"\nID=debian\n"}

func with(base map[string]string, more ...string) map[string]string {
	all := make(map[string]string)
	for name, content := range base {
		all[name] = content
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

func TestADeviceThatOpensIsFine(t *testing.T) {
	expect(t, of(t, user, with(nil, "/dev/fuse@", "/dev/null")).Device(), OK, "mode 0666", "")
}

func TestADeviceThatIsNotThereIsMissing(t *testing.T) {
	expect(t, of(t, user, nil).Device(), Missing, "--device /dev/fuse", "sudo modprobe fuse")
	expect(t, of(t, 0, nil).Device(), Missing, "no /dev/fuse", "modprobe fuse")
	expect(t, of(t, 0, with(nil, "/dev/fuse", "")).Device(), Missing, "not a device",
		"sh -c 'rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229'")
}

func TestUsersNeedTheHelper(t *testing.T) {
	expect(t, of(t, user, debian).Helper(), Missing, "no fusermount3", "sudo apt-get install fuse3")
	expect(t, of(t, 0, debian).Helper(), Warning, "no fusermount3", "apt-get install fuse3")
	expect(t, of(t, user, nil).Helper(), Missing, "no fusermount3", "")
	m := of(t, user, with(nil, "/usr/bin/fusermount3*", ""))
	expect(t, m.Helper(), Missing, "not set-user-ID", "sudo sh -c 'chown root /usr/bin/fusermount3 && chmod u+s /usr/bin/fusermount3'")
	if err := os.Chmod(m.at("/usr/bin/fusermount3"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	expect(t, m.Helper(), OK, "/usr/bin/fusermount3", "")
	if err := os.MkdirAll(m.at("/proc/self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.at("/proc/self/status"), []byte("Name:\timgfs\nNoNewPrivs:\t1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, m.Helper(), Missing, "no_new_privs", "")
}

func TestPackagesAreThoseOfTheDistribution(t *testing.T) {
	for release, want := range map[string]string{
		"ID=ubuntu\nID_LIKE=debian\n":           "apt-get install fuse3",
		"ID=\"rocky\"\nID_LIKE=\"rhel centos\"": "dnf install fuse3",
		"ID=fedora":                             "dnf install fuse3",
		"ID=opensuse-leap\nID_LIKE='suse'":      "zypper install fuse3",
		"ID=arch":                               "pacman -S fuse3",
		"ID=alpine":                             "apk add fuse3",
		"ID=plan9":                              "",
	} {
		if got := of(t, 0, with(nil, "/etc/os-release", release)).install("fuse3"); got != want {
			t.Errorf("%q: %q, want %q", release, got, want)
		}
	}
}

func TestUserNamespacesAreForbiddenInSeveralWays(t *testing.T) {
	denied := errors.New("operation not permitted")
	for _, tt := range []struct {
		files    []string
		uid      int
		tried    error
		state    State
		say, fix string
	}{
		{nil, user, nil, OK, "one was made", ""},
		{nil, 0, nil, OK, "no setting", ""},
		{nil, user, denied, Warning, "operation not permitted", ""},
		{[]string{"/proc/sys/user/max_user_namespaces", "0\n"}, user, denied, Warning, "max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000"},
		{[]string{"/proc/sys/kernel/unprivileged_userns_clone", "0\n"}, 0, nil, Warning, "userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{[]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"}, user, denied, Warning, "apparmor", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{[]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"}, user, nil, OK, "one was made", ""}, // a profile allows it
		{[]string{"/proc/sys/user/max_user_namespaces", "96365\n", "/proc/sys/kernel/unprivileged_userns_clone", "1\n"}, 0, nil, OK, "no setting", ""},
	} {
		expect(t, of(t, tt.uid, with(nil, tt.files...)).Namespaces(tt.tried), tt.state, tt.say, tt.fix)
	}
}

func TestSubordinateIDsAreCountedAndFreeOnesOffered(t *testing.T) {
	programs := []string{"/usr/bin/newuidmap*", "", "/usr/bin/newgidmap*", ""}
	for _, tt := range []struct {
		uid            int
		subuid, subgid string
		state          State
		fix            string
	}{
		{0, "", "", OK, ""},
		{user, "joe:100000:65536\n", "joe:100000:65536\n", OK, ""},
		{user, "1000:100000:65536\n", "x\njoe:1:y\njoe:100000:30000\njoe:200000:40000\n", OK, ""},
		{user, "", "", Warning, "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 joe"},
		{user, "ann:100000:65536\n", "joe:165536:65536\n", Warning, "sudo usermod --add-subuids 165536-231071 joe"},
		{user, "joe:100000:1000\n", "joe:100000:65536\n", Warning, "sudo usermod --add-subuids 101000-166535 joe"},
	} {
		m := of(t, tt.uid, with(nil, append(programs, "/etc/subuid", tt.subuid, "/etc/subgid", tt.subgid)...))
		expect(t, m.SubIDs(), tt.state, "", tt.fix)
	}
	m := of(t, user, with(debian, "/etc/subuid", "joe:100000:65536", "/etc/subgid", "joe:100000:65536"))
	expect(t, m.SubIDs(), Warning, "newuidmap", "sudo apt-get install uidmap")
}

func TestAKernelIsKnownByItsRelease(t *testing.T) {
	m := of(t, user, nil)
	expect(t, m.Kernel("6.18.44-custom"), OK, "passthrough, mounts with mapped owners", "")
	expect(t, m.Kernel("6.1.0-44-amd64"), OK, "overlayfs in user namespaces; newer ones have passthrough (6.9)", "")
	expect(t, m.Kernel("5.4.0"), OK, "FUSE in user namespaces; newer ones have overlayfs in user namespaces (5.11)", "")
	expect(t, m.Kernel("3.10.0"), OK, "3.10.0; newer ones have FUSE in user namespaces (4.18)", "")
	expect(t, m.Kernel("weird"), Warning, "weird", "")
}

func TestMountHelpersAreLinksToTheProgram(t *testing.T) {
	expect(t, of(t, user, nil).MountHelpers("/opt/my apps/imgfs"), Warning, "fstab",
		"sudo ln -sf '/opt/my apps/imgfs' /sbin/mount.imgfs && sudo ln -sf '/opt/my apps/imgfs' /sbin/mount.fuse.imgfs")
	expect(t, of(t, 0, with(nil, "/sbin/mount.imgfs", "")).MountHelpers("/usr/bin/imgfs"), Warning, "fstab",
		"ln -sf /usr/bin/imgfs /sbin/mount.fuse.imgfs")
	expect(t, of(t, 0, with(nil, "/sbin/mount.imgfs", "", "/sbin/mount.fuse.imgfs", "")).MountHelpers("/usr/bin/imgfs"), OK, "fstab", "")
}

func TestWordsAreQuotedForTheShell(t *testing.T) {
	if got, want := Quote("a-b", "it's", "", "$x", "/p/q_1.0"), `a-b 'it'\''s' '' '$x' /p/q_1.0`; got != want {
		t.Errorf("quoted: %s, want %s", got, want)
	}
}
