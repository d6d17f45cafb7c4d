package peer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// A Storage is a place where buildah and podman keep images and containers (github.com/containers/storage), on the kernel's
// overlayfs.
type Storage struct {
	dir string
}

// NewStorage returns the storage below dir, which is empty at first. Its name has to be short, for podman.
func NewStorage(dir string) *Storage { return &Storage{dir} }

// Run runs buildah or podman on the storage, and returns what it prints, without spaces around it.
func (s *Storage) Run(ctx context.Context, tool string, args ...string) (string, error) {
	global := []string{"--root", filepath.Join(s.dir, "root"), "--runroot", filepath.Join(s.dir, "run"), "--storage-driver", "overlay"}
	out, err := Run(ctx, tool, append(global, args...)...)
	return strings.TrimSpace(string(out)), err
}

// OneFile makes the image NAME for a platform, OS/ARCH, of one layer with one file.
func (s *Storage) OneFile(ctx context.Context, name, platform, file, content string) error {
	source := filepath.Join(s.dir, file)
	if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
		return err
	}
	container, err := s.Run(ctx, "buildah", "from", "scratch")
	if err != nil {
		return err
	}
	system, arch, _ := strings.Cut(platform, "/")
	for _, args := range [][]string{
		{"copy", "--quiet", container, source, "/" + file},
		{"config", "--os", system, "--arch", arch, container},
		{"commit", "--quiet", "--rm", container, name},
	} {
		if _, err := s.Run(ctx, "buildah", args...); err != nil {
			return err
		}
	}
	return nil
}
