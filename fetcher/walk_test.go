package fetcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// A tour is a Walker that notes what it is told.
type tour struct {
	seen []string
	end  error // returned for the first image
}

func (w *tour) Document(d Document) error {
	note := d.Kind
	if d.Platform != nil {
		note += " " + platformString(*d.Platform)
	}
	if d.Err != nil {
		note += " wrong"
	}
	w.seen = append(w.seen, note)
	return nil
}

func (w *tour) Image(_ context.Context, im *Image) error {
	w.seen = append(w.seen, fmt.Sprintf("image %s %v", platformString(im.Platform), im.Artifact))
	return w.end
}

func TestAWalkGoesOnAfterWhatIsWrong(t *testing.T) {
	amd, arm := onPlatform(imageOf([]byte("amd")), "linux/amd64"), onPlatform(imageOf([]byte("arm")), "linux/arm64")
	mips := onPlatform(imageOf([]byte("mips")), "linux/mips")
	signature := testimage.Raw(v1.MediaTypeImageManifest, document(t, amd, func(m map[string]any) {
		m["config"].(map[string]any)["mediaType"] = "application/vnd.oci.empty.v1+json"
	}), amd.Blobs[resolveConfig(t, amd)])
	nested := testimage.Index(mips)
	index := testimage.Index(signature, amd, testimage.Attestation(amd), nested, arm)
	armConfig := resolveConfig(t, arm)
	index.Blobs[index.Root.Digest] = append([]byte(" "), index.Blobs[index.Root.Digest]...)
	index.Blobs[armConfig] = append([]byte(" "), index.Blobs[armConfig]...)
	delete(index.Blobs, nested.Root.Digest)
	for _, test := range []struct {
		all  bool
		want []string
	}{
		{false, []string{"index wrong", "index wrong", "manifest linux/amd64", "config", "image linux/amd64 false"}},
		{true, []string{
			"index wrong", "index wrong", "manifest", "config", "image / true", "manifest linux/amd64", "config", "image linux/amd64 false",
			"manifest unknown/unknown", "config", "image / true", "manifest linux/arm64", "config wrong", "image linux/arm64 false",
		}},
	} {
		for place, ref := range places(t, index) {
			f, _ := newFetcher(t, Options{Platform: "linux/amd64"})
			var w tour
			if err := f.Walk(t.Context(), parse(t, ref), test.all, &w); err != nil || !slices.Equal(w.seen, test.want) {
				t.Errorf("%s, all %v: %v, %q", place, test.all, err, w.seen)
			}
			end := errors.New("enough")
			if err := f.Walk(t.Context(), parse(t, ref), test.all, &tour{end: end}); !errors.Is(err, end) {
				t.Errorf("%s: a walk that is ended says %v", place, err)
			}
		}
	}
	for place, ref := range places(t, testimage.Index(amd)) {
		f, _ := newFetcher(t, Options{Platform: "linux/s390x"})
		if err := f.Walk(t.Context(), parse(t, ref), false, &tour{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: of a platform that is not there: %v", place, err)
		}
	}
}

func TestAWalkGoesThroughArtifacts(t *testing.T) {
	artifact := testimage.Raw(v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"artifactType":"application/vnd.example.thing","layers":[]}`))
	for place, ref := range places(t, artifact) {
		f, _ := newFetcher(t, Options{})
		var w tour
		if err := f.Walk(t.Context(), parse(t, ref), false, &w); err != nil || !slices.Equal(w.seen, []string{"manifest", "image / true"}) {
			t.Errorf("%s: one without a config: %v, %q", place, err, w.seen)
		}
	}
}

func TestAManifestHasTheSizeThatItsIndexSays(t *testing.T) {
	image := imageOf([]byte("x")).Bundle()
	image.Root.Size++
	for place, ref := range places(t, testimage.Index(image)) {
		f, _ := newFetcher(t, Options{})
		if _, err := f.Resolve(t.Context(), parse(t, ref)); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", place, err)
		}
	}
}
