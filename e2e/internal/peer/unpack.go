package peer

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// UmociUnpack unpacks an image of an OCI layout into dir, which must not
// exist, and returns the tree's place.
func UmociUnpack(ctx context.Context, layout, tag, dir string) (rootfs string, err error) {
	if _, err := Run(ctx, "umoci", "unpack", "--image", layout+":"+tag, dir); err != nil {
		return "", err
	}
	return filepath.Join(dir, "rootfs"), nil
}

// TarUnpack unpacks the layers of an image of an OCI layout into dir, which it
// makes, with Untar. That is right for layers without whiteouts.
func TarUnpack(ctx context.Context, layout, tag, dir string) error {
	blobs, err := LayerBlobs(ctx, layout, tag)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, blob := range blobs {
		if err := Untar(ctx, blob, dir); err != nil {
			return err
		}
	}
	return nil
}

// LayerBlobs returns the files that hold the layers of an image of an OCI layout, the lowest first.
func LayerBlobs(ctx context.Context, layout, tag string) ([]string, error) {
	out, err := Run(ctx, "skopeo", "inspect", "--raw", "oci:"+layout+":"+tag)
	if err != nil {
		return nil, err
	}
	var manifest struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(out, &manifest); err != nil {
		return nil, err
	}
	var blobs []string
	for _, l := range manifest.Layers {
		blobs = append(blobs, filepath.Join(layout, "blobs", strings.Replace(l.Digest, ":", "/", 1)))
	}
	return blobs, nil
}

// Untar unpacks a layer into a directory with GNU tar, and zstd, which knows
// gzip as well.
func Untar(ctx context.Context, blob, dir string) error {
	_, err := Run(ctx, "tar", "--extract", "--use-compress-program=zstd -qcf", "--file", blob, "--directory", dir,
		"--numeric-owner", "--same-permissions", "--same-owner", "--xattrs")
	return err
}
