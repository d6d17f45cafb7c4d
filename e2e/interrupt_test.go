package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"imgfs/internal/testimage"
)

// stalled starts a registry with an image whose layer comes to a halt after
// some bytes. The host has the image's documents already.
func (h *host) stalled(t *testing.T) (r *testimage.Registry, ref string) {
	t.Helper()
	r = testimage.StartRegistry()
	t.Cleanup(r.Close)
	noise := make([]byte, 1<<20) // does not compress
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	image := testimage.Image{Layers: []testimage.Layer{layerOf(testimage.File("noise", string(noise)))}}
	r.Push("test/stalled", "v1", image.Bundle())
	ref = r.Host() + "/test/stalled:v1"
	h.ok(t, "config", ref)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, After: 64 << 10})
	return r, ref
}

// TestAnInterruptedMountLeavesNothing stops a mount while it streams a layer,
// in front and in the background. The host's own check looks for the rest.
func TestAnInterruptedMountLeavesNothing(t *testing.T) {
	for name, flags := range map[string][]string{"in front": {"-f"}, "in the background": nil} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(name+"/"+signal.String(), func(t *testing.T) {
				h := newHost(t)
				r, ref := h.stalled(t)
				cmd := h.command(append(append([]string{"mount"}, flags...), ref, h.mkdir(t))...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				awaitStall(t, r)
				kill(t, cmd.Process.Pid, signal)
				if err := cmd.Wait(); err == nil {
					t.Error("an interrupted mount ended with success")
				}
				h.checkNothingLeft(t)
			})
		}
	}
}

// awaitStall waits until the registry lets somebody wait for a layer.
func awaitStall(t *testing.T, r *testimage.Registry) {
	t.Helper()
	eventually(t, "a layer is being streamed", func() bool { return r.Hits(testimage.Stall) > 0 })
}

// TestAKilledMountIsNoHindrance kills a mount while it streams a layer: what
// it leaves is taken away by the next one, which works.
func TestAKilledMountIsNoHindrance(t *testing.T) {
	h := newHost(t)
	r, ref := h.stalled(t)
	cmd := h.command("mount", "-f", ref, h.mkdir(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitStall(t, r)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	r.Heal()
	dir := h.mount(t, ref)
	if info, err := os.Stat(filepath.Join(dir, "noise")); err != nil || info.Size() != 1<<20 {
		t.Errorf("the mount after it: %v, %v", info, err)
	}
}
