package save

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
)

// skopeoVersion is what skopeo writes into the file version, and looks for (github.com/containers/image, directory).
const skopeoVersion = "Directory Transport Version: 1.1\n"

// writeSkopeo writes a directory as skopeo copy dir:DIR does: blobs under the hex digits of their digests, and the manifest that
// the others are below as manifest.json. Skopeo empties a directory that has another image; here that is an error.
func writeSkopeo(ctx context.Context, to fetcher.Destination, b *fetcher.Bundle) error {
	d, err := openDirectory(to.Path)
	if err != nil {
		return err
	}
	defer d.close()
	empty, err := d.isEmpty()
	if err == nil && !empty {
		err = fmt.Errorf("%s is not empty: %w", to.Path, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	if err := addSkopeo(ctx, d, b); err != nil {
		return errors.Join(err, d.undo())
	}
	return d.sync()
}

func addSkopeo(ctx context.Context, t target, b *fetcher.Bundle) error {
	if err := addFile(t, "version", []byte(skopeoVersion)); err != nil {
		return err
	}
	if err := addBlobs(ctx, t, b, layersAtOnce, func(d v1.Descriptor) string { return d.Digest.Encoded() }); err != nil {
		return err
	}
	last := len(b.Manifests) - 1
	for _, m := range b.Manifests[:last] {
		if err := addDocument(ctx, t, m.Digest.Encoded()+".manifest.json", m); err != nil {
			return err
		}
	}
	return addDocument(ctx, t, "manifest.json", b.Manifests[last])
}
