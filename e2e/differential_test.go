package e2e

import (
	"testing"

	"imgfs/e2e/internal/images"
)

// sources are the places that the images are mounted from.
var sources = []struct {
	name string
	ref  func(t *testing.T, im images.Image) string
}{
	{"docker-registry", func(t *testing.T, im images.Image) string { return inRegistry(get(t, theRegistry), im) }},
	{"OCI layout", func(_ *testing.T, im images.Image) string { return inLayout(im) }},
}

// TestAMountedTreeEqualsAnUnpack is the test that all others lean on: zero
// differences to each oracle, for every image, from every source.
func TestAMountedTreeEqualsAnUnpack(t *testing.T) {
	for _, im := range get(t, theImages).All() {
		for _, source := range sources {
			t.Run(im.Name+"/"+source.name, func(t *testing.T) {
				h := newHost(t)
				dir := h.mount(t, source.ref(t, im), "--suid", "--dev")
				tree := scan(t, dir)
				for _, o := range oraclesOf(im) {
					sameTree(t, tree, o.tree(t, im), o.blind, o.name)
				}
				if s := h.state(t, dir); s.Stats.Errors != 0 || s.Stats.Files != int64(len(tree)) {
					t.Errorf("ps tells of %d files and %d errors; there are %d files", s.Stats.Files, s.Stats.Errors, len(tree))
				}
				h.umount(t, dir)
			})
		}
	}
}
