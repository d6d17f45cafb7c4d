package testimage

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayoutFiles returns an OCI image layout that holds the images, in that order, as entries of a tar.
func LayoutFiles(images ...Tagged) []Entry {
	files := []Entry{Dir("blobs"), Dir("blobs/sha256")}
	doc := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, im := range images {
		root := im.Root
		if im.Tag != "" {
			root.Annotations = map[string]string{v1.AnnotationRefName: im.Tag}
		}
		doc.Manifests = append(doc.Manifests, root)
		for _, d := range im.Digests() {
			files = append(files, File(BlobPath("", d), string(im.Blobs[d])))
		}
	}
	return append(files,
		File(v1.ImageIndexFile, string(encode(doc))),
		File(v1.ImageLayoutFile, string(encode(v1.ImageLayout{Version: v1.ImageLayoutVersion}))))
}

// A DockerItem is an image in manifest.json of a docker archive.
type DockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// DockerManifestFile is the file of a docker archive that lists its images.
func DockerManifestFile(items ...DockerItem) Entry {
	return File("manifest.json", string(encode(items)))
}

// DockerFiles returns an image as docker save wrote it before version 25, as entries of a tar, and its item. A layer that
// is there twice is a symbolic link the second time. Layers are stored as their blobs are. What has no manifest.json
// beside it is an archive as Docker wrote it before version 1.10.
func (im Image) DockerFiles(tags ...string) ([]Entry, DockerItem) {
	b := im.Bundle()
	var files []Entry
	item := DockerItem{RepoTags: tags}
	id := ""
	for i, l := range im.Layers {
		parent := id
		id = string(rune('a'+i)) + l.DiffID.Encoded()[1:]
		name := id + "/layer.tar"
		files = append(files, Dir(id), File(id+"/VERSION", "1.0"), File(id+"/json", im.v1JSON(id, parent, i == len(im.Layers)-1)))
		first := slices.IndexFunc(im.Layers, func(other Layer) bool { return other.DiffID == l.DiffID })
		if first < i {
			files = append(files, Symlink(name, filepath.Join("..", item.Layers[first])))
		} else {
			files = append(files, File(name, string(l.Blob)))
		}
		item.Layers = append(item.Layers, name)
	}
	config := digest.FromBytes(im.encodeConfig())
	item.Config = config.Encoded() + ".json"
	return append(files, File(item.Config, string(b.Blobs[config])), dockerRepositoriesFile(id, tags...)), item
}

// v1JSON is what an archive says of a layer. The newest one is the image.
func (im Image) v1JSON(id, parent string, newest bool) string {
	v1 := map[string]any{"id": id, "created": "1970-01-01T00:00:00Z", "container_config": map[string]any{"Cmd": []string{"step " + id[:1]}}}
	if parent != "" {
		v1["parent"] = parent
	}
	if newest {
		v1["os"], v1["architecture"], v1["config"] = im.platform().OS, im.platform().Architecture, im.Config
	}
	return string(encode(v1))
}

// dockerRepositoriesFile is the file of a docker archive that names the image with that ID, NAME:TAG.
func dockerRepositoriesFile(id string, names ...string) Entry {
	repositories := map[string]map[string]string{}
	for _, name := range names {
		colon := strings.LastIndexByte(name, ':')
		repo, tag := name[:colon], name[colon+1:]
		if repositories[repo] == nil {
			repositories[repo] = map[string]string{}
		}
		repositories[repo][tag] = id
	}
	return File("repositories", string(encode(repositories)))
}
