package e2e

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// ofContainers is what Docker makes in the tree of every container, whatever the image has there: what it knows its own by, and
// empty files to mount others on.
var ofContainers = []string{".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}

// TestAnImageThatWentThroughDocker has Docker pull an image, load it, push it, save it and export a container of it.
func TestAnImageThatWentThroughDocker(t *testing.T) {
	im, r, d := get(t, theImages).Python(), get(t, theRegistry), get(t, theDocker)
	h, ctx, place := newHost(t), timeLimit(t), t.TempDir()
	at := func(name string) string { return filepath.Join(place, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pulled, loaded, pushed := inRegistry(r, im), "test/docker:loaded", r.Addr+"/test/docker:pushed"
	must(d.Pull(ctx, pulled))
	must(peer.Copy(ctx, inLayout(im), "docker-archive:"+at("skopeo.tar")+":"+loaded))
	must(d.Load(ctx, at("skopeo.tar")))
	must(d.Tag(ctx, loaded, pushed))
	must(d.Push(ctx, pushed))
	must(d.Save(ctx, at("saved.tar"), pulled, loaded))
	must(d.Export(ctx, at("exported.tar"), pulled))

	out, err := d.Inspect(ctx, pulled)
	must(err)
	id := parseJSON[[]struct{ ID string }](t, string(out))[0].ID
	if want := digest.FromString(h.ok(t, "config", pulled)).String(); id != want {
		t.Errorf("Docker calls it %s, want the config's digest %s", id, want)
	}
	mounted := func(ref string) treediff.Tree {
		t.Helper()
		dir := h.mount(t, ref, "--suid", "--dev")
		defer h.umount(t, dir)
		return scan(t, dir)
	}
	want := umociOracle.tree(t, im)
	archive := "docker-archive:" + at("saved.tar") + ":"
	for _, ref := range []string{pushed, archive + pulled, archive + loaded} {
		sameTree(t, mounted(ref), want, treediff.Blind{}, "umoci")
	}
	// Docker leaves a directory that a layer changes without naming it with the time of the unpack, as containerd does.
	sameTree(t, without(mounted(at("exported.tar")), ofContainers), without(want, ofContainers), treediff.Blind{DirTimes: true}, "umoci")
}

// without leaves paths out of a tree.
func without(tree treediff.Tree, paths []string) treediff.Tree {
	return slices.DeleteFunc(slices.Clone(tree), func(e treediff.Entry) bool { return slices.Contains(paths, e.Path) })
}
