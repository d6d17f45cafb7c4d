package testimage

import (
	"path/filepath"
	"slices"

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
// is there twice is a symbolic link the second time. Layers are stored as their blobs are.
func (im Image) DockerFiles(tags ...string) ([]Entry, DockerItem) {
	b := im.Bundle()
	var files []Entry
	item := DockerItem{RepoTags: tags}
	for i, l := range im.Layers {
		dir := string(rune('a'+i)) + l.DiffID.Encoded()[1:]
		name := dir + "/layer.tar"
		files = append(files, Dir(dir), File(dir+"/VERSION", "1.0"), File(dir+"/json", "{}"))
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
	return append(files, File(item.Config, string(b.Blobs[config])), File("repositories", "{}")), item
}
