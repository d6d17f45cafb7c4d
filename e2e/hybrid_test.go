package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// hybridOf writes an archive as docker save does since version 25, where images are not in containerd's store, of one that an
// older version has written (github.com/moby/moby, image/tarexport, save.go): an OCI layout of layers that are
// not compressed, and the lists that docker load wants, with the names of the same blobs. Its documents are byte for byte what
// Docker 28.5.2 writes of that image.
func hybridOf(t *testing.T, archive, hybrid, name, tag string) {
	t.Helper()
	old, dir := t.TempDir(), t.TempDir()
	runTool(t, "tar", "--extract", "--file", archive, "--directory", old)
	items := parseJSON[[]struct {
		Config string
		Layers []string
	}](t, readFile(t, filepath.Join(old, "manifest.json")))
	rawConfig := readFile(t, filepath.Join(old, items[0].Config))
	config := parseJSON[v1.Image](t, rawConfig)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: writeBlob(t, dir, v1.MediaTypeImageConfig, rawConfig),
	}
	type source struct {
		MediaType string        `json:"mediaType"`
		Size      int64         `json:"size"`
		Digest    digest.Digest `json:"digest"`
	}
	type item struct {
		Config       string
		RepoTags     []string
		Layers       []string
		LayerSources map[digest.Digest]source
	}
	list := item{blobName(m.Config.Digest), []string{name + ":" + tag}, nil, map[digest.Digest]source{}}
	for i, id := range config.RootFS.DiffIDs {
		stored := filepath.Join(old, items[0].Layers[i])
		writeBlob(t, dir, "", readFile(t, filepath.Join(filepath.Dir(stored), "json")))
		info, err := os.Stat(stored)
		if err == nil {
			err = os.Link(stored, filepath.Join(dir, blobName(id)))
		}
		if err != nil {
			t.Fatal(err)
		}
		l := source{v1.MediaTypeImageLayer, info.Size(), id}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.MediaType, Digest: id, Size: l.Size})
		list.Layers, list.LayerSources[id] = append(list.Layers, blobName(id)), l
	}
	root := writeBlob(t, dir, v1.MediaTypeImageManifest, encodeJSON(t, m))
	root.Annotations = map[string]string{"io.containerd.image.name": "docker.io/" + name + ":" + tag, v1.AnnotationRefName: tag}
	top := config.RootFS.DiffIDs[len(config.RootFS.DiffIDs)-1].Encoded()
	for file, text := range map[string]string{
		"index.json": encodeJSON(t, v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{root},
		}),
		"manifest.json": encodeJSON(t, []item{list}) + "\n",
		"oci-layout":    `{"imageLayoutVersion": "1.0.0"}`,
		"repositories":  encodeJSON(t, map[string]any{name: map[string]string{tag: top}}) + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	runTool(t, "tar", "--create", "--file", hybrid, "--directory", dir, "blobs", "index.json", "manifest.json", "oci-layout", "repositories")
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func encodeJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func blobName(d digest.Digest) string { return "blobs/" + strings.Replace(d.String(), ":", "/", 1) }

// writeBlob writes a blob to a layout.
func writeBlob(t *testing.T, layout, mediaType, content string) v1.Descriptor {
	t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	name := filepath.Join(layout, blobName(d.Digest))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}
