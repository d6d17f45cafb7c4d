package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A background mount is this program started once more, in a session of its own. The command line goes to it through
// its standard input, not its arguments: those are for everybody to see for as long as the mount lives, and there may be
// a password among the flags. On descriptor 3 it says when the mount is usable; until then it shares stderr, so
// progress and errors come out where they are looked for, and its exit code is the parent's.

const (
	childEnv = "IMGFS_BACKGROUND_CHILD"
	readyFD  = 3
)

// isChild tells whether this process is the one in the background.
var isChild bool

// commandLine returns the arguments to run, without the program's name.
func commandLine() ([]string, error) {
	if os.Getenv(childEnv) == "" {
		return os.Args[1:], nil
	}
	os.Unsetenv(childEnv)
	isChild = true
	// For ps and top; /proc/self/exe would be "exe".
	_ = os.WriteFile("/proc/self/comm", []byte("imgfs"), 0)
	unix.CloseOnExec(readyFD)
	go endWithParent()
	var args []string
	if err := json.NewDecoder(os.Stdin).Decode(&args); err != nil {
		return nil, fmt.Errorf("background process: command line: %w", err)
	}
	return args, redirect(os.Stdin, os.DevNull, os.O_RDONLY)
}

// detached tells that the parent has ended in good order.
var detached atomic.Bool

// endWithParent ends a background process whose parent was killed before the mount was usable.
func endWithParent() {
	for !detached.Load() {
		fds := []unix.PollFd{{Fd: readyFD}} // POLLERR: the parent's end of the pipe is closed
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		}
		if !detached.Load() {
			unix.Kill(os.Getpid(), unix.SIGTERM)
		}
		return
	}
}

// An exitError ends the program with a code where there is nothing left to say: two images differ, or the process that ran in
// the program's place has said what was wrong.
type exitError struct{ code int }

func (e exitError) Error() string {
	return fmt.Sprintf("exit code %d", e.code)
}

// runInBackground starts this command line in the background and returns once the mount is usable, with where it is.
// shown is what ps(1) shows of it.
func runInBackground(ctx context.Context, args, shown []string, stderr io.Writer) (mountpoint string, err error) {
	line, err := json.Marshal(args)
	if err != nil {
		return "", err
	}
	ready, readyW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"mount"}, shown...)...)
	cmd.Args[0] = "imgfs"
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.ExtraFiles = []*os.File{readyW}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The mount outlives its caller, whose files (a lock, the end of a pipe) are none of its business.
	// Kernels before 5.11 can't do it, and hand them on.
	_ = unix.CloseRange(readyFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	readyW.Close()
	if err != nil {
		return "", fmt.Errorf("start in the background: %w", err)
	}
	// A child that died reads nothing: its exit code tells more than this error would.
	_, _ = stdin.Write(line)
	stdin.Close()

	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	mountpoint, err = bufio.NewReader(ready).ReadString(0)
	if err == nil && stop() {
		return strings.TrimSuffix(mountpoint, "\x00"), cmd.Process.Release()
	}
	// The child is dead, or about to be.
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return "", exitError{exit.ExitCode()}
	}
	return "", fmt.Errorf("the mounting process ended: %w", errors.Join(err, ctx.Err()))
}

// detach is called in the background process when the mount is usable: it tells the parent, and lets go of its terminal.
// From here on stderr is the log file at logPath.
func detach(mountpoint, logPath string) error {
	ready := os.NewFile(readyFD, "ready")
	defer ready.Close()
	if err := redirect(os.Stderr, logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	detached.Store(true)
	_, err := ready.WriteString(mountpoint + "\x00")
	return err
}

// redirect makes f's descriptor one of the file at path.
func redirect(f *os.File, path string, flags int) error {
	to, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	return unix.Dup3(int(to.Fd()), int(f.Fd()), 0)
}
