package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

// TestDockerKnowsAnImageByTheDigestOfItsConfig compares what Docker and imgfs make of an image, also of one that comes without a
// config.
func TestDockerKnowsAnImageByTheDigestOfItsConfig(t *testing.T) {
	d, h, ref := get(t, theDocker), newHost(t), inRegistry(get(t, theRegistry), get(t, theImages).PAXTar())
	same := func(ref, name string) {
		t.Helper()
		out, err := d.Inspect(timeLimit(t), name)
		must(t, err)
		id := parseJSON[[]struct{ ID string }](t, string(out))[0].ID
		if want := digest.FromString(h.ok(t, "config", ref)).String(); id != want {
			t.Errorf("Docker calls %s %s, want the config's digest %s", ref, id, want)
		}
	}
	must(t, d.Pull(timeLimit(t), ref))
	same(ref, ref)
	place, name := t.TempDir(), "test/old:v1"
	at := func(name string) string { return filepath.Join(place, name) }
	files, item := tiny().DockerFiles(name)
	must(t, os.WriteFile(at("tiny.tar"), testimage.Tar(append(files, testimage.DockerManifestFile(item))...), 0o600))
	must(t, d.Load(timeLimit(t), at("tiny.tar")))
	must(t, d.Save(timeLimit(t), at("saved.tar"), name))
	asDocker19(t, at("saved.tar"), at("old.tar"))
	must(t, d.Load(timeLimit(t), at("old.tar")))
	same("docker-archive:"+at("old.tar"), name)
}

// asDocker19 writes an archive as Docker 1.9 did, of what there is of it in one that Docker 20.10 has written: no manifest.json
// and no config.
func asDocker19(t *testing.T, archive, old string) {
	t.Helper()
	files := t.TempDir()
	runTool(t, "tar", "--extract", "--file", archive, "--directory", files)
	runTool(t, "tar", "--create", "--file", old, "--directory", files, "--exclude=./*.json", ".")
}
