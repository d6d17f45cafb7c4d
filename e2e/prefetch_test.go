package e2e

import (
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
	"imgfs/internal/testimage"
)

// TestWhatIsPrefetchedUnderAMountNeedsNoRegistry mounts an image of which no byte is here, has another process fetch what a program
// needs, and stops the registry; then it has that fetch the rest, and reads everything.
func TestWhatIsPrefetchedUnderAMountNeedsNoRegistry(t *testing.T) {
	for _, im := range lazyImages(t) {
		t.Run(im.Name, func(t *testing.T) {
			h, o, store := newHost(t), oraclesOf(im)[0], t.TempDir()
			r, err := peer.StartRegistry(timeLimit(t), store, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { r.Stop() }()
			if err := push(timeLimit(t), r, im); err != nil {
				t.Fatal(err)
			}
			h.umount(t, h.mount(t, inRegistry(r, im)))
			h.ok(t, "cache", "rm", "--blobs")
			dir := h.mount(t, inRegistry(r, im))
			said := h.run(t, "prefetch", dir, "--paths", "/usr/bin/python3", "/usr/lib/python3*", "/lib64/*", "/usr/lib/x86_64-linux-gnu",
				"/usr/lib/locale", "/usr/lib/ssl", "/etc")
			if said.code != 0 {
				t.Fatal(said.stderr)
			}
			t.Logf("of a python and all of its library: %s", said.stderr)
			r.Stop()
			runPython(t, dir)

			if r, err = peer.StartRegistry(timeLimit(t), store, &peer.RegistryOptions{Addr: r.Addr}); err != nil {
				t.Fatal(err)
			}
			h.ok(t, "prefetch", dir)
			r.Stop()
			sameTree(t, scan(t, dir), o.tree(t, im), o.blind, o.name)
			if s := h.state(t, dir).Stats; s.Errors != 0 || s.BytesFetched > 1<<20 {
				t.Errorf("the mount has fetched %d bytes, and %d reads failed", s.BytesFetched, s.Errors)
			}
			h.umount(t, dir)
		})
	}
}

// TestWhatTheDiskHasNoRoomForIsNotFetched has a layer of 12 MiB fetched to a cache of 4.
func TestWhatTheDiskHasNoRoomForIsNotFetched(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	image := testimage.Image{Layers: []testimage.Layer{layerOf(testimage.File("noise", string(noise(12<<20))))}}
	r.Push("test/noise", "v1", image.Bundle())
	h, ref := newHost(t), r.Host()+"/test/noise:v1"
	cache := h.mkdir(t)
	if err := unix.Mount("cache", cache, "tmpfs", 0, "size=4m,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(cache, unix.MNT_DETACH)
	h.fails(t, 1, []string{"not kept"}, "pull", "--cache-dir", cache, ref)
	h.ok(t, "pull", "--index-only", "--cache-dir", cache, ref)
	h.fails(t, 1, []string{"not kept"}, "prefetch", "--cache-dir", cache, ref, "--paths", "/noise")
}
