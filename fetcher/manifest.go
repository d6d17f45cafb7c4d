package fetcher

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest version 2: schema 2 and schema 1.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex         = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig        = "application/vnd.docker.container.image.v1+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// acceptManifests is what a registry is told we understand, the best first.
var acceptManifests = strings.Join([]string{
	v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerIndex, dockerManifest, dockerSchema1Signed, dockerSchema1,
}, ", ")

// Bounds of what is read whole.
const (
	maxManifest   = 4 << 20
	maxConfig     = 8 << 20
	maxLayoutFile = 4 << 10 // the file oci-layout holds a version, and no more
)

// A manifest is an image manifest or an index, of either dialect, or one of schema 1.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	ArtifactType  string          `json:"artifactType"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`

	schema1 *schema1 // nil for other manifests
}

func (m *manifest) isIndex() bool { return m.Manifests != nil }

func isIndexType(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == dockerIndex
}

// parseManifest parses a manifest, and sets its media
// type where it does not say it. What could be read as both is refused: two
// programs would see two different images under one digest (CVE-2021-41190).
func parseManifest(what string, b []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, errorf(ErrMalformed, "manifest of %s is not valid: %s", what, printable(err.Error()))
	}
	image := m.Config != nil || m.Layers != nil
	if m.SchemaVersion == 1 && !image && !m.isIndex() {
		return parseSchema1(what, b)
	}
	switch m.MediaType {
	case "", v1.MediaTypeImageIndex, dockerIndex, v1.MediaTypeImageManifest, dockerManifest:
	default:
		return nil, unsupported("%s is a %s, not an image", what, printable(m.MediaType))
	}
	if m.FSLayers != nil {
		return nil, errorf(ErrMalformed, "manifest of %s is of schema 1 and of another one", what)
	}
	if image == m.isIndex() {
		return nil, errorf(ErrMalformed, "manifest of %s is neither just an image nor just an index", what)
	}
	if m.MediaType == "" {
		m.MediaType = v1.MediaTypeImageManifest
		if m.isIndex() {
			m.MediaType = v1.MediaTypeImageIndex
		}
	}
	if isIndexType(m.MediaType) != m.isIndex() {
		return nil, errorf(ErrMalformed, "manifest of %s has the media type %s, and other content", what, m.MediaType)
	}
	return &m, nil
}

// check checks what an image manifest says of config and layers.
func (m *manifest) check(what string) error {
	if m.Config == nil && m.ArtifactType == "" {
		return errorf(ErrMalformed, "manifest of %s has no config", what)
	}
	if err := m.checkTypes(what); err != nil {
		return err
	}
	return m.checkDescriptors(what)
}

// checkTypes refuses what is no image.
func (m *manifest) checkTypes(what string) error {
	if kind := m.artifact(); kind != "" {
		return unsupported("%s is an artifact (%s), not an image: it has no image config and no file system", what, printable(kind))
	}
	for _, l := range m.Layers {
		if strings.HasSuffix(l.MediaType, "+json") || strings.HasSuffix(l.MediaType, "+encrypted") {
			return unsupported("layer %s of %s is a %s, not a tar", printable(l.Digest.String()), what, printable(l.MediaType))
		}
	}
	return nil
}

// checkDescriptors checks the digests and sizes. An artifact need have no config.
func (m *manifest) checkDescriptors(what string) error {
	if m.Config != nil {
		if err := checkDescriptor("config of "+what, *m.Config); err != nil {
			return err
		}
	}
	for _, l := range m.Layers {
		if err := checkDescriptor("layer of "+what, l); err != nil {
			return err
		}
	}
	return nil
}

// artifact returns the type of what is no image; "" for images.
func (m *manifest) artifact() string {
	if m.Config == nil {
		return m.ArtifactType
	}
	switch m.Config.MediaType {
	case v1.MediaTypeImageConfig, dockerConfig:
		return ""
	}
	return cmp.Or(m.ArtifactType, m.Config.MediaType, "of no type")
}

func checkDescriptor(what string, d v1.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return errorf(ErrMalformed, "%s has the digest %q: %v", what, printable(d.Digest.String()), err)
	}
	if d.Size < 0 {
		return errorf(ErrMalformed, "%s %s has the size %d", what, d.Digest, d.Size)
	}
	return nil
}

// An imageConfig is what is wanted of an image config.
type imageConfig struct {
	v1.Platform
	RootFS v1.RootFS `json:"rootfs"`
}

func parseConfig(what string, b []byte) (*imageConfig, error) {
	var c imageConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, errorf(ErrMalformed, "config of %s is not valid: %s", what, printable(err.Error()))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, errorf(ErrMalformed, "config of %s has the diff ID %q: %v", what, printable(d.String()), err)
		}
	}
	return &c, nil
}

// verify compares a document with its digest.
func verify(what string, d digest.Digest, b []byte) error {
	if err := d.Validate(); err != nil {
		return errorf(ErrMalformed, "%s has the digest %q: %v", what, printable(d.String()), err)
	}
	if found := d.Algorithm().FromBytes(b); found != d {
		return &MismatchError{What: what, Expected: d.String(), Found: found.String()}
	}
	return nil
}

func layersMismatch(ref Reference, diffIDs []digest.Digest, layers int) error {
	return &MismatchError{
		What:     "number of layers of " + ref.Name(),
		Expected: fmt.Sprintf("%d (diff IDs in the config)", len(diffIDs)),
		Found:    fmt.Sprintf("%d (in the manifest)", layers),
	}
}
