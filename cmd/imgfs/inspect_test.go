package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

func TestAnImageIsPrintedByATemplate(t *testing.T) {
	u := newUser(t)
	im := threeLayers()
	im.Config = v1.ImageConfig{Env: []string{"A=1", "B=<2>"}, Labels: map[string]string{"a.b": "c"}, User: "me"}
	b := im.Bundle()
	u.registry.Push("team/a", "v1", b)
	d, second, id := b.Root.Digest.String(), digest.FromBytes(im.Layers[1].Blob).String(), resolvedConfig(t, b)
	for _, test := range []struct{ as, format, want string }{
		{"", "{{.Name}} {{.Digest}}", u.ref() + " " + d},
		{"", "{{.manifest_digest}} {{.platform}}", d + " linux/amd64"},
		{"", "{{(index .Layers 1).Digest}}", second},
		{"", "{{json .Config.Env}}", `["A=1","B=<2>"]`},
		{"", `{{index .Config.Labels "a.b" | upper}}`, "C"},
		{"", `{{join .Config.Env ", "}}{{println}}{{truncate .Config.User 1}}{{pad "x" 1 1}}{{title "y"}}`, "A=1, B=<2>\nm x Y"},
		{"docker", "{{len .RootFS.Layers}} {{index .RootFS.Layers 1}}", "3 " + im.Layers[1].DiffID.String()},
		{"docker", "{{.Id}} {{.Config.User}} {{len .RepoTags}}", id + " me 1"},
		{"docker", "{{.ID}}", id},
		{"skopeo", `{{.Digest}}\t{{.Os}}`, d + "\tlinux"},
		{"skopeo", "{{(index .LayersData 1).Digest}}", second},
	} {
		got, _ := u.run("inspect", "--as="+test.as, "--format", test.format, u.ref())
		if got != test.want+"\n" {
			t.Errorf("--as=%s --format %s prints %q, want %q", test.as, test.format, got, test.want)
		}
	}
	for as, start := range map[string]string{"": "{\n  \"name\": ", "docker": "[\n    {\n", "skopeo": "{\n    \"Name\": "} {
		if got, _ := u.run("inspect", "--as="+as, "--format=json", u.ref()); !strings.HasPrefix(got, start) || !json.Valid([]byte(got)) {
			t.Errorf("--as=%s --format=json prints %s", as, got)
		}
	}
}

// resolvedConfig is the digest of the config of an image.
func resolvedConfig(t *testing.T, b testimage.Bundle) string {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(b.Blobs[b.Root.Digest], &m); err != nil {
		t.Fatal(err)
	}
	return m.Config.Digest.String()
}

func TestATemplateThatCannotBeUsedIsAUsageError(t *testing.T) {
	u := newUser(t)
	for _, args := range [][]string{
		{"--format={{.Name"}, {"--format={{.Nothing}}"}, {"--format={{nothing .Name}}"}, {"--as=docker", "--format={{.Config.Nothing}}"},
		{"--as=skopeo", "--format={{.layers}}"}, {"--as=podman"}, {"--as=docker", "--json"}, {"--format={{.Name}}", "--json"},
	} {
		var out, errs bytes.Buffer
		if code := run(append(append([]string{"inspect", u.ref()}, args...), u.flags...), &out, &errs); code != exitUsage || out.Len() > 0 {
			t.Errorf("%q: exit code %d, prints %q, says %s", args, code, &out, &errs)
		}
	}
}

func TestSkopeosTagsAreNullWhereTheRegistryKeepsThemToItself(t *testing.T) {
	tags := func(args ...string) (raw, log string) {
		u := newUser(t)
		u.run("inspect", u.ref()) // the documents are in the cache from now on
		if len(args) == 0 {
			u.registry.Inject(testimage.Fault{On: testimage.Manifests, Kind: testimage.Refuse, Status: http.StatusForbidden})
			args = []string{u.registry.Host() + "/team/a@" + u.bundle.Root.Digest.String()}
		} else {
			args = append(args, u.ref())
		}
		out, log := u.run(append([]string{"inspect", "--as=skopeo"}, args...)...)
		var i struct{ RepoTags json.RawMessage }
		if err := json.Unmarshal([]byte(out), &i); err != nil {
			t.Fatal(err)
		}
		return string(i.RepoTags), log
	}
	for name, args := range map[string][]string{"refused": nil, "offline": {"--offline"}} {
		if raw, log := tags(args...); raw != "null" || !strings.Contains(log, "tags of the repository") {
			t.Errorf("%s: tags are %s, and the log says %q", name, raw, log)
		}
	}
	if raw, log := tags("--log-level=warn"); raw != "[\n        \"v1\"\n    ]" || log != "" {
		t.Errorf("tags are %s, and the log says %q", raw, log)
	}
}

func TestWhatDockerWouldCallAnImage(t *testing.T) {
	im := threeLayers()
	files, item := im.DockerFiles("debian:12", "docker.io/team/a:v1", "quay.example/x:y")
	archive := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(archive, testimage.Tar(append(files, testimage.DockerManifestFile(item))...), 0o600); err != nil {
		t.Fatal(err)
	}
	layout := t.TempDir()
	if err := testimage.WriteLayout(layout, testimage.Tagged{Tag: "v1", Bundle: im.Bundle()}); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(layout, v1.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	const annotation = `"io.containerd.image.name":"docker.io/library/alpine:v1",`
	index = bytes.Replace(index, []byte(`"org.opencontainers.image.ref.name"`), []byte(annotation+`"org.opencontainers.image.ref.name"`), 1)
	if err := os.WriteFile(filepath.Join(layout, v1.ImageIndexFile), index, 0o600); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string][]string{
		archive: {"debian:12", "team/a:v1", "quay.example/x:y"}, "docker-archive:" + archive + ":debian:12": {"debian:12", "team/a:v1", "quay.example/x:y"},
		"oci:" + layout + ":v1": {"alpine:v1"}, "oci:" + layout + "@" + im.Bundle().Root.Digest.String(): {},
	} {
		var out, errs bytes.Buffer
		if code := run([]string{"inspect", "--as=docker", "--cache-dir", t.TempDir(), ref}, &out, &errs); code != exitOK {
			t.Fatalf("%s: exit code %d: %s", ref, code, &errs)
		}
		var got []struct {
			RepoTags, RepoDigests []string
			Size                  *int64
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[0].RepoTags, want) || len(got[0].RepoDigests) > 0 || got[0].Size != nil || !strings.Contains(errs.String(), "not all layers are indexed") {
			t.Errorf("%s: %+v, want %q; it says %s", ref, got, want, &errs)
		}
	}
}
