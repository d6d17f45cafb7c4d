package fs

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAWritableMountTakesPrivilegesFromWhatOthersChange(t *testing.T) {
	if isUser() {
		return // there are no others
	}
	m := newWritableMount(t)
	for name, change := range map[string]string{
		"write": "echo >> %s", "truncate": "truncate -s 1 %s", "open": ": > %s", "chown": "chown 1 %s",
	} {
		path := m.at(name)
		must(t, os.WriteFile(path, []byte("text"), 0o755), unix.Chmod(path, 0o6777), unix.Setxattr(path, "security.capability", []byte(capability), 0))
		cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf(change, path))
		if name != "chown" { // which takes them from root, too
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", name, err, out)
		}
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Mode&0o7777 != 0o777 {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
		if n, err := unix.Getxattr(path, "security.capability", make([]byte, 100)); err != unix.ENODATA {
			t.Errorf("%s: capability of %d bytes, %v", name, n, err)
		}
	}
}

func TestAWritableMountTakesPrivilegesThatCameAfterTheOpen(t *testing.T) {
	if isUser() {
		return // there are no others
	}
	m := newWritableMount(t)
	path := m.at("later")
	must(t, os.WriteFile(path, nil, 0o777), os.Chmod(path, 0o777))
	ofRoot := uint32(0o6777)
	if os.Getenv(modeVariable) != "" {
		ofRoot = 0o777 // root of a user namespace is not who may keep them
	}
	for uid, want := range map[uint32]uint32{0: ofRoot, 1000: 0o777} {
		cmd := exec.Command("/bin/sh", "-ec", "exec 3>>"+path+"; echo open; read x; echo more >&3")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}}
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		_, err = out.Read(make([]byte, 5))
		must(t, err, unix.Chmod(path, 0o6777))
		_, err = in.Write([]byte("go on\n"))
		must(t, err, cmd.Wait())
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Mode&0o7777 != want {
			t.Errorf("user %d: mode %o, want %o", uid, st.Mode, want)
		}
	}
}

func TestAWritableMountGivesNewFilesTheDirectorysACLAndGroup(t *testing.T) {
	if isUser() {
		return // whose ACLs are kept, and mean nothing
	}
	m := newWritableMount(t)
	must(t, os.Mkdir(m.at("shared"), 0o755), unix.Setxattr(m.at("shared"), "system.posix_acl_default", []byte(acl), 0),
		os.Chown(m.at("shared"), 0, 7), unix.Chmod(m.at("shared"), 0o2755), os.WriteFile(m.at("shared/hidden"), nil, 0o644), os.Remove(m.at("shared/hidden")),
		os.WriteFile(m.at("shared/file"), nil, 0o666), os.Mkdir(m.at("shared/dir"), 0o777), os.WriteFile(m.at("setgid/file"), nil, 0o666), os.Mkdir(m.at("setgid/dir"), 0o777))
	for path, want := range map[string]uint32{"shared/file": 0o660, "shared/dir": 0o2660, "setgid/file": 0o644, "setgid/dir": 0o2755} {
		var st unix.Stat_t
		must(t, unix.Stat(m.at(path), &st))
		gid := uint32(0)
		if strings.HasPrefix(path, "shared") {
			gid = 7
		}
		if st.Mode&0o7777 != want || st.Gid != gid {
			t.Errorf("%s: mode %o, group %d, want %o, %d", path, st.Mode, st.Gid, want, gid)
		}
	}
	if n, err := unix.Getxattr(m.at("shared/dir"), "system.posix_acl_default", make([]byte, 100)); n != len(acl) || err != nil {
		t.Errorf("a directory's default ACL has %d bytes, %v", n, err)
	}
	if n, err := unix.Getxattr(m.at("shared/file"), "system.posix_acl_access", make([]byte, 100)); n != len(acl) || err != nil {
		t.Errorf("a file's ACL has %d bytes, %v", n, err)
	}
}

func TestAWritableMountOfAUserMakesHimRoot(t *testing.T) {
	if !isUser() {
		return
	}
	m := newWritableMount(t)
	must(t, os.WriteFile(m.at("nobody"), []byte("changed\n"), 0), os.Chmod(m.at("nobody"), 0), os.Chown(m.at("etc"), 33, 44), appendTo(m.at("owner"), "x"))
	for range 2 {
		reads(t, m.at("nobody"), "changed\n")
		for path, want := range map[string]unix.Stat_t{
			"nobody": {Mode: unix.S_IFREG, Uid: nobody, Gid: nobody}, "etc": {Mode: unix.S_IFDIR | 0o755, Uid: 33, Gid: 44},
			"empty": {Mode: unix.S_IFREG | 0o644, Uid: nobody, Gid: nobody}, "owner": {Mode: unix.S_IFREG | 0o640, Uid: 1<<32 - 2, Gid: 1<<32 - 2},
		} {
			var st unix.Stat_t
			must(t, unix.Lstat(m.at(path), &st))
			if st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid {
				t.Errorf("%s: %o %d:%d, want %o %d:%d", path, st.Mode, st.Uid, st.Gid, want.Mode, want.Uid, want.Gid)
			}
		}
		m.unmount()
		m.mount()
	}
}

func TestAUsersWritableMountIsHisAlone(t *testing.T) {
	base := publicDir(t)
	must(t, os.Chown(base, nobody, nobody))
	p := start(t, nobody, "writable-open", base)
	if line := p.line(t); !strings.Contains(line, "his alone") {
		t.Errorf("said %q", line)
	}
}

// openRole tries to let others into a user's writable mount.
func openRole(args []string) error {
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	_, _, err = mountUpper(args[0], tree, &Options{AllowOther: true})
	return err
}
