package testimage

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tagged is a bundle under a name. Tag "" leaves the entry without a name.
type Tagged struct {
	Tag string
	Bundle
}

// WriteLayout writes an OCI image layout that holds the images, in that order.
func WriteLayout(dir string, images ...Tagged) error {
	doc := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, im := range images {
		root := im.Root
		if im.Tag != "" {
			root.Annotations = map[string]string{v1.AnnotationRefName: im.Tag}
		}
		doc.Manifests = append(doc.Manifests, root)
		for d, content := range im.Blobs {
			if err := write(BlobPath(dir, d), content); err != nil {
				return err
			}
		}
	}
	if err := write(filepath.Join(dir, v1.ImageIndexFile), encode(doc)); err != nil {
		return err
	}
	version := v1.ImageLayout{Version: v1.ImageLayoutVersion}
	return write(filepath.Join(dir, v1.ImageLayoutFile), encode(version))
}

// BlobPath returns where a layout at dir keeps the blob d.
func BlobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
