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

	"golang.org/x/sys/unix"
)

func TestAMountInUseStaysUntilItIsFree(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	fd := opened(t, s.Dir()+"/etc")
	for _, err := range []error{s.Unmount(), Unmount(s.Dir(), false)} {
		if !errors.Is(err, syscall.EBUSY) || !errors.Is(err, ErrMount) || !strings.Contains(err.Error(), "in use") {
			t.Errorf("in use: %v", err)
		}
	}
	if _, err := readFile(s.Dir()+"/etc/hostname", 10); err != nil {
		t.Errorf("after a refused unmount: %v", err)
	}
	unix.Dup2(opened(t, "/"), fd)
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	s.Wait()
	if err := s.Unmount(); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestADetachedMountServesItsLastUser(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	fd := opened(t, s.Dir())
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	if m, err := topmost(s.Dir()); m != nil || err != nil {
		t.Errorf("still there: %v, %v", m, err)
	}
	file, err := unix.Openat(fd, "etc/hostname", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := unix.Read(file, buf); string(buf[:n]) != "imgfs\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	unix.Close(file)
	select {
	case <-s.done:
		t.Error("gone while in use")
	default:
	}
	unix.Dup2(opened(t, "/"), fd)
	s.Wait()
}

func TestWaitReturnsWhoeverUnmounts(t *testing.T) {
	for name, unmount := range map[string]func(dir string) error{
		"umount(8)":    func(dir string) error { return exec.Command("umount", dir).Run() },
		"fusermount3":  func(dir string) error { return exec.Command("fusermount3", "-u", dir).Run() },
		"this package": func(dir string) error { return Unmount(dir, false) },
	} {
		s := mounted(t, sample().tree(t), nil)
		if err := unmount(s.Dir()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s.Wait()
	}
}

func TestADeadMountIsSeenAndCleared(t *testing.T) {
	for _, busy := range []bool{false, true} {
		dir := publicDir(t)
		server := start(t, 0, "serve", dir).ready(t)
		if busy {
			opened(t, dir)
		}
		kill(t, server)
		m, ok, err := MountAt(dir)
		if err != nil || !ok || !m.Dead() {
			t.Fatalf("mount is %+v, %v, %v; want a dead one", m, ok, err)
		}
		_, err = Mount(dir, sample().tree(t), nil)
		if !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "imgfs umount") {
			t.Errorf("mounting over it: %v", err)
		}
		if err := Unmount(dir, false); err != nil {
			t.Error(err)
		}
		if m, ok, err := MountAt(dir); ok || err != nil {
			t.Errorf("after the unmount: %v, %v", m, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestAStuckMountHoldsNobodyUp(t *testing.T) {
	dir := publicDir(t)
	server := start(t, 0, "serve", dir).ready(t)
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if m, ok, err := MountAt(dir); !ok || err != nil || m.Dead() {
		t.Errorf("found %v, %v, %v; want a live mount", m, ok, err)
	}
	if _, err := Check(dir, nil); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("check: %v", err)
	}
	if err := Unmount(dir, true); err != nil {
		t.Error(err)
	}
	if err := server.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("server: %v", err)
	}
}

func kill(t testing.TB, p *process) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait()
}

func TestAnAbortedServerClearsItsMount(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	var st unix.Stat_t
	if err := unix.Stat(s.Dir(), &st); err != nil {
		t.Fatal(err)
	}
	abortConnection(t, st.Dev)
	s.Wait()
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	if m, ok, err := MountAt(s.Dir()); ok || err != nil {
		t.Errorf("after the unmount: %v, %v", m, err)
	}
}

// abortConnection ends a FUSE connection by what its file system's device number is, as an administrator may.
func abortConnection(t testing.TB, dev uint64) {
	t.Helper()
	dir := publicDir(t)
	if err := unix.Mount("none", dir, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	if err := os.WriteFile(fmt.Sprintf("%s/%d/abort", dir, unix.Minor(dev)), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestAServerLeavesAnothersMountAlone(t *testing.T) {
	for _, busy := range []bool{false, true} {
		first := mounted(t, sample().tree(t), nil)
		if busy {
			opened(t, first.Dir())
		}
		if err := Unmount(first.Dir(), true); err != nil {
			t.Fatal(err)
		}
		if !busy {
			first.Wait()
		}
		start(t, 0, "serve", first.Dir()).ready(t)
		if err := errors.Join(first.Unmount(), first.Detach()); err != nil {
			t.Error(err)
		}
		if m, ok, err := MountAt(first.Dir()); !ok || m.Dead() || err != nil {
			t.Errorf("busy %v: the other mount is gone: %v, %v", busy, m, err)
		} else if err := Unmount(first.Dir(), false); err != nil {
			t.Error(err)
		}
	}
}

func TestAServerWhoseMountIsGoneDoesNotStart(t *testing.T) {
	dir := publicDir(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	device, err := thisHost().openDevice(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{host: thisHost(), dir: dir, done: make(chan struct{})}
	if err := s.serve(device, nil, nil); !errors.Is(err, errNotMounted) {
		t.Errorf("started: %v", err)
	}
	if err := s.Detach(); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("what is in its place: %v", err)
	}
}

func TestAMountUnderAnotherStays(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	if err := unix.Mount("none", s.Dir(), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Unmount(), s.Detach()} {
		const says = "a tmpfs file system is mounted over it"
		if !errors.Is(err, syscall.EBUSY) || !errors.Is(err, ErrMount) || !strings.Contains(err.Error(), says) {
			t.Errorf("under a tmpfs: %v", err)
		}
	}
	if err := unix.Unmount(s.Dir(), 0); err != nil {
		t.Errorf("the tmpfs: %v", err)
	}
}

func TestADeadMountIsReachedThroughLinks(t *testing.T) {
	dir, base := publicDir(t), publicDir(t)
	kill(t, start(t, 0, "serve", dir).ready(t))
	elsewhere := publicDir(t)
	for name, target := range map[string]string{
		"absolute": dir, "relative": "../" + filepath.Base(dir) + "/", "chain": "relative",
		"there": elsewhere + "/sub", "back": "there/../deep",
	} {
		if err := os.Symlink(target, filepath.Join(base, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(elsewhere+"/sub", 0o755), os.Symlink(dir, elsewhere+"/deep")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"absolute", "relative", "chain", "back"} {
		link := filepath.Join(base, name)
		if m, ok, err := MountAt(link); !ok || err != nil || m.Dir != dir {
			t.Errorf("%s: found %v, %v, %v", name, m, ok, err)
		}
		if _, err := Check(link, nil); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "imgfs umount") {
			t.Errorf("%s: check: %v", name, err)
		}
	}
	if err := Unmount(filepath.Join(base, "chain"), false); err != nil {
		t.Error(err)
	}
	if m, err := topmost(dir); m != nil || err != nil {
		t.Errorf("still there: %v, %v", m, err)
	}
}

func TestWhereNoDirectoryIsNothingIsMounted(t *testing.T) {
	base := publicDir(t)
	if err := errors.Join(os.WriteFile(base+"/file", nil, 0o644), os.Symlink("none", base+"/link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"none", "none/x", "none/x/y", "file/x", "link", "link/x"} {
		dir := filepath.Join(base, name)
		if m, ok, err := MountAt(dir); ok || err != nil {
			t.Errorf("%s: found %v, %v", name, m, err)
		}
		var m *MountError
		if err := Unmount(dir, false); !errors.As(err, &m) || m.Dir != dir || !errors.Is(err, errNotMounted) {
			t.Errorf("%s: unmount: %v", name, err)
		}
	}
}

func TestOnlyImagesAreUnmounted(t *testing.T) {
	dir := publicDir(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	for _, dir := range []string{dir, publicDir(t), dir + "/none"} {
		if err := Unmount(dir, true); !errors.Is(err, ErrMount) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if m := entry(t, dir); m.FSType != "tmpfs" {
		t.Errorf("the tmpfs is gone: %v", m)
	}
}
