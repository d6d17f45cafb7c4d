package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/fsx"
)

// fsxEnv, when set, makes this test program run a test of fsx, whose configuration it holds.
const fsxEnv = "IMGFS_E2E_FSX"

// fsxSeedEnv repeats a test that failed: it is the seed that the failure names. fsxOpsEnv is how many operations each of the
// mounts gets in all. fsxCheckEnv finds the operation at which it went wrong: it is after how many of them all is compared.
const (
	fsxSeedEnv  = "IMGFS_FSX_SEED"
	fsxOpsEnv   = "IMGFS_FSX_OPS"
	fsxCheckEnv = "IMGFS_FSX_CHECK"
)

// runFsx is the whole of such a process.
func runFsx(config string) (exitCode int) {
	var c fsx.Config
	err := json.Unmarshal([]byte(config), &c)
	crashes, _ := strconv.Atoi(os.Getenv(crashesEnv))
	switch {
	case err != nil:
	case crashes > 0:
		err = fsx.RunWithCrashes(c, crashes)
	default:
		err = fsx.Run(c)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// fsxRounds is how often a mount is unmounted and mounted again while it is tested.
const fsxRounds = 5

// TestRandomOperationsComeToTheSameAsInAPlainDirectory does what package fsx says, for each kind of mount. Without the
// environment it is the same each time, and short: IMGFS_FSX_OPS=250000 is the long test.
func TestRandomOperationsComeToTheSameAsInAPlainDirectory(t *testing.T) {
	seed, ops, check := uint64(4), 12_500, 0
	for name, set := range map[string]func(string) error{
		fsxSeedEnv:  func(s string) (err error) { seed, err = strconv.ParseUint(s, 10, 64); return err },
		fsxOpsEnv:   func(s string) (err error) { ops, err = strconv.Atoi(s); return err },
		fsxCheckEnv: func(s string) (err error) { check, err = strconv.Atoi(s); return err },
	} {
		if s := os.Getenv(name); s != "" {
			if err := set(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%s=%d", fsxSeedEnv, seed)
	for _, w := range writables {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h := w.newHost(t)
			dir := h.mkdir(t)
			ref := h.fsxWorld(t, dir, w.driver == "kernel")
			for round := range uint64(fsxRounds) {
				c := h.fsxConfig(w, dir, seed+round<<32)
				c.Ops, c.CheckEvery = ops/fsxRounds, check
				h.fsxRound(t, w, ref, c)
			}
		})
	}
}

// fsxConfig is what a test of a kind of mount knows of it.
func (h *host) fsxConfig(w writable, dir string, seed uint64) fsx.Config {
	root, ours := h.uid == 0, w.driver == "fuse"
	return fsx.Config{Dir: dir, Seed: seed, Overlayfs: !ours, NoXattrs: !root, Passthrough: ours && root, Mapped: ours && !root}
}

// fsxRound mounts an image with its upper, tests it, and unmounts it.
func (h *host) fsxRound(t *testing.T, w writable, ref string, c fsx.Config) {
	t.Helper()
	mnt := filepath.Join(c.Dir, fsx.Test)
	h.ok(t, "mount", "--upper", h.path("upper"), "--upper-driver", w.driver, ref, mnt)
	defer h.umount(t, mnt)
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	h.tester(t, fsxEnv+"="+string(config))
}

// fsxWorld makes a model and a place to mount on in a directory, and an image of the model.
func (h *host) fsxWorld(t *testing.T, dir string, noLinks bool) (ref string) {
	t.Helper()
	model := filepath.Join(dir, fsx.Model)
	if err := errors.Join(os.Mkdir(model, 0o755), os.Mkdir(filepath.Join(dir, fsx.Test), 0o755)); err != nil {
		t.Fatal(err)
	}
	for i, d := range []string{"", "a", "a/b", "a/b/c", "d", "d/e", "d/e/f", "g", "h", "h/i", "h/i/j", strings.Repeat("long", 63) + "xyz"} {
		in := func(name string) string { return filepath.Join(model, d, name) }
		err := errors.Join(os.MkdirAll(in(""), 0o755), os.WriteFile(in("k"), []byte(strings.Repeat("content of k\n", i*400)), 0o644),
			os.WriteFile(in("l"), nil, 0o600), os.WriteFile(in("m"), []byte("set-user-ID"), 0o755), os.Symlink("../a/k", in("n")), os.Symlink("/d/e", in("o")),
			unix.Mkfifo(in("p"), 0o622), unix.Setxattr(in("k"), "user.a", []byte("of the image"), 0))
		if i%3 == 1 && !noLinks {
			err = errors.Join(err, os.Link(in("k"), filepath.Join(model, fmt.Sprint("link", i))), os.Link(in("k"), in("link")))
		}
		if i%4 == 2 {
			err = errors.Join(err, os.Truncate(in("k"), 1<<19), unix.Chmod(in(""), 0o1777))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	owners := map[string]int{"l": 1000, "m": 1000}
	modes := map[string]uint32{"m": 0o4755, "l": 0o600}
	err := filepath.WalkDir(model, func(path string, e os.DirEntry, err error) error {
		err = errors.Join(err, os.Lchown(path, h.uid+owners[e.Name()], h.uid)) // h.uid is root there
		if mode, ok := modes[e.Name()]; ok {
			err = errors.Join(err, unix.Chmod(path, mode))
		}
		old := unix.Timespec{Sec: 1_000_000_000, Nsec: 123_456_789}
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
	})
	if err != nil {
		t.Fatal(err)
	}
	if h.uid == 0 {
		shield(t, model)
	}
	return "tar:" + h.tarOf(t, model)
}
