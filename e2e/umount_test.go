package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/internal/testimage"
)

func TestUmountAllTakesLiveAndDeadMounts(t *testing.T) {
	h := newHost(t)
	live, dead, gone := h.mount(t, small(t)), h.mount(t, small(t)), h.mount(t, small(t))
	h.signal(t, dead, syscall.SIGKILL)
	h.signal(t, gone, syscall.SIGKILL)
	if err := unix.Unmount(gone, 0); err != nil {
		t.Fatal(err)
	}
	h.ok(t, "umount", "-a")
	h.checkNoMounts(t)
	for _, dir := range []string{live, dead, gone} {
		if s := h.state(t, dir); s != nil {
			t.Errorf("ps still lists %+v", s)
		}
	}
	h.ok(t, "umount", "-a") // nothing is no error
}

func TestUmountAllTakesAMountInsideOfAnother(t *testing.T) {
	h := newHost(t)
	layout := t.TempDir()
	writeLayout(t, layout, testimage.Image{Layers: []testimage.Layer{layerOf(testimage.Dir("dir"))}}.Bundle())
	outer := h.mount(t, "oci:"+layout+":v1")
	h.ok(t, "mount", small(t), outer+"/dir")
	h.ok(t, "umount", "-a")
	h.checkNoMounts(t)
}

func TestUmountAllLeavesTheMountsOfOthers(t *testing.T) {
	h, other := newHost(t), newHost(t)
	h.mount(t, small(t))
	dir := other.mount(t, small(t))
	h.ok(t, "umount", "--all")
	if s := other.state(t, dir); s == nil || !s.Alive {
		t.Errorf("the mount of another run-time directory is %+v", s)
	}
}

func TestUmountAllUnmountsWhatItCanAndNamesWhatIsBusy(t *testing.T) {
	h := newHost(t)
	idle, busy := h.mount(t, small(t)), h.mount(t, small(t))
	file := firstFile(t, busy)
	h.fails(t, 6, []string{busy, "in use"}, "umount", "-a")
	if s := h.state(t, idle); s != nil {
		t.Errorf("the idle one is left: %+v", s)
	}
	pid := h.state(t, busy).PID
	h.ok(t, "umount", "-al")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if !waitExit(t, pid) {
		t.Error("the server did not end with its last open file")
	}
}

// A server that something else keeps is waited for up to 40 seconds, which is said after two.
func TestServersAreWaitedForSideBySide(t *testing.T) {
	h := newHost(t)
	dirs := []string{h.mount(t, small(t)), h.mount(t, small(t)), h.mount(t, small(t))}
	said := h.path("said")
	t.Run("held", func(t *testing.T) {
		cmd := h.command(append([]string{"umount"}, dirs...)...)
		t.Cleanup(func() { // when the namespace has ended
			if err := cmd.Wait(); err != nil {
				t.Errorf("umount: %v", err)
			}
		})
		namespace(t, "") // has copies of the mounts
		stderr, err := os.Create(said)
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all three are waited for", func() bool {
			text, err := os.ReadFile(said)
			return err == nil && strings.Count(string(text), "is unmounted; its server") == len(dirs)
		})
	})
	for _, dir := range dirs {
		if s := h.state(t, dir); s != nil {
			t.Errorf("ps still lists %+v", s)
		}
	}
}
