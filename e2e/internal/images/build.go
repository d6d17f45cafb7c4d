package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imgfs/e2e/internal/peer"
)

// A layer is the recipe of a layer above the base, and the tag that an image
// gets with it.
type layer struct{ tag, recipe string }

var (
	umociLayers   = []layer{{"python", "python.sh"}, {"sources", "sources.sh"}, {"full", "changes.sh"}, {"replaced", "replaced.sh"}}
	buildahLayers = []layer{{"python", "python.sh"}, {"sources", "sources.sh"}, {"changes", "changes.sh"}, {"full", "replaced.sh"}}
)

// builder makes a set in a directory that is thrown away after.
type builder struct {
	work string // for what is thrown away
	out  string // the set to be
	log  func(format string, args ...any)
}

// build makes the base once, and the images of it with each tool.
func (b *builder) build(ctx context.Context) error {
	if err := os.Mkdir(b.out, 0o700); err != nil {
		return err
	}
	base := filepath.Join(b.work, "base.tar")
	steps := []struct {
		name string
		do   func(context.Context, string) error
	}{
		{"mmdebstrap", bootstrap},
		{"umoci", b.withUmoci},
		{"buildah", b.withBuildah},
		{"skopeo", b.withSkopeo},
		{"shapes", b.withShapes},
	}
	for _, step := range steps {
		start := time.Now()
		if err := step.do(ctx, base); err != nil {
			return fmt.Errorf("make the images: %s: %w", step.name, err)
		}
		b.log("%s took %v", step.name, time.Since(start).Round(time.Second))
	}
	return nil
}

// withUmoci makes the images with umoci: the base as it is, then for each
// recipe an unpack, the change and a repack. An archive written
// elsewhere comes last, as it is.
func (b *builder) withUmoci(ctx context.Context, base string) error {
	layout := filepath.Join(b.out, "umoci")
	if err := umoci(ctx, "init", "--layout", layout); err != nil {
		return err
	}
	if err := umoci(ctx, "new", "--image", layout+":base"); err != nil {
		return err
	}
	if err := umoci(ctx, "raw", "add-layer", "--image", layout+":base", base); err != nil {
		return err
	}
	// The bundle is unpacked once; each repack refreshes what umoci compares with.
	bundle := filepath.Join(b.work, "bundle")
	rootfs, err := peer.UmociUnpack(ctx, layout, "base", bundle)
	if err != nil {
		return err
	}
	for _, l := range umociLayers {
		if err := b.cook(ctx, rootfs, l.recipe); err != nil {
			return err
		}
		if err := umoci(ctx, "repack", "--refresh-bundle", "--image", layout+":"+l.tag, bundle); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(bundle); err != nil {
		return err
	}
	if err := b.addArchive(ctx, whiteoutLayer, layout+":full"); err != nil {
		return err
	}
	if err := b.withArchives(ctx, layout); err != nil {
		return err
	}
	return umoci(ctx, "gc", "--layout", layout)
}

// withArchives makes the images of archives alone.
func (b *builder) withArchives(ctx context.Context, layout string) error {
	var pax []archive
	for _, dialect := range paxDialects[:3] {
		pax = append(pax, gnuTarLayer(dialect))
	}
	gnu := append([]archive{gnuTarLayer(gnuDialect)}, pax...)
	for tag, archives := range map[string][]archive{"gnutar": gnu, "paxtar": pax, "disputed": {disputedLayer}} {
		if err := umoci(ctx, "new", "--image", layout+":"+tag); err != nil {
			return err
		}
		for _, write := range archives {
			if err := b.addArchive(ctx, write, layout+":"+tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// addArchive puts a layer on an image as it is.
func (b *builder) addArchive(ctx context.Context, write archive, image string) error {
	file := filepath.Join(b.work, "layer.tar")
	if err := write(ctx, file); err != nil {
		return err
	}
	return umoci(ctx, "raw", "add-layer", "--image", image, file)
}

func umoci(ctx context.Context, args ...string) error {
	_, err := peer.Run(ctx, "umoci", args...)
	return err
}

// withBuildah makes the images with buildah on the kernel's overlayfs, whose
// layers are what the overlay's upper directories hold.
func (b *builder) withBuildah(ctx context.Context, base string) error {
	store := filepath.Join(b.work, "buildah")
	buildah := func(ctx context.Context, args ...string) (string, error) {
		global := []string{"--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"), "--storage-driver", "overlay"}
		out, err := peer.Run(ctx, "buildah", append(global, args...)...)
		return strings.TrimSpace(string(out)), err
	}
	container, err := buildah(ctx, "from", "scratch")
	if err != nil {
		return err
	}
	if _, err := buildah(ctx, "add", container, base, "/"); err != nil {
		return err
	}
	tag := "base"
	for _, l := range buildahLayers {
		if _, err := buildah(ctx, "commit", "--quiet", "--rm", container, "localhost/"+tag); err != nil {
			return err
		}
		if container, err = buildah(ctx, "from", "localhost/"+tag); err != nil {
			return err
		}
		rootfs, err := buildah(ctx, "mount", container)
		if err != nil {
			return err
		}
		cooked := b.cook(ctx, rootfs, l.recipe)
		if _, err := buildah(context.WithoutCancel(ctx), "umount", container); err != nil {
			return err
		}
		if cooked != nil {
			return cooked
		}
		tag = l.tag
	}
	if _, err := buildah(ctx, "commit", "--quiet", "--rm", container, "localhost/"+tag); err != nil {
		return err
	}
	if _, err := buildah(ctx, "push", "--quiet", "--format", "oci", "localhost/"+tag, "oci:"+filepath.Join(b.out, "buildah")+":"+tag); err != nil {
		return err
	}
	_, err = buildah(ctx, "push", "--quiet", "--format", "oci", "--compression-format", "zstd:chunked", "--compression-level", "1",
		"localhost/python", "oci:"+filepath.Join(b.out, "chunked")+":python")
	return err
}

// cook runs a recipe in a tree. While it runs the tree has this machine's
// resolver, for apt.
func (b *builder) cook(ctx context.Context, rootfs, recipe string) error {
	script, err := source.ReadFile("recipe/" + recipe)
	if err != nil {
		return err
	}
	resolver, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return err
	}
	defer resolver.Close()
	const withResolver = "cat >/etc/resolv.conf\n%s\nrm /etc/resolv.conf\n"
	if err := inTree(ctx, rootfs, fmt.Sprintf(withResolver, script), resolver); err != nil {
		return fmt.Errorf("recipe %s: %w", recipe, err)
	}
	return nil
}
