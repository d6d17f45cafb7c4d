package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// access is how ps --json says that the layers of the mount at dir are come by, each kind once.
func (h *host) access(t *testing.T, dir string) string {
	t.Helper()
	s := h.state(t, dir)
	if s == nil || s.Stats == nil || len(s.Stats.Layers) == 0 {
		t.Fatalf("ps says %+v", s)
	}
	var kinds []string
	for _, l := range s.Stats.Layers {
		if len(kinds) == 0 || kinds[len(kinds)-1] != l.Access {
			kinds = append(kinds, l.Access)
		}
	}
	return strings.Join(kinds, ", ")
}

func TestPsTellsWhetherAMountIsLazyAndIfNotWhy(t *testing.T) {
	h := newHost(t)
	im := get(t, theImages).PAXTar()
	ref := inRegistry(get(t, theRegistry), im)
	expect := func(dir, want string) {
		t.Helper()
		if got := h.access(t, dir); got != want {
			t.Errorf("the layers are %q, want %q", got, want)
		}
		if table := h.ok(t, "ps"); !strings.Contains(table, want) {
			t.Errorf("ps does not say %q:\n%s", want, table)
		}
		h.umount(t, dir)
	}
	expect(h.mount(t, ref), "cached")
	h.ok(t, "cache", "rm", "--blobs")
	lazy := h.mount(t, ref)
	if cached := h.state(t, lazy).Stats.Layers[0].Cached; cached != 0 {
		t.Errorf("%d bytes are on disk before anything was read", cached)
	}
	expect(lazy, "lazy")
	expect(h.mount(t, ref, "--offline"), "offline")
	expect(h.mount(t, inLayout(im)), "local")
	dir := h.mount(t, ref)
	scan(t, dir)
	expect(dir, "cached")
}

func TestPsTellsOfLayersThatHaveNoWayIn(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, inRegistry(get(t, theRegistry), get(t, theImages).Zstd()))
	if got := h.access(t, dir); !strings.Contains(got, "frames") {
		t.Errorf("the layers are %q, want frames", got)
	}
}

func TestPsTellsOfARegistryWithoutRanges(t *testing.T) {
	h := newHost(t)
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	r := testimage.StartRegistry()
	defer r.Close()
	r.Push("test/noise", "v1", testimage.Image{Layers: []testimage.Layer{layerOf(testimage.File("noise", string(noise)))}}.Bundle())
	ref := r.Host() + "/test/noise:v1"
	h.umount(t, h.mount(t, ref))
	h.ok(t, "cache", "rm", "--blobs")
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.IgnoreRange})
	dir := h.mount(t, ref)
	if _, err := os.ReadFile(filepath.Join(dir, "noise")); err != nil {
		t.Fatal(err)
	}
	if got := h.access(t, dir); got != "no ranges" {
		t.Errorf("the layer is %q, want no ranges", got)
	}
	h.umount(t, dir) // before its registry ends
}

func TestPsTellsAllOfAMount(t *testing.T) {
	h := newHost(t)
	dir, other := h.mount(t, small(t)), h.mount(t, small(t))
	scan(t, dir)
	s := h.state(t, dir)
	out := h.ok(t, "ps", dir)
	for _, want := range []string{dir, s.Reference, s.Digest, s.Log, "0 requests failed", "local"} {
		if !strings.Contains(out, want) {
			t.Errorf("ps %s does not say %q:\n%s", dir, want, out)
		}
	}
	if strings.Contains(out, other) {
		t.Errorf("ps %s tells of another:\n%s", dir, out)
	}
	if all := parseJSON[[]mountState](t, h.ok(t, "ps", "--json", dir)); len(all) != 1 || all[0].Mountpoint != dir {
		t.Errorf("ps --json %s says %+v", dir, all)
	}
	h.fails(t, 2, []string{h.dir}, "ps", dir, h.dir)
	var layers int64
	for _, l := range s.Stats.Layers {
		layers += l.SpansDecoded
	}
	if s.Stats.ResidentBytes == 0 || layers != s.Stats.SpansDecoded {
		t.Errorf("the figures are %+v", s.Stats)
	}
}

func TestTheShellCompletesMountpoints(t *testing.T) {
	h := newHost(t)
	dir := h.mount(t, small(t))
	for _, command := range []string{"umount", "ps"} {
		if out := h.ok(t, "__complete", command, ""); !strings.Contains(out, dir+"\t") {
			t.Errorf("%s is completed by %q", command, out)
		}
	}
}
