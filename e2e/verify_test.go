package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/e2e/internal/peer"
	"imgfs/internal/testimage"
)

// A verifyNode is a line of imgfs verify --json.
type verifyNode struct {
	Node, Result string
	Layer        int
	Digest       digest.Digest
	Size         int64
}

// verify returns what verify finds, and the names of what is wrong.
func (h *host) verify(t *testing.T, code int, args ...string) (nodes []verifyNode, wrong []string) {
	t.Helper()
	r := h.run(t, append([]string{"verify", "--json"}, args...)...)
	if r.code != code {
		t.Errorf("imgfs verify %q: exit code %d, want %d\n%s", args, r.code, code, r.stderr)
	}
	nodes = parseJSON[[]verifyNode](t, r.stdout)
	for _, n := range nodes {
		name := n.Node
		if n.Layer > 0 {
			name = fmt.Sprint(name, " ", n.Layer)
		}
		if n.Result == "differs" || n.Result == "error" {
			wrong = append(wrong, name)
		}
	}
	return nodes, wrong
}

// TestVerifyFindsImagesOfRealToolsRight reads them from every place that they are copied to.
func TestVerifyFindsImagesOfRealToolsRight(t *testing.T) {
	h, place := newHost(t), t.TempDir()
	set := get(t, theImages)
	refs := []string{inLayout(set.Full()[1]), inLayout(set.Zstd()), inLayout(set.Chunked()), inLayout(set.Shapes())}
	im := set.Python()
	for _, to := range []string{"oci-archive:" + place + "/oci.tar:v1", "docker-archive:" + place + "/docker.tar:debian:12", "dir:" + place + "/dir"} {
		if err := peer.Copy(timeLimit(t), inLayout(im), to); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, to)
	}
	for _, ref := range append(refs, inRegistry(get(t, theRegistry), im)) {
		nodes, wrong := h.verify(t, 0, ref)
		if len(wrong) > 0 || len(nodes) < 6 {
			t.Errorf("%s: wrong is %q of %+v", ref, wrong, nodes)
		}
		for _, n := range nodes {
			if n.Node == "diff ID" && n.Result != "ok" {
				t.Errorf("%s: %+v", ref, n)
			}
		}
	}
}

func TestVerifyNamesWhatIsWrongAndNothingElse(t *testing.T) {
	h := newHost(t)
	image, _ := bundleOf(t, get(t, theImages).PAXTar())
	image.Root.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	good := testimage.Index(testimage.Index(image))
	for _, tampering := range testimage.Tamperings() {
		t.Run(tampering.Name, func(t *testing.T) {
			layout, code := t.TempDir(), 5
			writeLayout(t, layout, tampering.Of(good))
			if tampering.Missing {
				code = 2
			}
			if nodes, wrong := h.verify(t, code, "oci:"+layout); !slices.Equal(wrong, tampering.Wrong) {
				t.Errorf("wrong is %q of %+v, want %q", wrong, nodes, tampering.Wrong)
			}
		})
	}
}
