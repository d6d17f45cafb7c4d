package fetcher

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A rootfs is a tar, compressed or not, that is taken as an image of one layer, such as docker export writes. The tar says
// nothing of a config or a platform: the config that is made names the platform that is wanted, and the layer.
type rootfs struct {
	f         *Fetcher
	ref       Reference
	tar       Tar
	platform  v1.Platform
	documents map[digest.Digest][]byte
}

func (r *rootfs) roots(context.Context) ([]v1.Descriptor, error) {
	l := r.tar.Layer()
	config, err := r.keep(v1.MediaTypeImageConfig, v1.Image{
		Platform: r.platform,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}},
		History:  []v1.History{{CreatedBy: "tar"}},
	})
	if err != nil {
		return nil, err
	}
	root, err := r.keep(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config,
		Layers: []v1.Descriptor{{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}},
	})
	return []v1.Descriptor{root}, err
}

func (r *rootfs) keep(mediaType string, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	r.documents[d.Digest] = b
	return d, nil
}

func (r *rootfs) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	return r.documents[d], nil
}
func (r *rootfs) config(_ context.Context, d digest.Digest) ([]byte, error) {
	return r.documents[d], nil
}

func (r *rootfs) blob(l Layer) (*Blob, error) {
	if u := r.ref.url(); u != nil {
		src, err := r.f.fileSource(r.ref, u)
		if err != nil {
			return nil, err
		}
		return src.blob(l)
	}
	file, info, err := openPlain(r.ref.path)
	if err != nil {
		return nil, err
	}
	if info.Size() != l.Size {
		file.Close()
		return nil, fmt.Errorf("%s has been changed while it was read", r.ref.path)
	}
	return &Blob{impl: &fileBlob{openFile{file, file, l.Size}}}, nil
}
