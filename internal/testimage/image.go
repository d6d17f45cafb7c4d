// Package testimage makes images for tests: tar streams and their compressed
// shapes, images and indexes of them, OCI layouts, and a registry in the process
// that serves them as well or as badly as it is told to. Nothing here is for
// other use than in tests and demonstrations: little is checked.
package testimage

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest version 2, schema 2, and of schema 1.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerSchema1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// A Layer is the blob of one layer, and what the image says of it.
type Layer struct {
	Blob      []byte
	DiffID    digest.Digest // written to the config as it is, true or not
	MediaType string        // "" means gzip, in the dialect of the image
	URLs      []string      // where a foreign layer is
}

// NewLayer returns the layer whose blob holds tar.
func NewLayer(blob, tar []byte) Layer {
	return Layer{Blob: blob, DiffID: digest.FromBytes(tar)}
}

// An Image says what a single-platform image is made of.
type Image struct {
	Layers   []Layer
	Platform v1.Platform // the zero value means linux/amd64
	Docker   bool        // Docker's media types, not OCI's
	Config   v1.ImageConfig
	History  []v1.History
	Created  time.Time
	// Algorithm makes the digests of config and layers; "" means sha256.
	Algorithm digest.Algorithm
}

// A Bundle is a tree of documents and blobs under one root.
type Bundle struct {
	Root  v1.Descriptor
	Blobs map[digest.Digest][]byte // every document and every layer, the root too
	Types map[digest.Digest]string // media types of the manifests and indexes among them
}

// Bundle returns the documents of the image, and its layers.
func (im Image) Bundle() Bundle {
	b := newBundle()
	platform := im.platform()
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: im.dialect(v1.MediaTypeImageManifest, DockerManifest)}
	for _, l := range im.Layers {
		mediaType := l.MediaType
		if mediaType == "" {
			mediaType = im.dialect(v1.MediaTypeImageLayerGzip, DockerLayer)
		}
		d := b.add(im.algorithm(), mediaType, l.Blob)
		d.URLs = l.URLs
		m.Layers = append(m.Layers, d)
	}
	m.Config = b.add(im.algorithm(), im.dialect(v1.MediaTypeImageConfig, DockerConfig), im.encodeConfig())
	b.Root = b.addManifest(m.MediaType, encode(m))
	b.Root.Platform = &platform
	return b
}

func (im Image) encodeConfig() []byte {
	config := v1.Image{Platform: im.platform(), Config: im.Config, History: im.History, RootFS: v1.RootFS{Type: "layers"}}
	if !im.Created.IsZero() {
		config.Created = &im.Created
	}
	for _, l := range im.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	return encode(config)
}

func (im Image) platform() v1.Platform {
	if im.Platform.OS == "" {
		return v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	return im.Platform
}

func (im Image) dialect(oci, docker string) string {
	if im.Docker {
		return docker
	}
	return oci
}

func (im Image) algorithm() digest.Algorithm {
	if im.Algorithm == "" {
		return digest.SHA256
	}
	return im.Algorithm
}

// Index returns an OCI index over the children, which may be indexes themselves.
func Index(children ...Bundle) Bundle { return index(v1.MediaTypeImageIndex, children) }

// DockerList returns a Docker manifest list over the children.
func DockerList(children ...Bundle) Bundle { return index(DockerIndex, children) }

func index(mediaType string, children []Bundle) Bundle {
	b := newBundle()
	doc := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: []v1.Descriptor{}}
	for _, c := range children {
		doc.Manifests = append(doc.Manifests, c.Root)
		maps.Copy(b.Blobs, c.Blobs)
		maps.Copy(b.Types, c.Types)
	}
	b.Root = b.addManifest(mediaType, encode(doc))
	return b
}

// Attestation returns the entry that buildkit adds to an index beside an image.
func Attestation(of Bundle) Bundle {
	b := Image{
		Layers:   []Layer{{Blob: []byte(`{}`), DiffID: digest.FromString(`{}`), MediaType: "application/vnd.in-toto+json"}},
		Platform: v1.Platform{OS: "unknown", Architecture: "unknown"},
	}.Bundle()
	b.Root.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": of.Root.Digest.String(),
	}
	return b
}

// Raw returns a bundle whose root is any document at all, and the blobs it speaks of.
func Raw(mediaType string, manifest []byte, blobs ...[]byte) Bundle {
	b := newBundle()
	for _, blob := range blobs {
		b.add(digest.SHA256, "", blob)
	}
	b.Root = b.addManifest(mediaType, manifest)
	return b
}

// Digests returns the digests of all blobs, sorted.
func (b Bundle) Digests() []digest.Digest { return slices.Sorted(maps.Keys(b.Blobs)) }

func newBundle() Bundle {
	return Bundle{Blobs: map[digest.Digest][]byte{}, Types: map[digest.Digest]string{}}
}

func (b Bundle) add(a digest.Algorithm, mediaType string, content []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: a.FromBytes(content), Size: int64(len(content))}
	b.Blobs[d.Digest] = content
	return d
}

func (b Bundle) addManifest(mediaType string, content []byte) v1.Descriptor {
	d := b.add(digest.SHA256, mediaType, content)
	b.Types[d.Digest] = mediaType
	return d
}

// encode returns v as JSON. The types it is given always encode.
func encode(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		return []byte(err.Error())
	}
	return out
}
