package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgfs/e2e/internal/treediff"
)

// A usage is what imgfs cache du --json prints.
type usage struct {
	Kinds []struct {
		Kind  string
		Items int
		Disk  int64
		InUse int64 `json:"in_use"`
	}
	Disk, Limit int64
}

func (u *usage) of(kind string) (items int, disk, inUse int64) {
	for _, k := range u.Kinds {
		if k.Kind == kind {
			return k.Items, k.Disk, k.InUse
		}
	}
	return 0, 0, 0
}

func (h *host) usage(t *testing.T) *usage {
	t.Helper()
	u := parseJSON[usage](t, h.ok(t, "cache", "du", "--json"))
	return &u
}

// TestASmallCacheGivesUpWhatIsNotMounted has two images share a cache that has room for less than one of them.
func TestASmallCacheGivesUpWhatIsNotMounted(t *testing.T) {
	const limit = 32 << 20
	h, large, other := newHost(t), get(t, theImages).Python(), get(t, theImages).PAXTar()
	o := oraclesOf(large)[0]
	whole := func(dir string) {
		t.Helper()
		sameTree(t, scan(t, dir), o.tree(t, large), o.blind, o.name)
	}
	largeRef, otherRef := inRegistry(get(t, theRegistry), large), inRegistry(get(t, theRegistry), other)
	h.env = append(h.env, "IMGFS_CACHE_SIZE=32MiB")

	dir := h.mount(t, largeRef)
	if u := h.usage(t); u.Disk <= limit || u.Limit != limit {
		t.Fatalf("the first image takes %d bytes, the limit is %d", u.Disk, u.Limit)
	}
	h.fails(t, 1, []string{"in use"}, "cache", "gc")
	whole(dir)
	h.umount(t, dir)
	u := h.usage(t)
	indexes, _, _ := u.of("index")
	if _, blobs, _ := u.of("blob"); u.Disk > limit || blobs < limit/2 || indexes != 2 {
		t.Errorf("when nothing is mounted any more, there is %+v", u)
	}

	small := h.mount(t, otherRef)
	dir = h.mount(t, largeRef)
	whole(dir)
	sameTree(t, scan(t, small), tarOracle.tree(t, other), treediff.Blind{}, "tar")
	h.ok(t, "cache", "check")
	if s := h.state(t, dir).Stats; s.Errors > 0 || s.BytesFetched == 0 || s.BytesFetched >= s.ImageBytes {
		t.Errorf("%d errors, %d bytes fetched of %d: what was left should have been of use", s.Errors, s.BytesFetched, s.ImageBytes)
	}
	h.umount(t, dir)
	if u := h.usage(t); u.Disk > limit {
		t.Errorf("with one image mounted there are %d bytes", u.Disk)
	}
	sameTree(t, scan(t, small), tarOracle.tree(t, other), treediff.Blind{}, "tar")
	if s := h.state(t, small).Stats; s.Errors > 0 {
		t.Errorf("%d errors", s.Errors)
	}
}

// TestACheckMendsWhatAMountUses damages the cache under a mount.
func TestACheckMendsWhatAMountUses(t *testing.T) {
	im := get(t, theImages).PAXTar()
	ref := inRegistry(get(t, theRegistry), im)
	for _, what := range []string{"blobs", "indexes", "documents"} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			dir := h.mount(t, ref)
			files := filesBelow(t, filepath.Join(h.cache(), what))
			for _, name := range files {
				damageByte(t, name)
			}
			r := h.run(t, "cache", "check")
			if r.code != 5 || strings.Count(r.stdout, ": dropped\n") < len(files) {
				t.Errorf("exit code %d, of %d damaged files; it prints\n%s%s", r.code, len(files), r.stdout, r.stderr)
			}
			h.ok(t, "cache", "check")
			sameTree(t, scan(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
			h.umount(t, dir)
			sameTree(t, scan(t, h.mount(t, ref)), tarOracle.tree(t, im), treediff.Blind{}, "tar")
		})
	}
}

// damageByte changes a byte in the middle of what a file has, or of the page that a blob begins in.
func damageByte(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := info.Size() / 2
	if filepath.Base(filepath.Dir(name)) == "blobs" {
		at = 4096 + 10
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
