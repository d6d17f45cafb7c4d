package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/treediff"
)

func TestAMountHoldsNoFilesOfItsCaller(t *testing.T) {
	h := newHost(t)
	dir := h.mkdir(t)
	lock, err := os.CreateTemp(h.dir, "lock-")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	// As a shell does that has opened a file for itself: without close-on-exec.
	cmd := h.command("mount", small(t), dir)
	cmd.ExtraFiles = []*os.File{lock}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	defer h.umount(t, dir)
	fds := fmt.Sprintf("/proc/%d/fd", h.state(t, dir).PID)
	open, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if to, err := os.Readlink(filepath.Join(fds, fd.Name())); err == nil && to == lock.Name() {
			t.Errorf("the server has descriptor %s on %s", fd.Name(), to)
		}
	}
}

func TestAHangupUnmounts(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGHUP)
	h.checkNoMounts(t)
}

func TestADamagedRecordIsNoHindrance(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	record := h.path("run/imgfs/damaged.json")
	if err := os.WriteFile(record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(record)
	if s := h.state(t, dir); s == nil || !s.Alive {
		t.Errorf("ps shows %+v", s)
	}
	h.umount(t, dir)
}

func TestADeadMountIsClearedThoughItsPlaceIsGone(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGKILL)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	h.umount(t, dir)
	if s := h.state(t, dir); s != nil {
		t.Errorf("ps still shows %+v", s)
	}
}

func TestADeadRecordDoesNotEndALiveMount(t *testing.T) {
	h, other := newHost(t), newHost(t)
	dir := h.mount(t, small(t))
	h.signal(t, dir, syscall.SIGKILL)
	// With another run-time directory the dead mount is known by the mount table alone.
	other.ok(t, "mount", small(t), dir)
	defer other.umount(t, dir)
	h.fails(t, 6, []string{"imgfs umount"}, "mount", small(t), dir)
	if s := other.state(t, dir); s == nil || !s.Alive {
		t.Errorf("the live mount is %+v", s)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) == 0 {
		t.Errorf("the live mount shows %d names (%v)", len(names), err)
	}
}

// Each of them is found damaged only when the layers are merged.
func TestIndexesWithDamagedEntriesAreBuiltAnew(t *testing.T) {
	h := newHost(t)
	ref := small(t)
	h.umount(t, h.mount(t, ref))
	indexes := filepath.Join(h.cache(), "indexes")
	files := filesBelow(t, indexes)
	if len(files) < 2 {
		t.Fatalf("there are %d indexes, want several", len(files))
	}
	for _, f := range files {
		damageEntries(t, f)
	}
	dir := h.mount(t, ref)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			_, err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAnIndexDamagedUnderAMountIsBuiltAnewAndItsBlobFetchedOnce(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	ref := inRegistry(get(t, theRegistry), im)
	h.umount(t, h.mount(t, ref))
	h.ok(t, "cache", "rm", "--blobs")
	dir := h.mount(t, ref)
	for _, f := range filesBelow(t, filepath.Join(h.cache(), "indexes")) {
		damage(t, f)
	}
	sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
	if s := h.state(t, dir).Stats; s.Errors > 0 || s.BytesFetched > s.ImageBytes*5/4 {
		t.Errorf("there were %d errors, and %d bytes fetched of %d", s.Errors, s.BytesFetched, s.ImageBytes)
	}
	h.umount(t, dir)
	// What has been built anew is kept.
	h.umount(t, h.mount(t, ref, "--offline"))
}

func TestAnIndexDamagedUnderTheMountThatMadeItIsBuiltAnew(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	dir := h.mount(t, inLayout(im))
	for _, f := range filesBelow(t, filepath.Join(h.cache(), "indexes")) {
		damage(t, f)
	}
	sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
	if s := h.state(t, dir).Stats; s.Errors > 0 {
		t.Errorf("there were %d errors", s.Errors)
	}
}

// damageEntries changes a byte behind the head of an index, where a small one has its entries.
func damageEntries(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 20); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, 20); err != nil {
		t.Fatal(err)
	}
}

func TestAMountThatNobodyCanFindIsUndone(t *testing.T) {
	h := newHost(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := h.command("mount", small(t))
	cmd.Stdout = full
	if err := cmd.Run(); err == nil {
		t.Error("mount succeeds, though it could not print where")
	}
	h.checkNoMounts(t)
}

func TestAnInterruptedListingEndsAndSaysSo(t *testing.T) {
	h := newHost(t)
	r, ref := h.stalled(t)
	cmd := h.command("ls", ref)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitStall(t, r)
	kill(t, cmd.Process.Pid, syscall.SIGINT)
	if err := cmd.Wait(); err == nil || !slices.Contains(strings.Split(said.String(), "\n"), "imgfs: interrupted") {
		t.Errorf("ls ended with %v, and said %q", err, said.String())
	}
}
