package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallImage makes an image of a file and a directory, and returns where its tar is: to make it anew is to change the image.
func (h *host) smallImage(t *testing.T, content string) (ref string) {
	t.Helper()
	dir := h.mkdir(t)
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "gone", "dir/inner"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, h.uid, h.uid))
	})
	if err != nil {
		t.Fatal(err)
	}
	return "tar:" + h.tarOf(t, dir)
}

func TestAnUpperKeepsWhatIsChanged(t *testing.T) {
	for _, w := range writables {
		t.Run(w.name, func(t *testing.T) {
			h := w.newHost(t)
			ref := h.smallImage(t, "content")
			mnt := h.mountUpper(t, w, ref, "upper")
			h.script(t, mnt, "echo more >>file; rm gone; mkdir new; touch new/x; chmod 700 dir")
			if s := h.state(t, mnt); s.Upper == nil || s.Upper.Dir != h.path("upper") || s.Upper.Driver != w.driver || s.UpperBytes == 0 {
				t.Errorf("ps says %+v", s)
			}
			if table := h.ok(t, "ps"); !strings.Contains(table, "UPPER") || !strings.Contains(table, " in "+h.path("upper")) {
				t.Errorf("ps prints\n%s", table)
			}
			const want = "C /dir\nC /file\nD /gone\nA /new\nA /new/x\n"
			if got := h.ok(t, "diff", mnt); got != want {
				t.Errorf("diff of the mount\n%s\nwant\n%s", got, want)
			}
			h.umount(t, mnt)
			if got := h.ok(t, "diff", h.path("upper")); got != want {
				t.Errorf("diff of the upper\n%s\nwant\n%s", got, want)
			}
			again := h.mountUpper(t, w, ref, "upper")
			h.script(t, again, `test "$(cat file)" = "contentmore"; ! test -e gone; test -e new/x; test "$(stat -c %a dir)" = 700`)
			changes := parseJSON[[]struct {
				Kind, Path string
				What       []string
			}](t, h.ok(t, "diff", "--json", again))
			if len(changes) != 5 || changes[0].Path != "/dir" || strings.Join(changes[0].What, " ") != "mode" || changes[2].Kind != "D" {
				t.Errorf("diff --json: %+v", changes)
			}
		})
	}
}

// script runs a shell script in a directory, as the host's user.
func (h *host) script(t *testing.T, dir, script string) {
	t.Helper()
	cmd := h.other("sh", "-ec", `cd "$0"`+"\n"+script, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
}

func TestAnUpperThatCannotBeUsedIsRefusedWithTheReason(t *testing.T) {
	h := newHost(t)
	ref, other := h.smallImage(t, "content"), h.smallImage(t, "another")
	up, shm := h.path("upper"), "/dev/shm/imgfs-e2e-work"
	defer os.RemoveAll(shm)
	held := h.mountUpper(t, writables[0], ref, "upper")
	refused := func(code int, words []string, args ...string) {
		t.Helper()
		h.fails(t, code, words, append([]string{"mount"}, args...)...)
	}
	refused(6, []string{up, "another mount uses it"}, "--upper", up, ref, h.mkdir(t))
	refused(6, []string{"another file system", "--work"}, "--upper", h.path("second"), "--work", shm, ref, h.mkdir(t))
	mnt := h.mkdir(t)
	refused(6, []string{"the upper is in the mountpoint"}, "--upper", mnt, ref, mnt)
	refused(6, []string{"the mountpoint is in the upper"}, "--upper", h.dir, "--work", h.dir+".work", ref, mnt)
	defer os.RemoveAll(h.dir + ".work")
	refused(3, []string{"--upper"}, "--work", shm, ref, mnt)
	refused(3, []string{"--upper-driver"}, "--upper", up, "--upper-driver", "other", ref, mnt)
	refused(3, []string{"--sync"}, "--upper", up, "--sync", "sometimes", ref, mnt)
	refused(3, []string{"--sync always"}, "--upper", up, "--sync", "always", "--upper-driver", "kernel", ref, mnt)

	h.umount(t, held)
	digests := []string{strings.TrimSpace(h.ok(t, "digest", ref)), strings.TrimSpace(h.ok(t, "digest", other))}
	refused(6, append(digests, "--force"), "--upper", up, other, mnt)
	if r := h.run(t, "mount", "--upper", up, "--force", other, mnt); r.code != 0 || !strings.Contains(r.stderr, digests[0]) || !strings.Contains(r.stderr, digests[1]) {
		t.Errorf("--force: exit code %d\n%s", r.code, r.stderr)
	}
	h.umount(t, mnt)
}

func TestADeadWritableMountIsClearedAndMountedAgain(t *testing.T) {
	for _, w := range writables {
		t.Run(w.name, func(t *testing.T) {
			h := w.newHost(t)
			ref := h.smallImage(t, "content")
			mnt := h.mountUpper(t, w, ref, "upper")
			h.script(t, mnt, "echo kept >file")
			if err := unix.Kill(h.state(t, mnt).PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "ps sees it", func() bool { return strings.Contains(h.ok(t, "ps"), "dead") })
			h.ok(t, "mount", "--upper", h.path("upper"), "--upper-driver", w.driver, ref, mnt) // clears it by itself
			h.script(t, mnt, `test "$(cat file)" = kept`)
			if err := unix.Kill(h.state(t, mnt).PID, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "SIGTERM unmounts it", func() bool { return h.state(t, mnt) == nil })
		})
	}
}

func TestDiffOfImagesTellsWhatDiffersByItsExitCode(t *testing.T) {
	h := newHost(t)
	ref, other := h.smallImage(t, "content"), h.smallImage(t, "another")
	if got := h.ok(t, "diff", ref, ref); got != "" {
		t.Errorf("from itself an image differs in\n%s", got)
	}
	if r := h.run(t, "diff", ref, other); r.code != 1 || r.stdout != "C /dir\nC /dir/inner\nC /file\nC /gone\n" || r.stderr != "" {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	h.fails(t, 6, []string{"no mount of imgfs has used it"}, "diff", h.mkdir(t))
	h.fails(t, 3, []string{"read-only"}, "diff", h.mount(t, ref))
	h.fails(t, 2, []string{"no such file"}, "diff", h.path("none"))
}
