package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// runPython runs a small program with the python of a mounted image.
func runPython(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(timeLimit(t), "chroot", dir, "python3", "-c", "import json,ssl; print(1)")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := peer.RunCmd(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != "1\n" {
		t.Fatalf("python printed %q", out)
	}
}

func TestProgramsOfTheImageRun(t *testing.T) {
	h, im := newHost(t), get(t, theImages).Python()
	dir := h.mount(t, inRegistry(get(t, theRegistry), im))
	runPython(t, dir)
}

// lazyImages are those whose layers can be read at random, in their ways.
func lazyImages(t *testing.T) []images.Image {
	t.Helper()
	set := get(t, theImages)
	return []images.Image{set.Python(), set.Chunked()}
}

// TestWithoutBlobsOnlyWhatIsTouchedIsFetched is the lazy case: the layers
// are indexed, and their bytes are not here.
func TestWithoutBlobsOnlyWhatIsTouchedIsFetched(t *testing.T) {
	for _, im := range lazyImages(t) {
		t.Run(im.Name, func(t *testing.T) {
			h := newHost(t)
			ref := inRegistry(get(t, theRegistry), im)
			h.umount(t, h.mount(t, ref))
			h.ok(t, "cache", "rm", "--blobs")
			dir := h.mount(t, ref)
			runPython(t, dir)
			s := h.state(t, dir).Stats
			t.Logf("python needed %d of %d bytes (%.1f%%) in %d requests; %d spans were decoded",
				s.BytesFetched, s.ImageBytes, 100*float64(s.BytesFetched)/float64(s.ImageBytes), s.Requests, s.SpansDecoded)
			if s.BytesFetched == 0 || s.BytesFetched*5 >= s.ImageBytes {
				t.Errorf("%d bytes of %d were fetched, want some, but less than a fifth", s.BytesFetched, s.ImageBytes)
			}
			if s.Requests == 0 || s.SpansDecoded == 0 || s.CacheHits == 0 {
				t.Errorf("requests, spans and hits are not counted: %+v", s)
			}
			h.umount(t, dir)

			// What was fetched is kept: the same run once more needs the network for
			// no more than the tag.
			dir = h.mount(t, ref)
			runPython(t, dir)
			if again := h.state(t, dir).Stats; again.BytesFetched > 64<<10 {
				t.Errorf("the second run fetched %d bytes", again.BytesFetched)
			}
		})
	}
}

// TestALazyMountIsWhole reads every byte of images whose blobs are gone.
func TestALazyMountIsWhole(t *testing.T) {
	for _, im := range lazyImages(t) {
		t.Run(im.Name, func(t *testing.T) {
			h, o := newHost(t), oraclesOf(im)[0]
			ref := inRegistry(get(t, theRegistry), im)
			h.umount(t, h.mount(t, ref))
			h.ok(t, "cache", "rm", "--blobs")
			dir := h.mount(t, ref, "--memory", "8MiB")
			sameTree(t, scan(t, dir), o.tree(t, im), o.blind, o.name)
		})
	}
}

// TestTheRegistryIsNotNeeded mounts with the registry stopped: by a digest
// whose manifest is cached, and by a tag when told to work offline.
func TestTheRegistryIsNotNeeded(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	r, err := peer.StartRegistry(timeLimit(t), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	if err := push(timeLimit(t), r, im); err != nil {
		t.Fatal(err)
	}
	tag := inRegistry(r, im)
	repo, _, _ := strings.Cut(tag, ":"+im.Tag)
	byDigest := repo + "@" + strings.TrimSpace(h.ok(t, "digest", tag))
	h.umount(t, h.mount(t, tag))
	r.Stop()

	if conn, err := net.Dial("tcp", r.Addr); err == nil {
		conn.Close()
		t.Fatal("the registry still answers")
	}
	for name, args := range map[string][]string{"by digest": {byDigest}, "offline": {tag, "--offline"}} {
		t.Run(name, func(t *testing.T) {
			dir := h.mount(t, args[0], args[1:]...)
			sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
			if s := h.state(t, dir).Stats; s.Requests != 0 || s.BytesFetched != 0 {
				t.Errorf("%d requests, %d bytes fetched", s.Requests, s.BytesFetched)
			}
			h.umount(t, dir)
		})
	}
}

// TestTwoMountsShareACache starts two at once on an empty cache: both work,
// and each blob is fetched once.
func TestTwoMountsShareACache(t *testing.T) {
	h, im := newHost(t), get(t, theImages).Python()
	ref := inRegistry(get(t, theRegistry), im)
	dirs := []string{h.mkdir(t), h.mkdir(t)}
	var g errgroup.Group
	for _, dir := range dirs {
		g.Go(func() error {
			_, err := peer.RunCmd(h.command("mount", ref, dir))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var fetched, size int64
	for _, dir := range dirs {
		runPython(t, dir)
		s := h.state(t, dir).Stats
		fetched, size = fetched+s.BytesFetched, s.ImageBytes
		h.umount(t, dir)
	}
	if slack := int64(1 << 20); fetched > size+slack {
		t.Errorf("%d bytes were fetched of an image of %d", fetched, size)
	}
}

// TestDamageOfTheCacheIsNotServed overwrites what the cache holds: the next
// mount is whole nevertheless.
func TestDamageOfTheCacheIsNotServed(t *testing.T) {
	h, im := newHost(t), get(t, theImages).PAXTar()
	ref := inRegistry(get(t, theRegistry), im)
	for _, what := range []string{"blobs", "indexes", "documents"} {
		t.Run(what, func(t *testing.T) {
			h.umount(t, h.mount(t, ref))
			files := filesBelow(t, filepath.Join(h.cache(), what))
			if len(files) == 0 {
				t.Fatalf("the cache has no %s", what)
			}
			for _, name := range files {
				damage(t, name)
			}
			dir := h.mount(t, ref)
			sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
			h.umount(t, dir)
		})
	}
}

// damage inverts a tenth of the bytes of a file, all over it.
func damage(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 10 {
		b[i] ^= 0xff
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
