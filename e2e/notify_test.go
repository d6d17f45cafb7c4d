package e2e

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A supervisor is what systemd is to a service of Type=notify.
type supervisor struct{ *net.UnixConn }

func newSupervisor(t *testing.T, address string) supervisor {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return supervisor{c}
}

// next is what it is told next.
func (s supervisor) next(t *testing.T, patience time.Duration) string {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := s.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func TestAForegroundMountTellsItsSupervisor(t *testing.T) {
	h := newHost(t)
	for kind, address := range map[string]string{"a path": h.path("notify"), "abstract": "@imgfs-test-" + h.dir} {
		t.Run(kind, func(t *testing.T) {
			s, dir := newSupervisor(t, address), h.mkdir(t)
			cmd := h.command("mount", "-f", small(t), dir)
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+address)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if got, want := s.next(t, time.Minute), "STATUS=Mounting at "+dir; got != want {
				t.Errorf("at first it is told %q, want %q", got, want)
			}
			if got := s.next(t, time.Minute); !strings.HasPrefix(got, "READY=1\nSTATUS=") || !strings.HasSuffix(got, dir) {
				t.Errorf("then it is told %q", got)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) == 0 || h.state(t, dir) == nil {
				t.Errorf("when it is told, the mount has %d names (%v), and ps says %+v", len(names), err, h.state(t, dir))
			}
			kill(t, cmd.Process.Pid, syscall.SIGTERM)
			if got := s.next(t, time.Minute); got != "STOPPING=1" {
				t.Errorf("at the end it is told %q", got)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// Who mounts from within a service is not the service.
func TestAMountInTheBackgroundTellsNobody(t *testing.T) {
	h := newHost(t)
	s, dir := newSupervisor(t, h.path("notify")), h.mkdir(t)
	cmd := h.command("mount", small(t), dir)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("notify"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.umount(t, dir)
	if got := s.next(t, time.Nanosecond); !strings.Contains(got, "timeout") {
		t.Errorf("it is told %q", got)
	}
}

func TestAMountWhoseSupervisorIsGoneGoesOn(t *testing.T) {
	h := newHost(t)
	dir := h.mkdir(t)
	cmd := h.command("mount", "-f", small(t), dir)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("nobody"))
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mount is listed", func() bool { return h.state(t, dir) != nil })
	h.umount(t, dir)
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "NOTIFY_SOCKET") {
		t.Errorf("it ended with %v, and said %q", err, said.String())
	}
}
