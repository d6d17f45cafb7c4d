package e2e

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/internal/corpus"
	"imgfs/internal/measure"
)

// BenchmarkFirstLook gives the time from nothing to a list of the root of a large image that a docker-registry on this machine
// has: of imgfs; of containerd, which pulls, unpacks and mounts; of skopeo and umoci, which fetch and unpack; and of what
// each must do at least (walk): fetch the layers, two at once, check their digests, gunzip them (with klauspost/compress) and
// read the tars. A metric A/B-time is A's time in parts of B's.
func BenchmarkFirstLook(b *testing.B) {
	layout, err := corpus.LargeImage(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	im := images.Image{Name: "large", Layout: layout, Tag: "v1"}
	registry, err := peer.StartRegistry(b.Context(), b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(registry.Stop)
	if err := push(b.Context(), registry, im); err != nil {
		b.Fatal(err)
	}
	chain, err := peer.ChainID(b.Context(), im.Layout, im.Tag)
	if err != nil {
		b.Fatal(err)
	}
	ref, imgfs := inRegistry(registry, im), imgfsLook(b)
	contestants := []measure.Contestant{
		{Name: "imgfs", Run: func() (time.Duration, error) { return imgfs(ref) }},
		{Name: "containerd", Run: func() (time.Duration, error) { return containerdLook(b, ref, chain) }},
		{Name: "umoci", Run: func() (time.Duration, error) { return umociLook(b, ref) }},
		{Name: "walk", Run: func() (time.Duration, error) {
			return measure.Wall(func() error { return fetchAndWalk(b.Context(), "http://"+registry.Addr+"/v2/test/"+im.Name, im.Tag) })
		}},
	}
	for i := range contestants {
		run := contestants[i].Run
		contestants[i].Run = func() (time.Duration, error) {
			unix.Sync() // what the one before wrote is none of this one's work
			return run()
		}
	}
	least := measure.Contest(b, contestants...)
	for _, c := range contestants {
		b.ReportMetric(least[c.Name].Seconds(), c.Name+"-s")
		if c.Name != "imgfs" {
			b.ReportMetric(float64(least["imgfs"])/float64(least[c.Name]), "imgfs/"+c.Name+"-time")
		}
	}
}

// imgfsLook returns what mounts an image from nothing, and forgets it.
func imgfsLook(b *testing.B) func(ref string) (time.Duration, error) {
	h := newHost(b)
	return func(ref string) (time.Duration, error) {
		dir := h.mkdir(b)
		took, err := measure.Wall(func() error {
			_, err := peer.RunCmd(h.command("mount", ref, dir))
			return errors.Join(err, list(dir))
		})
		if err == nil {
			h.umount(b, dir)
			err = os.RemoveAll(h.cache())
		}
		return took, err
	}
}

// list is the look at a root.
func list(dir string) error {
	names, err := os.ReadDir(dir)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s is empty", dir)
	}
	return err
}

// containerdLook has a new containerd pull an image with the kernel's overlayfs, its default.
func containerdLook(b *testing.B, ref, chain string) (took time.Duration, err error) {
	dir, err := os.MkdirTemp(b.TempDir(), "")
	if err != nil {
		return 0, err
	}
	c, err := peer.StartContainerd(b.Context(), dir)
	if err != nil {
		return 0, err
	}
	defer c.Stop()
	root := filepath.Join(dir, "tree")
	if err := os.Mkdir(root, 0o700); err != nil {
		return 0, err
	}
	var unmount func() error
	took, err = measure.Wall(func() error {
		if unmount, err = c.Pull(b.Context(), ref, chain, peer.Overlay, root); err != nil {
			return err
		}
		return list(root)
	})
	if unmount != nil {
		err = errors.Join(err, unmount())
	}
	return took, errors.Join(err, os.RemoveAll(filepath.Join(dir, "root")))
}

// umociLook copies an image into a layout and unpacks it.
func umociLook(b *testing.B, ref string) (time.Duration, error) {
	dir, err := os.MkdirTemp(b.TempDir(), "")
	if err != nil {
		return 0, err
	}
	took, err := measure.Wall(func() error {
		layout := filepath.Join(dir, "layout")
		if err := peer.Copy(b.Context(), "docker://"+ref, "oci:"+layout+":v1"); err != nil {
			return err
		}
		rootfs, err := peer.UmociUnpack(b.Context(), layout, "v1", filepath.Join(dir, "bundle"))
		if err != nil {
			return err
		}
		return list(rootfs)
	})
	return took, errors.Join(err, os.RemoveAll(dir))
}

// fetchAndWalk fetches the layers of an image, two at once, and walks them.
func fetchAndWalk(ctx context.Context, repository, tag string) error {
	var manifest v1.Manifest
	body, err := httpGet(ctx, repository+"/manifests/"+tag)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&manifest); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, l := range manifest.Layers {
		g.Go(func() error { return walkLayer(ctx, repository, l.Digest) })
	}
	return g.Wait()
}

func walkLayer(ctx context.Context, repository string, want digest.Digest) error {
	body, err := httpGet(ctx, repository+"/blobs/"+want.String())
	if err != nil {
		return err
	}
	defer body.Close()
	blob, diff := sha256.New(), sha256.New()
	compressed := io.TeeReader(body, blob)
	z, err := gzip.NewReader(compressed)
	if err != nil {
		return err
	}
	content := io.TeeReader(z, diff)
	for t := tar.NewReader(content); err == nil; {
		_, err = t.Next()
	}
	if err != io.EOF {
		return err
	}
	for _, rest := range []io.Reader{content, compressed} { // what stands after the end of the tar, and of the members
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
	}
	if got := digest.NewDigest(digest.SHA256, blob); got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

func httpGet(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", v1.MediaTypeImageManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

// BenchmarkIndexSize gives the size of an image's indexes in parts of a hundred of its layers.
func BenchmarkIndexSize(b *testing.B) {
	set, err := theImages()
	if err != nil {
		b.Fatal(err)
	}
	layout, err := corpus.LargeImage(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for name, im := range map[string]images.Image{"debian+python": set.Python(), "large": {Layout: layout, Tag: "v1"}} {
		b.Run("image="+name, func(b *testing.B) {
			var indexes, layers int64
			for b.Loop() {
				h := newHost(b)
				dir := h.mount(b, inLayout(im))
				layers = h.state(b, dir).Stats.ImageBytes
				h.umount(b, dir)
				indexes = 0
				for _, file := range filesBelow(b, filepath.Join(h.cache(), "indexes")) {
					info, err := os.Stat(file)
					if err != nil {
						b.Fatal(err)
					}
					indexes += info.Size()
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(100*float64(indexes)/float64(layers), "%index")
		})
	}
}
