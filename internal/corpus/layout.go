package corpus

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeIndex completes a layout: an image of layers that are there for each tag.
func writeIndex(layout string, images map[string][]layer) error {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for tag, layers := range images {
		manifest, err := writeImage(layout, layers)
		if err != nil {
			return err
		}
		manifest.Annotations = map[string]string{v1.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, manifest)
	}
	if err := writeJSON(filepath.Join(layout, "index.json"), index); err != nil {
		return err
	}
	return writeJSON(filepath.Join(layout, v1.ImageLayoutFile), v1.ImageLayout{Version: v1.ImageLayoutVersion})
}

// writeImage writes config and manifest.
func writeImage(layout string, layers []layer) (v1.Descriptor, error) {
	config := v1.Image{
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		manifest.Layers = append(manifest.Layers, l.blob)
	}
	var err error
	if manifest.Config, err = writeBlob(layout, v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, err
	}
	return writeBlob(layout, v1.MediaTypeImageManifest, manifest)
}

func writeBlob(layout, mediaType string, document any) (v1.Descriptor, error) {
	b, err := json.Marshal(document)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, os.WriteFile(blobPath(layout, d.Digest), b, 0o600)
}

func writeJSON(file string, document any) error {
	b, err := json.Marshal(document)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
