package e2e

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func atoi(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// small is an image that mounts at once, from its layout.
func small(t *testing.T) string { return inLayout(get(t, theImages).PAXTar()) }

func kill(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := unix.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

// signal sends the server of a mount a signal, and waits for its end.
func (h *host) signal(t *testing.T, dir string, signal syscall.Signal) {
	t.Helper()
	pid := h.state(t, dir).PID
	kill(t, pid, signal)
	if !waitExit(t, pid) {
		t.Fatal("the server did not end")
	}
}

func TestInodeNumbersAreTheSameInEveryMount(t *testing.T) {
	im := get(t, theImages).Python()
	inodes := func(ref string) map[string]uint64 {
		dir := newHost(t).mount(t, ref)
		all := make(map[string]uint64)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil {
				all[strings.TrimPrefix(path, dir)] = info.Sys().(*syscall.Stat_t).Ino
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	one, two := inodes(inLayout(im)), inodes(inRegistry(get(t, theRegistry), im))
	if !maps.Equal(one, two) {
		t.Error("two mounts of an image have different inode numbers")
	}
}

func TestMountMakesADirectoryWhenGivenNone(t *testing.T) {
	h := newHost(t)
	out := h.ok(t, "mount", small(t))
	dir := strings.TrimSuffix(out, "\n")
	if strings.Contains(dir, "\n") || !filepath.IsAbs(dir) {
		t.Fatalf("mount printed %q", out)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) == 0 {
		t.Errorf("what it printed is no mounted tree: %v, %v", names, err)
	}
	h.umount(t, dir)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory that mount made is left: %v", err)
	}
}

func TestMountPrintsNothingWhenAllIsWell(t *testing.T) {
	h := newHost(t)
	dir := h.mkdir(t)
	if r := h.run(t, "mount", small(t), dir); r.code != 0 || r.stdout != "" || r.stderr != "" {
		t.Errorf("mount: %+v", r)
	}
	if r := h.run(t, "umount", dir); r.code != 0 || r.stdout != "" || r.stderr != "" {
		t.Errorf("umount: %+v", r)
	}
}

func TestAForegroundMountEndsWithItsSignal(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			h := newHost(t)
			dir := h.mkdir(t)
			cmd := h.command("mount", "-f", small(t), dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the mount is listed", func() bool { return h.state(t, dir) != nil })
			if s := h.state(t, dir); s.PID != cmd.Process.Pid {
				t.Errorf("ps names process %d, it is %d", s.PID, cmd.Process.Pid)
			}
			kill(t, cmd.Process.Pid, signal)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			h.checkNoMounts(t)
		})
	}
}

func TestSIGTERMUnmounts(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGTERM)
	h.checkNoMounts(t)
}

func TestSIGTERMOfABusyMountKeepsServingUntilTheSecond(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	file := firstFile(t, dir)
	s := h.state(t, dir)
	kill(t, s.PID, syscall.SIGTERM)
	eventually(t, "the log tells why", func() bool {
		log, err := os.ReadFile(s.Log)
		return err == nil && strings.Contains(string(log), dir)
	})
	if s := h.state(t, dir); s == nil || !s.Alive {
		t.Fatal("a busy mount ended at the first signal")
	}
	kill(t, s.PID, syscall.SIGTERM)
	eventually(t, "the mount is detached", func() bool {
		names, err := os.ReadDir(dir)
		return err == nil && len(names) == 0
	})
	if _, err := file.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("what was open when the mount was detached cannot be read: %v", err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if !waitExit(t, s.PID) {
		t.Error("the server did not end with its last open file")
	}
}

// firstFile opens a file of some size in a tree.
func firstFile(t *testing.T, dir string) *os.File {
	t.Helper()
	var found string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		found = path
		return fs.SkipAll
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(found)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestABusyMountIsNotUnmountedUnlessLazily(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	file := firstFile(t, dir)
	h.fails(t, 6, []string{dir}, "umount", dir)
	if _, err := file.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("a refused umount did harm: %v", err)
	}
	pid := h.state(t, dir).PID
	h.ok(t, "umount", "--lazy", dir)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if !waitExit(t, pid) {
		t.Error("the server did not end with its last open file")
	}
}

func TestAKilledServerIsSeenAndCleared(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGKILL)
	if s := h.state(t, dir); s == nil || s.Alive || s.Stats != nil {
		t.Errorf("ps says of a killed server: %+v", s)
	}
	if table := h.ok(t, "ps"); !strings.Contains(table, "dead") {
		t.Errorf("ps prints of a killed server:\n%s", table)
	}
	h.umount(t, dir)
	h.checkNoMounts(t)
	// A dead mount is no hindrance for a new one either.
	h.ok(t, "mount", small(t), dir)
	kill(t, h.state(t, dir).PID, syscall.SIGKILL)
	h.checkNoProcesses(t)
	h.ok(t, "mount", small(t), dir)
	scan(t, dir)
	h.umount(t, dir)
}

func TestTheMountTableNamesTheImage(t *testing.T) {
	h := newHost(t)
	ref := small(t)
	dir := h.mount(t, ref)
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if !strings.Contains(line, " "+dir+" ") {
			continue
		}
		for _, want := range []string{"imgfs", ref, "ro", "nosuid", "nodev"} {
			if !strings.Contains(line, want) {
				t.Errorf("the mount table does not say %q: %s", want, line)
			}
		}
		return
	}
	t.Error("the mount is not in the mount table")
}
