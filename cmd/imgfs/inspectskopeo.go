package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
)

// A skopeoInspection is what "skopeo inspect" prints of an image (github.com/containers/skopeo, cmd/skopeo/inspect, Output), as
// version 1.9 does it. Later ones print LayersData as well, which here is for templates alone.
type skopeoInspection struct {
	Name          string `json:",omitempty"`
	Tag           string `json:",omitempty"`
	Digest        digest.Digest
	RepoTags      []string // null where the registry keeps them to itself
	Created       *time.Time
	DockerVersion string
	Labels        map[string]string
	Architecture  string
	Os            string
	Layers        []digest.Digest
	Env           []string
	LayersData    []skopeoLayer `json:"-"`
}

type skopeoLayer struct {
	MIMEType    string
	Digest      digest.Digest
	Size        int64 // bytes; -1 if the manifest does not say it
	Annotations map[string]string
}

// inspectSkopeo describes an image as skopeo does. It asks the registry for the tags of the repository, as that does.
func (s *session) inspectSkopeo(ctx context.Context, im *fetcher.Image) (*skopeoInspection, error) {
	var c struct {
		Created       *time.Time `json:"created"`
		DockerVersion string     `json:"docker_version"`
		v1.Platform
		Config v1.ImageConfig `json:"config"`
	}
	if err := decodeConfig(im, &c); err != nil {
		return nil, err
	}
	if c.Created == nil && strings.HasPrefix(im.MediaType, "application/vnd.docker.") {
		c.Created = &time.Time{} // so it does with Docker's configs, and not with OCI's
	}
	i := &skopeoInspection{
		Name: im.Ref.Repository(), Digest: im.Digest, Created: c.Created, DockerVersion: c.DockerVersion,
		Labels: c.Config.Labels, Architecture: c.Architecture, Os: c.OS, Env: c.Config.Env,
	}
	raw, err := im.Manifest, error(nil)
	if im.Made && im.MediaType != v1.MediaTypeImageManifest { // not for a tar, of which skopeo makes something else
		if raw, err = s.skopeoManifest(im); err != nil {
			return nil, err
		}
		i.Digest = digest.FromBytes(raw)
	}
	if err := i.readManifest(raw); err != nil {
		return nil, fmt.Errorf("%s: manifest: %w: %w", im.Ref.Name(), fetcher.ErrMalformed, err)
	}
	i.RepoTags, err = s.repoTags(ctx, im.Ref)
	return i, err
}

// readManifest fills in what the manifest says.
func (i *skopeoInspection) readManifest(raw []byte) error {
	var m struct {
		Tag      string // of schema 1, as FSLayers
		FSLayers []struct{ BlobSum digest.Digest }
		Layers   []v1.Descriptor
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	for _, l := range slices.Backward(m.FSLayers) {
		m.Layers = append(m.Layers, v1.Descriptor{Digest: l.BlobSum, Size: -1})
	}
	i.Tag, i.Layers, i.LayersData = m.Tag, []digest.Digest{}, []skopeoLayer{}
	for _, l := range m.Layers {
		i.Layers = append(i.Layers, l.Digest)
		i.LayersData = append(i.LayersData, skopeoLayer{l.MediaType, l.Digest, l.Size, l.Annotations})
	}
	return nil
}

// skopeoManifest is the manifest that skopeo makes up for an image in an archive of Docker's, byte for byte
// (github.com/containers/image, docker/internal/tarfile, Source.GetManifest): it takes all layers for what they are when they
// are not compressed. It is ours where one is, whose index is not there to tell how long it is then.
func (s *session) skopeoManifest(im *fetcher.Image) ([]byte, error) {
	type descriptor struct {
		MediaType string        `json:"mediaType"`
		Size      int64         `json:"size"`
		Digest    digest.Digest `json:"digest"`
	}
	m := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, im.MediaType, descriptor{"application/vnd.docker.container.image.v1+json", int64(len(im.Config)), im.ConfigDigest}, []descriptor{}}
	for _, l := range im.Layers {
		d := descriptor{"application/vnd.docker.image.rootfs.diff.tar.gzip", l.Size, l.DiffID}
		if l.Digest != l.DiffID {
			x, err := s.cachedIndex(l.Digest, l.Digest)
			if x == nil || err != nil {
				return im.Manifest, err
			}
			d.Size = x.index.TarSize()
			x.close()
		}
		m.Layers = append(m.Layers, d)
	}
	return json.Marshal(m)
}

// repoTags lists the tags of the repository; none for what is in no registry.
func (s *session) repoTags(ctx context.Context, ref fetcher.Reference) ([]string, error) {
	tags, err := s.fetch.Tags(ctx, ref)
	switch {
	case errors.Is(err, fetcher.ErrReference):
		return []string{}, nil
	case errors.Is(err, fetcher.ErrUnauthorized), errors.Is(err, fetcher.ErrNotFound):
		s.app.log.Warn("the tags of the repository are not to be had", "why", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	return append([]string{}, tags...), nil
}
