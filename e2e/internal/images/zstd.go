package images

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/e2e/internal/peer"
)

// withSkopeo makes the small image once more with layers of zstd, one frame
// each. (Of the base, skopeo and buildah can't make zstd:chunked: they drop the
// zeros that mmdebstrap's tar ends with, and keep the diff ID.)
func (b *builder) withSkopeo(ctx context.Context, _ string) error {
	from, to := "oci:"+filepath.Join(b.out, "umoci")+":python", "oci:"+filepath.Join(b.out, "zstd")+":python"
	return peer.Copy(ctx, from, to, "--dest-compress", "--dest-compress-format", "zstd")
}

// A shape is how a layer's tar becomes its blob.
type shape struct {
	mediaType string
	script    string // writes the blob to stdout, of the tar $1
}

// shapes are those that are rare in images, and that no tool makes images of.
var shapes = []shape{
	// Not compressed at all.
	{v1.MediaTypeImageLayer, `cat "$1"`},
	// Frames of 2 MiB, each after a skippable one.
	{v1.MediaTypeImageLayerZstd, `pzstd -qc -1 "$1"`},
	// One frame, of no known length, with the largest window there may be.
	{v1.MediaTypeImageLayerZstd, `zstd -qc --long=27 <"$1"`},
	// Small frames, an empty one, a large one, a skippable one, and a wrong media type.
	{v1.MediaTypeImageLayerGzip, `
		head -c 5000000 "$1" | split -b 100000 --filter="zstd -qc"
		zstd -qc </dev/null
		tail -c +5000001 "$1" | zstd -qc --no-check -19
		printf '\137\052\115\030\005\000\000\000hello'`},
}

// withShapes makes an image with a layer of each shape.
func (b *builder) withShapes(ctx context.Context, _ string) error {
	const tag = "paxtar"
	layout := filepath.Join(b.work, "shapes")
	if err := umoci(ctx, "init", "--layout", layout); err != nil {
		return err
	}
	if err := umoci(ctx, "new", "--image", layout+":"+tag); err != nil {
		return err
	}
	for i := range shapes {
		if err := b.addArchive(ctx, gnuTarLayer(paxDialects[i]), layout+":"+tag); err != nil {
			return err
		}
	}
	if err := reshape(ctx, layout, tag); err != nil {
		return err
	}
	// Which checks all digests, and leaves behind what the image is not made of any more.
	return peer.Copy(ctx, "oci:"+layout+":"+tag, "oci:"+filepath.Join(b.out, "shapes")+":"+tag,
		"--preserve-digests", "--dest-oci-accept-uncompressed-layers")
}

// reshape gives the layers of a layout's only image their shapes.
func reshape(ctx context.Context, layout, tag string) error {
	var index v1.Index
	if err := readJSON(filepath.Join(layout, v1.ImageIndexFile), &index); err != nil {
		return err
	}
	var m v1.Manifest
	if err := readJSON(blobFile(layout, index.Manifests[0].Digest), &m); err != nil {
		return err
	}
	for i, s := range shapes {
		gzip := blobFile(layout, m.Layers[i].Digest)
		blob, err := peer.Run(ctx, "bash", "-o", "pipefail", "-euc", `gzip -dc "$0" >"$0.tar"; set -- "$0.tar"`+"\n"+s.script, gzip)
		if err != nil {
			return err
		}
		if m.Layers[i], err = addBlob(layout, s.mediaType, blob); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d, err := addBlob(layout, index.Manifests[0].MediaType, manifest)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{v1.AnnotationRefName: tag}
	index.Manifests = []v1.Descriptor{d}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layout, v1.ImageIndexFile), b, 0o600)
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func blobFile(layout string, d digest.Digest) string {
	return filepath.Join(layout, v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func addBlob(layout, mediaType string, b []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, os.WriteFile(blobFile(layout, d.Digest), b, 0o600)
}
