package fs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// roleVariable makes the test binary play a role instead of running tests: tests start it again as another user, to be
// killed, or to do in another process what would hang a process that serves its own mount.
const roleVariable = "IMGFS_TEST_ROLE"

// roles take the arguments of the command line, and print "ok" when they are done or ready.
var roles = map[string]func(args []string) error{
	"check":         checkRole,
	"compare":       compareRole,
	"hold":          holdRole,
	"mmap":          mmapRole,
	"namespace":     namespaceRole,
	"overlay":       overlayRole,
	"serve":         serveRole,
	"storm":         stormRole,
	"uncapable":     uncapableRole,
	"writable":      writableRole,
	"writable-open": openRole,
	"unmount":       func(args []string) error { return Unmount(args[0], false) },
}

func TestMain(m *testing.M) {
	switch name := os.Getenv(roleVariable); name {
	case "":
		os.Exit(isolated())
	case "tests":
		os.Exit(m.Run())
	default:
		if err := roles[name](os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ok")
	}
}

// isolated runs the tests in a mount namespace of their own, which takes all that they leave mounted with it when it
// ends, and has a /dev/fuse that every user may open, as it is on most machines but not on all.
func isolated() int {
	dir, err := os.MkdirTemp("", "imgfs-fs-test")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	const setUp = `set -e
		mount -t tmpfs -o mode=755 none "$0"
		mknod -m 666 "$0/fuse" c 10 229
		mount --bind "$0/fuse" /dev/fuse
		cp "$1" "$0/fs.test"
		shift
		exec "$0/fs.test" "$@"`
	exe, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", setUp, dir, exe}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), roleVariable+"=tests")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// nobody is the user that tests without privilege run as.
const nobody = 65534

// A process plays a role.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a role as a user. What it prints is read by the test; it ends with the test at the latest.
func start(t testing.TB, uid uint32, role string, args ...string) *process {
	t.Helper()
	p := prepare(t, uid, role, args...)
	p.begin(t)
	return p
}

func prepare(t testing.TB, uid uint32, role string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	if uid != uint32(os.Geteuid()) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &process{cmd, in, bufio.NewReader(out)}
}

func (p *process) begin(t testing.TB) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
}

// line reads a line that the role prints.
func (p *process) line(t testing.TB) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil && line == "" {
		t.Fatalf("%s said nothing: %v", p.Args, err)
	}
	return strings.TrimSpace(line)
}

// ready waits for the role's "ok".
func (p *process) ready(t testing.TB) *process {
	t.Helper()
	if line := p.line(t); line != "ok" {
		rest, _ := io.ReadAll(p.out)
		t.Fatalf("%s: %s\n%s", p.Args, line, rest)
	}
	return p
}

// play runs a role to its end.
func play(t testing.TB, uid uint32, role string, args ...string) {
	t.Helper()
	start(t, uid, role, args...).ready(t)
}

// publicDir is a temporary directory that every user may use.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "imgfs-fs-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lines is the handler of a logger whose lines a test looks at.
type lines struct{ records chan slog.Record }

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l lines) WithGroup(string) slog.Handler            { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	select {
	case l.records <- r:
		return nil
	default:
		return errors.New("too many lines")
	}
}
