package fetcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// oldSave returns the path of an archive as docker save wrote it before version 1.10.
func oldSave(t testing.TB, im testimage.Image, tags ...string) string {
	t.Helper()
	files, _ := im.DockerFiles(tags...)
	config := len(files) - 2
	return tarFile(t, slices.Delete(files, config, config+1)...)
}

func TestAnArchiveOfOldHasTheImageThatWasSaved(t *testing.T) {
	one, two := testimage.Tar(testimage.File("one", "1")), testimage.Tar(testimage.File("two", "2"))
	image := imageOf(one, two, one)
	image.Config.Env = []string{"A=b"}
	archive := oldSave(t, image, "debian:12", "reg.example:5000/a:b")
	f, _ := newFetcher(t, Options{})
	for _, ref := range []string{"docker-archive:" + archive, "docker-archive:" + archive + ":debian:12", archive + ":@0", archive, archive + ":reg.example:5000/a:b"} {
		im := resolve(t, f, ref)
		var config v1.Image
		if err := json.Unmarshal(im.Config, &config); err != nil || im.Platform.Architecture != "amd64" {
			t.Errorf("%s: %v for %v", ref, err, im.Platform)
		}
		if len(config.History) != 3 || config.History[2].CreatedBy != "step c" || !slices.Equal(config.Config.Env, image.Config.Env) {
			t.Errorf("%s: the config is %s", ref, im.Config)
		}
		for i, l := range im.Layers {
			if l.DiffID != image.Layers[i].DiffID {
				t.Errorf("%s: layer %d is %+v", ref, i, l)
			}
		}
		checkLayers(t, f, im, one, two, one)
	}
	if _, err := f.Resolve(t.Context(), parse(t, archive+":debian:11")); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"debian:12", "reg.example:5000/a:b"`) {
		t.Errorf("a name that is not there: %v", err)
	}
}

func TestAnArchiveOfOldMayHaveSeveralImages(t *testing.T) {
	files, item := imageOf([]byte("a"), []byte("b")).DockerFiles("x:1")
	top, below := path.Dir(item.Layers[1]), path.Dir(item.Layers[0])
	both := fmt.Sprintf(`{"b":{"2":%q},"a":{"1":%q,"3":%q}}`, top, below, below)
	archive := tarFile(t, append(files[:8:8], testimage.File(repositoriesFile, both))...)
	f, _ := newFetcher(t, Options{})
	for ref, contents := range map[string][][]byte{":@0": {[]byte("a")}, ":a:3": {[]byte("a")}, ":@1": {[]byte("a"), []byte("b")}, ":b:2": {[]byte("a"), []byte("b")}} {
		checkLayers(t, f, resolve(t, f, archive+ref), contents...)
	}
	if _, err := f.Resolve(t.Context(), parse(t, archive)); !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), `"a:1", "a:3", "b:2"`) {
		t.Errorf("without a name: %v", err)
	}
}

func TestArchivesOfOldThatAreWrong(t *testing.T) {
	files, item := imageOf([]byte("a")).DockerFiles("a:1")
	id := path.Dir(item.Layers[0])
	with := func(change testimage.Entry) string { return tarFile(t, append(slices.Clone(files), change)...) }
	content := testimage.Tar(testimage.File("f", "1"))
	f, _ := newFetcher(t, Options{})
	for _, test := range []struct {
		name, path string
		kind       error
		say        string
	}{
		{"no JSON", with(testimage.File(repositoriesFile, "{")), ErrMalformed, repositoriesFile},
		{"an ID that is a path", with(testimage.File(repositoriesFile, `{"a":{"1":"../x"}}`)), ErrMalformed, "../x"},
		{"no image", with(testimage.File(repositoriesFile, `{}`)), ErrNotFound, "no image"},
		{"no layer", tarFile(t, files[4:]...), ErrNotFound, id + "/json"},
		{"no tar", tarFile(t, slices.Concat(files[:3], files[4:])...), ErrNotFound, "layer.tar"},
		{"a layer below itself", with(testimage.File(id+"/json", fmt.Sprintf(`{"id":%q,"parent":%q}`, id, id))), ErrMalformed, "below itself"},
		{"a layer of another name", with(testimage.File(id+"/json", `{"id":"x"}`)), ErrMalformed, id},
		{"a layer below that is a path", with(testimage.File(id+"/json", fmt.Sprintf(`{"id":%q,"parent":".."}`, id))), ErrMalformed, id},
		{"a layer that is compressed", with(testimage.File(id+"/layer.tar", string(gzipped(t, content)))), errors.ErrUnsupported, "diff ID"},
	} {
		_, err := f.Resolve(t.Context(), parse(t, "docker-archive:"+test.path))
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.say) || !strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
