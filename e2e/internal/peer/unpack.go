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
// makes, with GNU tar and zstd, which knows gzip as well. That is right for
// layers without whiteouts.
func TarUnpack(ctx context.Context, layout, tag, dir string) error {
	out, err := Run(ctx, "skopeo", "inspect", "--raw", "oci:"+layout+":"+tag)
	if err != nil {
		return err
	}
	var manifest struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(out, &manifest); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		blob := filepath.Join(layout, "blobs", strings.Replace(l.Digest, ":", "/", 1))
		if _, err := Run(ctx, "tar", "--extract", "--use-compress-program=zstd -qcf", "--file", blob, "--directory", dir,
			"--numeric-owner", "--same-permissions", "--same-owner", "--xattrs"); err != nil {
			return err
		}
	}
	return nil
}
