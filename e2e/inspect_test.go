package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/e2e/internal/peer"
	"imgfs/internal/testimage"
)

// richConfig is a config with all that Docker has ever written to one, but for layers.
const richConfig = `{
	"architecture": "arm64", "variant": "v8", "os": "linux", "os.version": "1.2", "author": "Jane <jane@example.com> & co",
	"comment": "%s", "container": "c0ffee", "created": "2021-02-03T04:05:06.789+01:00", "docker_version": "20.10.1",
	"parent": "sha256:9ea100c02e854d9ed83a7b144bb897b7ba886708efe424608608997a5b672837",
	"config": {
		"Hostname": "h", "Domainname": "d", "User": "1000:1000", "AttachStdout": true, "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Tty": true,
		"Env": ["PATH=/bin", "A=<b>&c", "NAME=größe"], "Cmd": ["-c", "a b"], "Entrypoint": ["/bin/sh"], "Image": "sha256:abc",
		"Healthcheck": {"Test": ["CMD", "true"], "Interval": 5000000000, "Timeout": 1000000000, "StartPeriod": 7, "Retries": 3},
		"ArgsEscaped": true, "Volumes": {"/data": {}, "/a": {}}, "WorkingDir": "/srv", "NetworkDisabled": true, "MacAddress": "02:42:ac:11:00:02",
		"OnBuild": ["RUN x"], "Labels": {"b": "<2>", "a": "1"}, "StopSignal": "SIGINT", "StopTimeout": 9, "Shell": ["/bin/bash", "-c"]
	},
	"container_config": {"Hostname": "c0ffee", "Cmd": ["/bin/sh", "-c", "#(nop) CMD"], "Labels": null},
	"history": [{"created_by": "one", "comment": "first"}, {"created_by": "two", "empty_layer": true, "comment": "last"}],
	"rootfs": {"type": "layers", "diff_ids": ["%s"]}
}`

// withConfig is an image of one layer, and of a config that has a place for a diff ID.
func withConfig(t *testing.T, docker bool, config string) testimage.Bundle {
	t.Helper()
	types := []string{v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, v1.MediaTypeImageLayerGzip}
	if docker {
		types = []string{testimage.DockerManifest, testimage.DockerConfig, testimage.DockerLayer}
	}
	tar := testimage.Tar(testimage.File("a", config), testimage.Link("b", "a"), testimage.Symlink("c", "somewhere"), testimage.Whiteout("d"))
	layer := testimage.Gzip(tar)
	config = fmt.Sprintf(config, digest.FromBytes(tar))
	m := v1.Manifest{MediaType: types[0]}
	m.SchemaVersion = 2
	m.Config = v1.Descriptor{MediaType: types[1], Digest: digest.FromString(config), Size: int64(len(config))}
	m.Layers = []v1.Descriptor{{MediaType: types[2], Digest: digest.FromBytes(layer), Size: int64(len(layer))}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return testimage.Raw(types[0], b, []byte(config), layer)
}

const plainConfig = `{"rootfs": {"type": "layers", "diff_ids": ["%s"]}, "os": "linux", "architecture": "arm64"}`

// configured pushes images with odd configs in both dialects to a registry, and returns their references.
func configured(t *testing.T, r *testimage.Registry) (refs []string) {
	t.Helper()
	for name, config := range map[string]string{
		"rich": fmt.Sprintf(richConfig, "a <comment>", "%s"), "silent": fmt.Sprintf(richConfig, "", "%s"), "plain": plainConfig,
	} {
		for dialect, docker := range map[string]bool{"docker": true, "oci": false} {
			config += "\n" // images of the same config are one for Docker
			r.Push("odd/"+dialect, name, withConfig(t, docker, config))
			refs = append(refs, r.Host()+"/odd/"+dialect+":"+name)
		}
	}
	return refs
}

// formats are templates for skopeo, which has no functions but Go's own.
var formats = []string{
	"{{.Name}} {{.Digest}}", "{{range .Layers}}{{.}}\\n{{end}}end", "{{.Created}} {{.Os}}/{{.Architecture}}",
	"{{len .RepoTags}} {{.Labels}}", "{{json .}}", " json", "{{println .DockerVersion}}{{index .Env 1}}",
}

func TestInspectAsSkopeoPrintsWhatSkopeoPrints(t *testing.T) {
	h, r, place := newHost(t), testimage.StartRegistry(), t.TempDir()
	defer r.Close()
	refs := configured(t, r)
	amd, arm := tiny(), tiny()
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	r.Push("index", "t", testimage.Index(arm.Bundle(), amd.Bundle()))
	refs = append(refs, r.Host()+"/index:t", r.Host()+"/index@"+amd.Bundle().Root.Digest.String())
	im, old := get(t, theImages).PAXTar(), get(t, theRegistry).Addr+"/test/schema1:inspect"
	refs = append(refs, inLayout(im), inRegistry(get(t, theRegistry), im), inLayout(get(t, theImages).Full()[1]), inLayout(get(t, theImages).Shapes()))
	for to, options := range map[string][]string{
		"oci-archive:" + place + "/oci.tar:v1": nil, "docker-archive:" + place + "/docker.tar:debian:12": nil, "dir:" + place + "/dir": nil,
		"docker://" + old: {"--format", "v2s1"},
	} {
		if err := peer.Copy(timeLimit(t), inLayout(im), to, options...); err != nil {
			t.Fatal(err)
		}
		if to != "docker://"+old {
			refs = append(refs, to)
		}
	}
	refs = append(refs, old, "docker-archive:"+filepath.Join(place, "docker.tar"))
	for _, ref := range refs {
		if got, want := h.ok(t, "inspect", "--as=skopeo", ref), skopeoInspect(t, ref); got != want {
			t.Errorf("%s: (imgfs, skopeo) %s", ref, cmp.Diff(got, want))
		}
	}
	rich := r.Host() + "/odd/oci:rich"
	for _, format := range formats {
		if got, want := h.ok(t, "inspect", "--as=skopeo", "--format", format, rich), skopeoInspect(t, rich, "--format", format); got != want {
			t.Errorf("%s: imgfs prints\n%s\nskopeo prints\n%s", format, got, want)
		}
	}
}

// dockersOwn matches what only Docker can tell of an image.
var dockersOwn = regexp.MustCompile(`(?s) {8}"GraphDriver": \{.*?\n {8}\},\n|,\n {8}"Metadata": \{.*?\n {8}\}`)

func TestInspectAsDockerPrintsWhatDockerPrints(t *testing.T) {
	h, d, r := newHost(t), get(t, theDocker), testimage.StartRegistry()
	defer r.Close()
	ctx, archive := timeLimit(t), filepath.Join(t.TempDir(), "docker.tar")
	byDigest := withConfig(t, false, fmt.Sprintf(richConfig, "by digest", "%s"))
	r.Push("odd/oci", "", byDigest)
	refs := append(configured(t, r), r.Host()+"/odd/oci@"+byDigest.Root.Digest.String(), inRegistry(get(t, theRegistry), get(t, theImages).PAXTar()))
	same := func(ref, inDocker string) {
		t.Helper()
		h.ok(t, "ls", ref) // which indexes it
		out, err := d.Inspect(ctx, inDocker)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := h.ok(t, "inspect", "--as=docker", ref), dockersOwn.ReplaceAllString(string(out), ""); got != want {
			t.Errorf("%s: (imgfs, Docker) %s", ref, cmp.Diff(got, want))
		}
	}
	for _, ref := range refs {
		if err := d.Pull(ctx, ref); err != nil {
			t.Fatal(err)
		}
		same(ref, ref)
	}
	if err := peer.Copy(ctx, inLayout(get(t, theImages).Disputed()), "docker-archive:"+archive+":test/disputed:1"); err != nil {
		t.Fatal(err)
	}
	if err := d.Load(ctx, archive); err != nil {
		t.Fatal(err)
	}
	same(archive, "test/disputed:1")
}
