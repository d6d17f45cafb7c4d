package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// A host is a place of its own to run the program in: cache, run-time state
// and home are below one directory. When a test that has one ends, nothing of
// the program may be left there: no process, no mount, no half-written file.
type host struct {
	dir   string
	env   []string
	uid   int      // the user that runs it
	enter []string // the command that runs a command as that user; empty for root
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{dir: t.TempDir()}
	h.setUp(t)
	return h
}

func (h *host) setUp(t testing.TB) {
	t.Helper()
	h.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir,
		"XDG_RUNTIME_DIR=" + h.path("run"), "XDG_CACHE_HOME=" + h.path("xdg-cache"),
	}
	if err := os.Mkdir(h.path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.checkNothingLeft(t) })
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// mkdir makes a new directory that belongs to the host's user.
func (h *host) mkdir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(h.dir, "dir-")
	if err == nil {
		err = os.Chown(dir, h.uid, h.uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// cache is where the program keeps its cache on this host.
func (h *host) cache() string { return h.path("xdg-cache/imgfs") }

// command prepares a call of the program.
func (h *host) command(args ...string) *exec.Cmd {
	return h.other(program(), args...)
}

// other prepares a call of another program, as the host's user.
func (h *host) other(name string, args ...string) *exec.Cmd {
	line := append(append(append([]string{}, h.enter...), name), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = h.env, h.dir, 5*time.Second
	return cmd
}

// A result is what a call of the program came to.
type result struct {
	code           int
	stdout, stderr string
}

// run calls the program and waits for its end.
func (h *host) run(t testing.TB, args ...string) result {
	t.Helper()
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	timer := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("imgfs %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok calls the program, which must succeed, and returns its stdout.
func (h *host) ok(t testing.TB, args ...string) string {
	t.Helper()
	r := h.run(t, args...)
	if r.code != 0 {
		t.Fatalf("imgfs %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// fails calls the program, which must end with a code, print nothing on
// stdout, and say each of the words on stderr.
func (h *host) fails(t testing.TB, code int, words []string, args ...string) {
	t.Helper()
	r := h.run(t, args...)
	line := "imgfs " + strings.Join(args, " ")
	if r.code != code {
		t.Errorf("%s: exit code %d, want %d\n%s", line, r.code, code, r.stderr)
	}
	if r.stdout != "" {
		t.Errorf("%s: wrote %q on stdout", line, r.stdout)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("%s: stderr does not say %q:\n%s", line, w, r.stderr)
		}
	}
}

// mount mounts an image on a new directory, for as long as the test runs
// unless it unmounts it itself.
func (h *host) mount(t testing.TB, ref string, flags ...string) (dir string) {
	t.Helper()
	dir = h.mkdir(t)
	h.ok(t, append(append([]string{"mount"}, flags...), ref, dir)...)
	t.Cleanup(func() {
		if h.state(t, dir) != nil {
			h.umount(t, dir)
		}
	})
	return dir
}

func (h *host) umount(t testing.TB, dir string) {
	t.Helper()
	h.ok(t, "umount", dir)
}

// A mountState is a line of imgfs ps --json.
type mountState struct {
	Mountpoint string
	Reference  string
	Digest     string
	PID        int
	Alive      bool
	Log        string
	Upper      *struct{ Dir, Driver string }
	UpperBytes int64 `json:"upper_bytes"`
	Stats      *struct {
		BytesFetched  int64 `json:"bytes_fetched"`
		Requests      int64
		SpansDecoded  int64 `json:"spans_decoded"`
		CacheHits     int64 `json:"cache_hits"`
		Errors        int64
		Files         int64
		ImageBytes    int64 `json:"image_bytes"`
		ResidentBytes int64 `json:"resident_bytes"`
		Layers        []struct {
			Cached       int64
			Access       string
			SpansDecoded int64 `json:"spans_decoded"`
		}
	}
}

// state is what ps says of the mount at dir, nil if it does not list it.
func (h *host) state(t testing.TB, dir string) *mountState {
	t.Helper()
	for _, s := range parseJSON[[]mountState](t, h.ok(t, "ps", "--json")) {
		if s.Mountpoint == dir {
			return &s
		}
	}
	return nil
}

func parseJSON[T any](t testing.TB, s string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return v
}

// checkNothingLeft is what every test ends with.
func (h *host) checkNothingLeft(t testing.TB) {
	t.Helper()
	for _, m := range parseJSON[[]mountState](t, h.ok(t, "ps", "--json")) {
		if strings.HasPrefix(m.Mountpoint, h.dir) { // dead ones of others are listed as well
			t.Errorf("a mount is left: %+v", m)
		}
	}
	h.checkNoMounts(t)
	h.checkNoProcesses(t)
	h.checkNoFiles(t)
}

func (h *host) checkNoMounts(t testing.TB) {
	t.Helper()
	table, err := peer.RunCmd(h.other("cat", "/proc/self/mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := mountinfo.GetMountsFromReader(bytes.NewReader(table), mountinfo.PrefixFilter(h.dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		t.Errorf("a mount is left: %s on %s", m.Source, m.Mountpoint)
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
	}
}

// checkNoProcesses waits for the servers of this host, which may be on their
// way out, and reports those that stay.
func (h *host) checkNoProcesses(t testing.TB) {
	t.Helper()
	for _, pid := range h.processes(t) {
		if !waitExit(t, pid) {
			t.Errorf("process %d is left", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// processes lists the processes of the program that have this host's
// environment.
func (h *host) processes(t testing.TB) []int {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range environments {
		environ, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environ, []byte("XDG_RUNTIME_DIR="+h.path("run")+"\x00")) {
			continue // it has ended, or is another's
		}
		dir := filepath.Dir(file)
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil && exe == program() {
			pids = append(pids, atoi(t, filepath.Base(dir)))
		}
	}
	return pids
}

// checkNoFiles looks for what a command that ended should have taken away:
// everything in the runtime directory, and temporary files of the cache.
func (h *host) checkNoFiles(t testing.TB) {
	t.Helper()
	for _, place := range []string{h.path("run/imgfs"), filepath.Join(h.cache(), "tmp")} {
		for _, name := range filesBelow(t, place) {
			t.Errorf("a file is left: %s", name)
		}
	}
}

// filesBelow lists all that is no directory below a directory, which need not exist.
func filesBelow(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// waitExit waits for a process, not necessarily a child, and tells whether it
// ended in time.
func waitExit(t testing.TB, pid int) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n == 1
	}
}

// eventually waits until a condition holds that nothing announces.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sameTree fails the test where a tree differs from what an oracle made.
func sameTree(t testing.TB, got, want treediff.Tree, blind treediff.Blind, by string) {
	t.Helper()
	if diffs := treediff.Diff(got, want, blind); len(diffs) > 0 {
		t.Errorf("imgfs differs from %s: %s", by, treediff.Report(diffs))
	}
}
