package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// zstdOf is the image of one layer, a zstd frame, with a file of noise.
func zstdOf(noise []byte) testimage.Image {
	tar := testimage.Tar(testimage.File("noise", string(noise)))
	return testimage.Image{Layers: []testimage.Layer{testimage.NewLayer(testimage.Zstd(tar), tar)}}
}

// noise does not compress.
func noise(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// TestLayersThatCanNotBeEnteredNeedNoBlobOnceTheyAreIndexed reads the image of
// single frames with nothing in the cache but indexes and frames.
func TestLayersThatCanNotBeEnteredNeedNoBlobOnceTheyAreIndexed(t *testing.T) {
	h, im := newHost(t), get(t, theImages).Zstd()
	ref := inRegistry(get(t, theRegistry), im)
	h.umount(t, h.mount(t, ref))
	h.ok(t, "cache", "rm", "--blobs")
	dir := h.mount(t, ref, "--offline")
	runPython(t, dir)
	sameTree(t, scan(t, dir), umociOracle.tree(t, get(t, theImages).Python()), treediff.Blind{}, "umoci")
}

// frames is where the cache keeps frames.
func (h *host) frames() string { return filepath.Join(h.cache(), "frames") }

// spoilers are what can happen to the files of which an index is made.
var spoilers = []struct {
	name  string
	spoil func(t *testing.T, h *host)
}{
	{"frames are damaged", eachFrames(damage)},
	{"frames are cut short", eachFrames(func(t *testing.T, name string) { truncate(t, name, 1000) })},
	{"frames are empty", eachFrames(func(t *testing.T, name string) { truncate(t, name, 0) })},
	{"frames are gone", eachFrames(remove)},
	{"frames came, and their index did not", func(t *testing.T, h *host) {
		for _, name := range filesBelow(t, filepath.Join(h.cache(), "indexes")) {
			remove(t, name)
		}
	}},
}

func eachFrames(spoil func(*testing.T, string)) func(*testing.T, *host) {
	return func(t *testing.T, h *host) {
		t.Helper()
		files := filesBelow(t, h.frames())
		if len(files) != 2 {
			t.Fatalf("there are frames of %d layers, want 2", len(files))
		}
		for _, name := range files {
			spoil(t, name)
		}
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func TestFramesOfNoUseAreMadeAnew(t *testing.T) {
	im := get(t, theImages).Shapes()
	ref := inRegistry(get(t, theRegistry), im)
	want := tarOracle.tree(t, im)
	for _, s := range spoilers {
		t.Run(s.name, func(t *testing.T) {
			h := newHost(t)
			h.umount(t, h.mount(t, ref))
			h.ok(t, "cache", "rm", "--blobs")
			s.spoil(t, h) // between two mounts
			dir := h.mount(t, ref)
			sameTree(t, scan(t, dir), want, treediff.Blind{}, "tar")
			h.checkHealthy(t, dir)
			h.umount(t, dir)

			dir = h.mount(t, ref)
			s.spoil(t, h) // under a mount
			sameTree(t, scan(t, dir), want, treediff.Blind{}, "tar")
			h.checkHealthy(t, dir)
			h.umount(t, dir)
			// What has been made anew is kept.
			dir = h.mount(t, ref, "--offline")
			sameTree(t, scan(t, dir), want, treediff.Blind{}, "tar")
		})
	}
}

// checkHealthy wants no failed reads, and no blob fetched twice.
func (h *host) checkHealthy(t *testing.T, dir string) {
	t.Helper()
	if s := h.state(t, dir).Stats; s.Errors > 0 || s.BytesFetched > s.ImageBytes*5/4 {
		t.Errorf("there were %d errors, and %d bytes fetched of %d", s.Errors, s.BytesFetched, s.ImageBytes)
	}
}

func TestFramesThatAreGoneAndCanNotBeFetchedAreAClearError(t *testing.T) {
	h := newHost(t)
	ref := inRegistry(get(t, theRegistry), get(t, theImages).Shapes())
	h.umount(t, h.mount(t, ref))
	h.ok(t, "cache", "rm", "--blobs")
	eachFrames(remove)(t, h)
	h.fails(t, 2, []string{"offline", "layer sha256:"}, "mount", "--offline", ref, h.mkdir(t))
}

func TestFramesAreListedInUseAndGoWithTheirIndex(t *testing.T) {
	h := newHost(t)
	ref := inRegistry(get(t, theRegistry), get(t, theImages).Shapes())
	dir := h.mount(t, ref)
	if list := h.ok(t, "cache", "ls"); strings.Count(list, "\nframes ") != 2 {
		t.Errorf("cache ls prints\n%s", list)
	}
	if out := h.ok(t, "inspect", ref); strings.Count(out, " of frames") != 2 || strings.Count(out, " zstd, ") != 3 || strings.Count(out, " tar, ") != 1 {
		t.Errorf("inspect prints\n%s", out)
	}
	h.fails(t, 1, []string{"frames sha256:", "in use"}, "cache", "rm", "--indexes")
	h.umount(t, dir)
	h.ok(t, "cache", "rm", "--blobs")
	if left := filesBelow(t, h.frames()); len(left) != 2 {
		t.Errorf("without blobs there are the frames %q", left)
	}
	h.ok(t, "cache", "rm", "--indexes")
	if left := filesBelow(t, h.frames()); len(left) != 0 {
		t.Errorf("without indexes there are the frames %q", left)
	}
}

// TestACacheThatTakesNoFramesIsNoHindrance gives the cache less room than the
// frames need.
func TestACacheThatTakesNoFramesIsNoHindrance(t *testing.T) {
	want := noise(12 << 20)
	r := testimage.StartRegistry()
	defer r.Close()
	r.Push("test/noise", "v1", zstdOf(want).Bundle())
	h := newHost(t)
	cache := h.mkdir(t)
	if err := unix.Mount("cache", cache, "tmpfs", 0, "size=4m,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(cache, unix.MNT_DETACH)
	temp := h.mkdir(t)
	h.env = append(h.env, "TMPDIR="+temp)
	dir := h.mount(t, r.Host()+"/test/noise:v1", "--cache-dir", cache)
	got, err := os.ReadFile(filepath.Join(dir, "noise"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want the %d that are in the image", len(got), err, len(want))
	}
	h.umount(t, dir)
	if left := filesBelow(t, temp); len(left) > 0 {
		t.Errorf("temporary files are left: %q", left)
	}
}

// TestAKilledFirstIndexOfZstdIsNoHindrance kills a mount while frames are on
// their way into the cache.
func TestAKilledFirstIndexOfZstdIsNoHindrance(t *testing.T) {
	want := noise(12 << 20)
	r := testimage.StartRegistry()
	defer r.Close()
	r.Push("test/noise", "v1", zstdOf(want).Bundle())
	h, ref := newHost(t), r.Host()+"/test/noise:v1"
	h.ok(t, "config", ref)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, After: 10 << 20})
	cmd := h.command("mount", "-f", ref, h.mkdir(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "frames are being written", func() bool {
		return len(filesBelow(t, filepath.Join(h.cache(), "tmp"))) == 2 // with the index
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if left := filesBelow(t, h.frames()); len(left) > 0 {
		t.Errorf("there are the frames %q of a layer that was not read to its end", left)
	}
	r.Heal()
	got, err := os.ReadFile(filepath.Join(h.mount(t, ref), "noise"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want the %d that are in the image", len(got), err, len(want))
	}
}
