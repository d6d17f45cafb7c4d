package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// attachByHelper has the helper mount and hand over the device, by the protocol of libfuse: it sends the descriptor
// over the socket whose number is in _FUSE_COMMFD.
func (h host) attachByHelper(dir string, a *attachment, o *Options) (int, error) {
	helper := h.helperPath()
	if helper == "" {
		return -1, noHelper(dir, h.helper)
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return -1, &MountError{Op: "mount", Dir: dir, Problem: "no socket for " + h.helper + ": " + err.Error(), Err: err}
	}
	defer ours.Close()
	cmd := exec.Command(helper, "-o", h.helperOptions(a, o), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	err = runHelper(cmd)
	theirs.Close() // so that a helper that sent nothing is the end of the file
	if err != nil {
		return -1, helperRefused(dir, err)
	}
	device, err := receiveFD(ours)
	if err != nil {
		return -1, &MountError{Op: "mount", Dir: dir, Problem: h.helper + " gave no device: " + err.Error(), Err: err}
	}
	return device, nil
}

// helperOptions are the helper's -o. It adds nosuid and nodev by itself for all but root.
func (h host) helperOptions(a *attachment, o *Options) string {
	options := []string{"subtype=" + Subtype, "fsname=" + escapeOption(o.Name)}
	if a.writable {
		options = append(options, "rw")
	} else {
		options = append(options, "ro")
	}
	if !a.serverDecides {
		options = append(options, "default_permissions")
	}
	for _, flag := range []struct {
		on      bool
		yes, no string
	}{{o.Suid, "suid", "nosuid"}, {o.Dev, "dev", "nodev"}, {!o.NoExec, "exec", "noexec"}} {
		if flag.on {
			options = append(options, flag.yes)
		} else {
			options = append(options, flag.no)
		}
	}
	if o.AllowOther || h.root {
		options = append(options, "allow_other")
	}
	return strings.Join(options, ",")
}

// escapeOption escapes what has a meaning in a list of options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

const allowOtherFix = "leave out --allow-other, or have root add the line user_allow_other to /etc/fuse.conf"

// helperRefused adds what to do to what the helper said.
func helperRefused(dir string, err error) error {
	e := &MountError{Op: "mount", Dir: dir, Problem: err.Error(), Err: err}
	switch said := err.Error(); {
	case strings.Contains(said, "user_allow_other"):
		e.Fix = allowOtherFix
	case strings.Contains(said, "mount_max"):
		e.Fix = "unmount another file system, or have root raise mount_max in /etc/fuse.conf"
	case errors.Is(err, unix.EPERM):
		e.Fix = "is fusermount3 set-uid root? reinstall fuse3; a container may forbid it (no-new-privileges)"
	}
	return e
}

// detachByHelper unmounts a mount of this user.
func (h host) detachByHelper(dir string, lazy bool) error {
	helper := h.helperPath()
	if helper == "" {
		return fmt.Errorf("there is no %s: install fuse3: %w", h.helper, exec.ErrNotFound)
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	return runHelper(exec.Command(helper, append(args, "--", dir)...))
}

// helperPath finds the helper, also where PATH is none, or returns "".
func (h host) helperPath() string {
	for _, dir := range []string{"", "/usr/bin/", "/bin/"} {
		if path, err := exec.LookPath(dir + h.helper); err == nil {
			return path
		}
	}
	return ""
}

// runHelper runs the helper and returns an error with what it had to say.
func runHelper(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return &helperError{said: strings.TrimSpace(said.String()), err: err}
}

// A helperError is what the helper said as it failed. It is the errno that it named, where a caller branches on it.
type helperError struct {
	said string
	err  error // how it ended
}

func (e *helperError) Error() string {
	if e.said == "" {
		return "fusermount3: " + e.err.Error()
	}
	return e.said
}

func (e *helperError) Is(target error) bool {
	errno, ok := target.(syscall.Errno)
	return ok && strings.HasSuffix(strings.ToLower(e.said), strings.ToLower(errno.Error()))
}

func socketpair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// receiveFD takes the one descriptor that comes over a socket with a byte of data.
func receiveFD(socket *os.File) (int, error) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	data := make([]byte, 1)
	control := make([]byte, unix.CmsgSpace(4))
	var n int
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = ignoringEINTR(func() (err error) {
			_, n, _, _, err = unix.Recvmsg(int(fd), data, control, unix.MSG_CMSG_CLOEXEC)
			return err
		})
	})
	if err := errors.Join(err, failed); err != nil {
		return -1, err
	}
	return parseFD(control[:n])
}

func parseFD(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) > 0 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor in the message")
}
