package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgfs/e2e/internal/peer"
)

// makeIn runs make with a target in a directory that is as make leaves the
// repository's.
func makeIn(t *testing.T, args ...string) {
	t.Helper()
	dir := t.TempDir()
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"Makefile": filepath.Join(repository, "Makefile"), "docs": filepath.Join(repository, "docs"),
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(program(), filepath.Join(dir, "bin/imgfs")); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Run(timeLimit(t), program(), "share", filepath.Join(dir, "bin/share")); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Run(timeLimit(t), "make", append([]string{"-C", dir}, args...)...); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsInstalledIsComplete(t *testing.T) {
	h, dest := newHost(t), t.TempDir()
	makeIn(t, "install", "DESTDIR="+dest, "PREFIX=/usr")
	installed := func(name string) string { return filepath.Join(dest, name) }
	if out := h.system(t, installed("usr/bin/imgfs"), "version"); !strings.HasPrefix(out, "imgfs ") {
		t.Errorf("the installed program says %q", out)
	}
	for _, name := range []string{"mount.imgfs", "mount.fuse.imgfs"} {
		if to, err := os.Readlink(installed("sbin/" + name)); err != nil || to != "/usr/bin/imgfs" {
			t.Errorf("%s leads to %q (%v)", name, to, err)
		}
	}
	for _, name := range []string{"zsh/site-functions/_imgfs", "fish/vendor_completions.d/imgfs.fish", "bash-completion/completions/imgfs"} {
		info, err := os.Stat(installed("usr/share/" + name))
		if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o644 {
			t.Errorf("%s is %v (%v)", name, info, err)
		}
	}
	h.system(t, "bash", "-n", installed("usr/share/bash-completion/completions/imgfs"))
	pages, err := filepath.Glob(installed("usr/share/man/man*/*"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("the pages are %q (%v)", pages, err)
	}
	if out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc finds (%v)\n%s", err, out)
	}
	makeIn(t, "uninstall", "DESTDIR="+dest, "PREFIX=/usr")
	for _, name := range filesBelow(t, dest) {
		t.Errorf("uninstall leaves %s", name)
	}
}

func TestTheInstalledUnitIsOneThatSystemdTakes(t *testing.T) {
	prefix := t.TempDir()
	makeIn(t, "install", "PREFIX="+prefix, "MOUNTDIR="+filepath.Join(prefix, "sbin"))
	unit := filepath.Join(prefix, "lib/systemd/system/imgfs@.service")
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze says (%v)\n%s", err, out)
	}
	if text, err := os.ReadFile(unit); err != nil || !strings.Contains(string(text), "ExecStart="+prefix+"/bin/imgfs mount --foreground ") {
		t.Errorf("the unit is (%v)\n%s", err, text)
	}
}

// TestTheInstalledUnitStartsAndStops does what systemd does with the lines of
// the unit, which can't run here.
func TestTheInstalledUnitStartsAndStops(t *testing.T) {
	h, prefix := newHost(t), t.TempDir()
	makeIn(t, "install", "PREFIX="+prefix, "BINDIR="+lab.dir+"/installed", "MOUNTDIR="+filepath.Join(prefix, "sbin"))
	unit, err := os.ReadFile(filepath.Join(prefix, "lib/systemd/system/imgfs@.service"))
	if err != nil {
		t.Fatal(err)
	}
	dir := h.mkdir(t)
	words := strings.NewReplacer("$FLAGS", "--platform=linux/amd64", "${REF}", small(t), "%f", dir, lab.dir+"/installed/imgfs", program())
	line := func(key string) []string {
		_, rest, _ := strings.Cut(string(unit), "\n"+key+"=")
		command, _, _ := strings.Cut(rest, "\n")
		return strings.Fields(words.Replace(command))
	}
	s := newSupervisor(t, h.path("notify"))
	start := line("ExecStart")
	server := h.other(start[0], start[1:]...)
	server.Env = append(server.Env, "NOTIFY_SOCKET="+h.path("notify"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for told := ""; !strings.Contains(told, "READY=1"); {
		if told = s.next(t, time.Minute); strings.Contains(told, "timeout") {
			t.Fatal("it is not ready")
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("there are %d names (%v)", len(entries), err)
	}
	stop := line("ExecStop")
	h.system(t, stop[0], stop[1:]...)
	if err := server.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
