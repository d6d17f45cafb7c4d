package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
)

// mappedRoot is who root of newNamespaceHost's user namespace is outside of it.
const mappedRoot = 100000

// newNamespaceHost makes a host whose programs run as root of a user namespace, in a mount namespace of its own. There,
// /dev/fuse is open to all.
func newNamespaceHost(t testing.TB) *host {
	t.Helper()
	get(t, fuseForNamespaces)
	dir, err := os.MkdirTemp(lab.dir, "namespace-")
	if err != nil {
		t.Fatal(err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	keeper := exec.Command("/bin/sh", "-ec", "echo ready; exec cat")
	keeper.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{}, Setpgid: true,
	}
	pid := keep(t, keeper)
	h := &host{dir: dir, uid: mappedRoot}
	h.enter = []string{"nsenter", fmt.Sprintf("--target=%d", pid), "--user", "--mount", "--setuid=0", "--setgid=0", "--"}
	h.setUp(t)
	for _, name := range []string{h.dir, h.path("run")} {
		if err := os.Chown(name, mappedRoot, mappedRoot); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// fuseForNamespaces opens /dev/fuse to all, in the tests' own mount namespace. It returns what is there then.
var fuseForNamespaces = sync.OnceValues(func() (string, error) {
	device := filepath.Join(lab.dir, "fuse")
	err := errors.Join(unix.Mknod(device, unix.S_IFCHR, int(unix.Mkdev(10, 229))), os.Chmod(device, 0o666))
	if err == nil {
		err = unix.Mount(device, "/dev/fuse", "", unix.MS_BIND, "")
	}
	return device, err
})

// keep starts a process that says ready, and keeps it until the test ends.
func keep(t testing.TB, cmd *exec.Cmd) (pid int) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(stdout)
		t.Fatalf("%s: %q, %v\n%s", strings.Join(cmd.Args, " "), line, err, rest)
	}
	return cmd.Process.Pid
}

// A writable is a kind of writable mount that tests run on.
type writable struct {
	name    string
	driver  string
	newHost func(testing.TB) *host
}

// writables are all of them whose root is root, and where owners and devices are real.
var writables = []writable{
	{"kernel", "kernel", newHost},
	{"kernel-namespace", "kernel", newNamespaceHost},
	{"fuse", "fuse", newHost},
	{"fuse-namespace", "fuse", newNamespaceHost},
}

// tarOf makes a tar of a directory, as it is to the host, with all there is to know of its files.
func (h *host) tarOf(t testing.TB, dir string) string {
	t.Helper()
	file := filepath.Join(h.mkdir(t), "image.tar")
	cmd := h.other("tar", "--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "-cf", file, "-C", dir, ".")
	if _, err := peer.RunCmd(cmd); err != nil {
		t.Fatal(err)
	}
	return file
}

// mountUpper mounts an image with an upper directory of the host's. It returns where it is mounted.
func (h *host) mountUpper(t testing.TB, w writable, ref, upper string, flags ...string) string {
	t.Helper()
	return h.mount(t, ref, append([]string{"--upper", filepath.Join(h.dir, upper), "--upper-driver", w.driver}, flags...)...)
}

// shield mounts a directory on itself, with the options that mounts of images have: no devices, no set-uid programs.
func shield(t testing.TB, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
}
