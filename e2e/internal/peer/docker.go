package peer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// dockerListens is the line that dockerd logs when it can be asked.
var dockerListens = regexp.MustCompile(`API listen on`)

// Docker is a running dockerd, with a containerd of its own. It has no network for containers, and talks to registries on
// loopback by plain HTTP, as every dockerd does.
type Docker struct {
	dir string
	d   *daemon
}

// StartDocker starts a dockerd that keeps everything below dir.
func StartDocker(ctx context.Context, dir string) (*Docker, error) {
	config, err := json.Marshal(map[string]any{
		"hosts":               []string{"unix://" + filepath.Join(dir, "docker.sock")},
		"data-root":           filepath.Join(dir, "data"),
		"exec-root":           filepath.Join(dir, "exec"),
		"pidfile":             filepath.Join(dir, "docker.pid"),
		"deprecated-key-path": filepath.Join(dir, "key.json"),
		"storage-driver":      "overlay2",
		"bridge":              "none",
		"iptables":            false,
		"ip6tables":           false,
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	d, _, err := startDaemon(ctx, exec.Command("dockerd", "--config-file", file), dockerListens)
	if err != nil {
		return nil, err
	}
	return &Docker{dir: dir, d: d}, nil
}

// Stop ends dockerd and its containerd.
func (d *Docker) Stop() { d.d.stop() }

// Load has Docker take in all images of an archive, by the names that they have in it.
func (d *Docker) Load(ctx context.Context, archive string) error {
	_, err := d.docker(ctx, "load", "--quiet", "--input", archive)
	return err
}

// Pull has Docker fetch an image from a registry.
func (d *Docker) Pull(ctx context.Context, ref string) error {
	_, err := d.docker(ctx, "pull", "--quiet", ref)
	return err
}

// Push has Docker push an image that it has to the registry in its name.
func (d *Docker) Push(ctx context.Context, ref string) error {
	_, err := d.docker(ctx, "push", "--quiet", ref)
	return err
}

// Tag gives an image one more name.
func (d *Docker) Tag(ctx context.Context, ref, name string) error {
	_, err := d.docker(ctx, "tag", ref, name)
	return err
}

// Save writes images that Docker has to an archive.
func (d *Docker) Save(ctx context.Context, archive string, refs ...string) error {
	_, err := d.docker(ctx, append([]string{"save", "--output", archive}, refs...)...)
	return err
}

// Export writes the tree of a container that is made of an image, and was never started, to a tar.
func (d *Docker) Export(ctx context.Context, archive, ref string) error {
	id, err := d.docker(ctx, "create", "--network", "none", ref, "true")
	if err != nil {
		return err
	}
	container := string(id[:max(0, len(id)-1)])
	if _, err := d.docker(ctx, "export", "--output", archive, container); err != nil {
		return err
	}
	_, err = d.docker(ctx, "rm", container)
	return err
}

// Inspect returns what docker image inspect prints of an image: an array of one.
func (d *Docker) Inspect(ctx context.Context, ref string) ([]byte, error) {
	return d.docker(ctx, "image", "inspect", ref)
}

// docker calls the client, without the user's own configuration.
func (d *Docker) docker(ctx context.Context, args ...string) ([]byte, error) {
	return Run(ctx, "docker", append([]string{"--config", filepath.Join(d.dir, "client"), "--host", fmt.Sprintf("unix://%s/docker.sock", d.dir)}, args...)...)
}
