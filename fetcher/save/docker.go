package save

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
)

// maxWindow bounds the window of a zstd layer, in bytes.
const maxWindow = 128 << 20

// addDocker adds an archive as docker load reads it (github.com/moby/moby, image/spec/spec.md): manifest.json lists the image, whose
// config and layers are where Docker has them since version 25.
func addDocker(ctx context.Context, t target, b *fetcher.Bundle, name string) error {
	if len(b.Manifests) > 1 || len(b.Configs) != 1 {
		return fmt.Errorf("%w: an archive of Docker's holds images for one platform, and no index", fetcher.ErrReference)
	}
	var m v1.Manifest
	if err := json.Unmarshal(b.Root().Content, &m); err != nil {
		return err
	}
	config := b.Configs[0]
	var c struct {
		RootFS v1.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config.Content, &c); err != nil || len(c.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%w: config %s has other layers than its manifest", fetcher.ErrMalformed, config.Digest)
	}
	if err := addDocument(ctx, t, blobName(config.Digest), config); err != nil {
		return err
	}
	item := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobName(config.Digest)}
	if name != "" {
		item.RepoTags = []string{name}
	}
	added := map[digest.Digest]string{}
	for i, l := range m.Layers {
		if added[l.Digest] == "" {
			var err error
			if added[l.Digest], err = addDockerLayer(ctx, t, b, l, c.RootFS.DiffIDs[i]); err != nil {
				return err
			}
		}
		item.Layers = append(item.Layers, added[l.Digest])
	}
	list, err := json.Marshal([]any{item})
	if err != nil {
		return err
	}
	return addFile(t, "manifest.json", list)
}

// addDockerLayer adds a layer, or its tar, and returns the name that it has.
func addDockerLayer(ctx context.Context, t target, b *fetcher.Bundle, l v1.Descriptor, diffID digest.Digest) (name string, err error) {
	err = b.ReadLayer(ctx, l, func(r io.Reader) error {
		head := bufio.NewReader(r)
		if first, _ := head.Peek(4); len(first) == 4 && fetcher.IsZstd(first) {
			name = blobName(diffID)
			return addTar(t, name, head, l.Digest, diffID)
		}
		name = blobName(l.Digest)
		return t.add(name, l.Size, head)
	})
	return name, err
}

// addTar adds the tar of a zstd layer. Its size comes before it, so it has to be decompressed once before.
func addTar(t target, name string, r io.Reader, layer, diffID digest.Digest) error {
	f, err := os.CreateTemp("", "imgfs-save-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	v := diffID.Verifier()
	size, err := decompress(io.MultiWriter(f, v), r)
	if err != nil {
		return fmt.Errorf("layer %s: %w", layer, err)
	}
	if !v.Verified() {
		return &fetcher.MismatchError{What: "diff ID of layer " + layer.String(), Expected: diffID.String(), Found: "another"}
	}
	return t.add(name, size, io.NewSectionReader(f, 0, size))
}

// decompress writes the content of a zstd stream. Of what is wrong with that, wrong bytes of the blob count first.
func decompress(w io.Writer, r io.Reader) (int64, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return 0, err
	}
	defer d.Close()
	n, err := io.Copy(w, d)
	if _, wrong := io.Copy(io.Discard, r); wrong != nil {
		err = wrong
	}
	return n, err
}
