package upper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// plainVariable names a directory on a file system without extended attributes. It is set in the processes that run tests.
const plainVariable = "IMGFS_TEST_PLAIN"

// modeVariable is set in the processes that run the tests in the modes of TestInOtherModes.
const modeVariable = "IMGFS_TEST_MODE"

func TestMain(m *testing.M) {
	if os.Getenv(plainVariable) != "" {
		os.Exit(m.Run())
	}
	os.Exit(isolated())
}

// isolated runs the tests in a mount namespace of their own, in which there is a ramfs.
func isolated() int {
	dir, err := os.MkdirTemp("", "imgfs-upper-test")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	const setUp = `set -e
		mount -t ramfs -o mode=1777 none "$0"
		exec "$@"`
	exe, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", setUp, dir, exe}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), plainVariable+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// thisMode is the mode that this process's uppers are in.
func thisMode() Mode {
	switch os.Getenv(modeVariable) {
	case Namespaced.String():
		return Namespaced
	case Recorded.String():
		return Recorded
	}
	return Trusted
}

// TestInOtherModes runs all tests of this package once more as root of a user namespace, and as a user.
func TestInOtherModes(t *testing.T) {
	if thisMode() != Trusted {
		return
	}
	exe, err := os.Open("/proc/self/exe") // where it is, others may not look
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for mode, attr := range map[Mode]*syscall.SysProcAttr{
		Namespaced: {
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{},
		},
		Recorded: {Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			cmd := exec.Command("/proc/self/fd/3", "-test.v")
			cmd.Env = append(os.Environ(), modeVariable+"="+mode.String())
			cmd.ExtraFiles = []*os.File{exe}
			attr.Pdeathsig = syscall.SIGKILL
			cmd.SysProcAttr = attr
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
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

// mkfifo makes a FIFO.
func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
