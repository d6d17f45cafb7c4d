package peer

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
)

// containerdBooted is the line that containerd logs when its socket answers.
var containerdBooted = regexp.MustCompile(`containerd successfully booted`)

// Snapshotter is one of containerd's ways to keep unpacked layers.
type Snapshotter string

const (
	// Native copies the tree below for every layer. Hard links across layers
	// stay hard links; the times of directories that a later layer does not
	// name are those of the copy.
	Native Snapshotter = "native"
	// Overlay unpacks each layer into a directory of its own and mounts them
	// with the kernel's overlayfs. Times of directories are right; a hard
	// link to a file of a lower layer is a copy, and a directory's link
	// count is 1 where it is merged.
	Overlay Snapshotter = "overlayfs"
)

// Containerd is a running containerd.
type Containerd struct {
	dir    string
	socket string
	d      *daemon
	images atomic.Int64 // imported so far; names them
}

// StartContainerd starts a containerd that keeps everything below dir.
func StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	c := &Containerd{dir: dir, socket: filepath.Join(dir, "containerd.sock")}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(c.config()), 0o600); err != nil {
		return nil, err
	}
	d, _, err := startDaemon(ctx, exec.Command("containerd", "--config", config), containerdBooted)
	if err != nil {
		return nil, err
	}
	c.d = d
	return c, nil
}

// config leaves out what unpacking does not need: the Kubernetes plugin and
// the snapshotters that look for devices.
func (c *Containerd) config() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), c.socket, c.socket+".ttrpc")
}

// Stop ends containerd. Trees that are still mounted stay so.
func (c *Containerd) Stop() { c.d.stop() }

// Mount unpacks an image of an OCI layout and mounts its tree, read-only, on
// dir, which must be empty. unmount ends that.
func (c *Containerd) Mount(ctx context.Context, layout, tag string, s Snapshotter, dir string) (unmount func() error, err error) {
	number := c.images.Add(1)
	if err := c.importLayout(ctx, layout, tag, s, fmt.Sprintf("test/image%d", number)); err != nil {
		return nil, err
	}
	top, err := ChainID(ctx, layout, tag)
	if err != nil {
		return nil, err
	}
	return c.view(ctx, top, s, dir, number)
}

// Pull pulls an image from a registry, by plain HTTP, and mounts its tree, read-only, on dir, which must be empty. chain is the
// image's ChainID. unmount ends the mount.
func (c *Containerd) Pull(ctx context.Context, ref, chain string, s Snapshotter, dir string) (unmount func() error, err error) {
	if _, err := c.ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", string(s), ref); err != nil {
		return nil, err
	}
	return c.view(ctx, chain, s, dir, c.images.Add(1))
}

// Export fetches an image from a registry, by plain HTTP, for all its platforms, and writes it to an archive, which is an OCI
// layout and for docker load as well.
func (c *Containerd) Export(ctx context.Context, ref, archive string) error {
	if _, err := c.ctr(ctx, "content", "fetch", "--plain-http", "--all-platforms", ref); err != nil {
		return err
	}
	_, err := c.ctr(ctx, "images", "export", "--all-platforms", archive, ref)
	return err
}

// view mounts the tree of a snapshot.
func (c *Containerd) view(ctx context.Context, top string, s Snapshotter, dir string, number int64) (unmount func() error, err error) {
	// With a target this prints the command that mounts there. (ctr images
	// mount would do all of it, but takes no other snapshotter than the default.)
	out, err := c.ctr(ctx, "snapshots", "--snapshotter", string(s), "view", "--target", dir, fmt.Sprintf("view%d", number), top)
	if err != nil {
		return nil, err
	}
	command := strings.Fields(string(out))
	if len(command) == 0 || command[0] != "mount" {
		return nil, fmt.Errorf("ctr snapshots view: unexpected output %q", out)
	}
	if _, err := Run(ctx, command[0], command[1:]...); err != nil {
		return nil, err
	}
	return func() error {
		if err := syscall.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}, nil
}

// importLayout hands one image of a layout to containerd, as an archive of a
// layout that holds that image alone, and has it unpacked.
func (c *Containerd) importLayout(ctx context.Context, layout, tag string, s Snapshotter, name string) error {
	archive := filepath.Join(c.dir, filepath.Base(name)+".tar")
	if err := Copy(ctx, "oci:"+layout+":"+tag, "oci-archive:"+archive+":"+tag, "--preserve-digests", "--dest-oci-accept-uncompressed-layers"); err != nil {
		return err
	}
	defer os.Remove(archive)
	_, err := c.ctr(ctx, "images", "import", "--snapshotter", string(s), "--base-name", name, archive)
	return err
}

// ChainID names the snapshot of all layers of an image, as OCI's config.md
// defines it.
func ChainID(ctx context.Context, layout, tag string) (string, error) {
	out, err := Run(ctx, "skopeo", "inspect", "--config", "oci:"+layout+":"+tag)
	if err != nil {
		return "", err
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(out, &config); err != nil {
		return "", err
	}
	chain := ""
	for _, id := range config.RootFS.DiffIDs {
		if chain != "" {
			id = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(chain+" "+id)))
		}
		chain = id
	}
	return chain, nil
}

func (c *Containerd) ctr(ctx context.Context, args ...string) ([]byte, error) {
	return Run(ctx, "ctr", append([]string{"--address", c.socket}, args...)...)
}
