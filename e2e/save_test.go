package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	"imgfs/internal/testimage"
)

// digestOf is the digest that imgfs says a reference has.
func (h *host) digestOf(t testing.TB, ref string, flags ...string) string {
	t.Helper()
	return strings.TrimSpace(h.ok(t, append(append([]string{"digest"}, flags...), ref)...))
}

// peerDigest is the digest that skopeo says one of its references has.
func peerDigest(t testing.TB, ref string, flags ...string) string {
	t.Helper()
	out, err := peer.Run(timeLimit(t), "skopeo", append(append([]string{"inspect", "--tls-verify=false", "--format={{.Digest}}"}, flags...), ref)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// mounted is the tree of a reference.
func (h *host) mounted(t *testing.T, ref string, flags ...string) treediff.Tree {
	t.Helper()
	dir := h.mount(t, ref, append(flags, "--suid", "--dev")...)
	defer h.umount(t, dir)
	return scan(t, dir)
}

// TestWhatIsSavedOrCopiedIsTheSameFromEverySource writes an image from each kind of place to each, and mounts it from there.
func TestWhatIsSavedOrCopiedIsTheSameFromEverySource(t *testing.T) {
	im, r := get(t, theImages).PAXTar(), get(t, theRegistry)
	h, ctx, place := newHost(t), timeLimit(t), t.TempDir()
	at := func(name string) string { return filepath.Join(place, name) }
	want := h.mounted(t, inRegistry(r, im))
	for _, to := range []string{"docker-archive:" + at("docker.tar") + ":a:b", "dir:" + at("skopeo"), "oci-archive:" + at("oci.tar") + ":v1"} {
		if err := peer.Copy(ctx, inLayout(im), to); err != nil {
			t.Fatal(err)
		}
	}
	dir := h.mount(t, inRegistry(r, im), "--suid", "--dev")
	for _, args := range [][]string{
		{"tar", "--create", "--file", at("rootfs.tar"), "--directory", dir, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "."},
		{"gzip", "-1", "--keep", at("docker.tar")},
	} {
		if _, err := peer.Run(ctx, args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	h.umount(t, dir)
	for name, from := range map[string]string{
		"registry": inRegistry(r, im), "layout": inLayout(im), "oci-archive": "oci-archive:" + at("oci.tar"), "docker-archive": at("docker.tar"),
		"docker-archive-gzip": at("docker.tar.gz"), "dir": "dir:" + at("skopeo"), "tar": "tar:" + at("rootfs.tar"),
	} {
		d := h.digestOf(t, from)
		for _, to := range []string{"oci:" + at("to-"+name) + ":v1", "oci-archive:" + at(name+".oci"), "docker-archive:" + at(name+".docker"), "dir:" + at("dir-"+name)} {
			t.Run(name+" to "+strings.ReplaceAll(to, place+"/", ""), func(t *testing.T) {
				if out := h.ok(t, "save", from, to); out != "" {
					t.Errorf("it prints %q", out)
				}
				sameTree(t, h.mounted(t, to), want, treediff.Blind{}, "its source")
				if got := h.digestOf(t, to); got != d && !strings.HasPrefix(to, "docker-archive:") {
					t.Errorf("the digest is %s, and was %s", got, d)
				}
			})
		}
		t.Run(name+" to registry", func(t *testing.T) {
			to := r.Addr + "/saved/" + name + ":v1"
			if out := h.ok(t, "copy", from, to); out != r.Addr+"/saved/"+name+"@"+d+"\n" {
				t.Errorf("it prints %q", out)
			}
			sameTree(t, h.mounted(t, to), want, treediff.Blind{}, "its source")
			if got := h.digestOf(t, to); got != d {
				t.Errorf("the digest is %s, and was %s", got, d)
			}
		})
	}
}

// TestPeersReadWhatIsSaved saves an image of OCI's, one of zstd and one of Docker's out of a registry.
func TestPeersReadWhatIsSaved(t *testing.T) {
	set, r := get(t, theImages), get(t, theRegistry)
	docker := images.Image{Name: "docker", Layout: set.PAXTar().Layout, Tag: set.PAXTar().Tag}
	if err := peer.Copy(timeLimit(t), inLayout(docker), "docker://"+inRegistry(r, docker), "--format", "v2s2"); err != nil {
		t.Fatal(err)
	}
	for _, im := range []images.Image{set.PAXTar(), set.Shapes(), docker} {
		t.Run(im.Name, func(t *testing.T) {
			h, ctx, place := newHost(t), timeLimit(t), t.TempDir()
			at := func(name string) string { return filepath.Join(place, name) }
			ref := inRegistry(r, im)
			d := peerDigest(t, "docker://"+ref)
			// Debian's skopeo does not find a manifest of Docker's by its tag in a layout.
			for i, to := range []string{"oci:" + at("layout"), "oci-archive:" + at("oci.tar"), "dir:" + at("skopeo")} {
				h.ok(t, "save", ref, to)
				if got := peerDigest(t, to); got != d {
					t.Errorf("skopeo says that %s is %s, want %s", to, got, d)
				}
				copied := at("copied-" + string(rune('a'+i)))
				if err := peer.Copy(ctx, to, "dir:"+copied, "--preserve-digests"); err != nil {
					t.Errorf("skopeo copies %s: %v", to, err)
				}
				if got := h.digestOf(t, "dir:"+copied); got != d {
					t.Errorf("skopeo's copy of %s is %s, want %s", to, got, d)
				}
			}
			h.sameBlobs(t, im, at("layout"))
			if im != docker { // umoci knows no manifests of Docker's
				h.ok(t, "save", ref, "oci:"+at("layout")+":v1")
				saved := images.Image{Name: "saved-" + im.Name, Layout: at("layout"), Tag: "v1"}
				sameTree(t, oraclesOf(im)[0].scan(t, saved), oraclesOf(im)[0].tree(t, im), treediff.Blind{}, oraclesOf(im)[0].name)
			}
			h.checkDockerLoads(t, im, ref)
		})
	}
}

// sameBlobs compares the layers in a layout with those that an image was pushed with.
func (h *host) sameBlobs(t *testing.T, im images.Image, layout string) {
	t.Helper()
	blobs, err := peer.LayerBlobs(timeLimit(t), im.Layout, im.Tag)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		want, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(layout, "blobs/sha256", filepath.Base(blob))); err != nil || !bytes.Equal(got, want) {
			t.Errorf("layer %s is another one: %v", filepath.Base(blob), err)
		}
	}
}

// checkDockerLoads writes an archive for docker load through a pipe, and has Docker and skopeo read it.
func (h *host) checkDockerLoads(t *testing.T, im images.Image, ref string) {
	t.Helper()
	ctx, docker, place := timeLimit(t), get(t, theDocker), t.TempDir()
	archive, name := filepath.Join(place, "docker.tar"), "saved/"+im.Name+":v1"
	if err := os.WriteFile(archive, []byte(h.ok(t, "save", ref, "docker-archive:-:"+name)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := docker.Load(ctx, archive); err != nil {
		t.Fatal(err)
	}
	out, err := docker.Inspect(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	id := parseJSON[[]struct{ ID string }](t, string(out))[0].ID
	if want := digest.FromString(h.ok(t, "config", ref)).String(); id != want {
		t.Errorf("Docker has loaded %s, want %s", id, want)
	}
	copied := filepath.Join(place, "copied")
	if err := peer.Copy(ctx, "docker-archive:"+archive, "dir:"+copied); err != nil {
		t.Fatal(err)
	}
	if id := digest.FromString(h.ok(t, "config", "dir:"+copied)).String(); id != digest.FromString(h.ok(t, "config", ref)).String() {
		t.Errorf("skopeo has read the config %s", id)
	}
	want := h.mounted(t, ref)
	for _, ref := range []string{archive, "dir:" + copied} {
		sameTree(t, h.mounted(t, ref), want, treediff.Blind{}, "the registry's")
	}
}

// TestACopyIsWhatPeersPull copies an image, and an index with all that can be in one, to a docker-registry.
func TestACopyIsWhatPeersPull(t *testing.T) {
	im, h := get(t, theImages).Python(), newHost(t)
	r := startRegistry(t, t.TempDir(), nil)
	to := r.Addr + "/copied/python:v1"
	for i, done := range []string{"uploaded=3 mounted=0 present=0", "uploaded=0 mounted=0 present=3"} {
		if said := h.run(t, "copy", "--log-level=info", inLayout(im), to); said.code != 0 || !strings.Contains(said.stderr, done) {
			t.Errorf("%d: exit code %d, %s, want %s", i, said.code, said.stderr, done)
		}
	}
	d := h.digestOf(t, inLayout(im))
	if got := peerDigest(t, "docker://"+to); got != d {
		t.Errorf("for skopeo it is %s, want %s", got, d)
	}
	pulled := filepath.Join(t.TempDir(), "pulled")
	if err := peer.Copy(timeLimit(t), "docker://"+to, "oci:"+pulled+":v1", "--preserve-digests"); err != nil {
		t.Fatal(err)
	}
	sameTree(t, umociOracle.scan(t, images.Image{Name: "pulled", Layout: pulled, Tag: "v1"}), umociOracle.tree(t, im), treediff.Blind{}, "umoci")
	if err := get(t, theDocker).Pull(timeLimit(t), to); err != nil {
		t.Error(err)
	}
	if said := h.run(t, "copy", "--log-level=info", to, r.Addr+"/elsewhere:v1"); !strings.Contains(said.stderr, "uploaded=0 mounted=3 present=0") {
		t.Errorf("to another repository: exit code %d, %s", said.code, said.stderr)
	}
	if got := peerDigest(t, "docker://"+r.Addr+"/elsewhere:v1"); got != d {
		t.Errorf("in another repository it is %s, want %s", got, d)
	}
}

func TestAnIndexIsCopiedWithAllThatItHas(t *testing.T) {
	h, layout := newHost(t), t.TempDir()
	arm := tiny()
	arm.Platform.OS, arm.Platform.Architecture = "linux", "arm64"
	index := testimage.Index(tiny().Bundle(), testimage.Attestation(tiny().Bundle()), arm.Bundle())
	writeLayout(t, layout, index)
	r := startRegistry(t, t.TempDir(), nil)
	to := r.Addr + "/a:all"
	h.ok(t, "copy", "--all", "oci:"+layout, to)
	saved, copied := filepath.Join(t.TempDir(), "saved"), filepath.Join(t.TempDir(), "copied")
	h.ok(t, "save", "--all", to, "dir:"+saved)
	if err := peer.Copy(timeLimit(t), "docker://"+to, "dir:"+copied, "--all", "--preserve-digests"); err != nil {
		t.Fatal(err)
	}
	for _, name := range filesBelow(t, copied) {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(saved, filepath.Base(name))); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not as in skopeo's copy: %v", filepath.Base(name), err)
		}
	}
	if got, want := len(filesBelow(t, saved)), len(filesBelow(t, copied)); got != want {
		t.Errorf("%d files, and %d in skopeo's copy", got, want)
	}
	for _, ref := range []string{to, "dir:" + saved, "dir:" + copied} {
		if got := h.digestOf(t, ref); got != index.Root.Digest.String() {
			t.Errorf("%s is %s, want %s", ref, got, index.Root.Digest)
		}
	}
	nested := testimage.Index(tiny().Bundle(), testimage.Index(arm.Bundle()))
	writeLayout(t, layout, nested)
	h.ok(t, "copy", "--all", "oci:"+layout+"@"+nested.Root.Digest.String(), r.Addr+"/a:nested")
	if got := h.digestOf(t, r.Addr+"/a:nested", "--platform=linux/arm64"); got != nested.Root.Digest.String() {
		t.Errorf("a nested index is %s, want %s", got, nested.Root.Digest)
	}
}

// TestACopyBetweenPrivateRegistries has the credentials of each on the command line, and in a file that skopeo has written.
func TestACopyBetweenPrivateRegistries(t *testing.T) {
	const second = "other:$2y$04$abcdefghijklmnopqrstuuNnEGiRMr2yGNmoi/N0xtxZ43UqjYbEu\n" // the hash of "different", at the lowest cost
	h, im := newHost(t), get(t, theImages).PAXTar()
	from, to := startRegistry(t, t.TempDir(), &peer.RegistryOptions{Auth: true}), startRegistry(t, t.TempDir(), &peer.RegistryOptions{Htpasswd: second})
	ours, theirs := peer.User+":"+peer.Password, "other:different"
	if err := push(timeLimit(t), from, im, "--dest-creds", ours); err != nil {
		t.Fatal(err)
	}
	ref := inRegistry(from, im)
	h.fails(t, 4, []string{to.Addr}, "copy", "--creds", ours, ref, to.Addr+"/a:1")
	h.fails(t, 4, []string{to.Addr}, "copy", "--creds", ours, "--dest-creds", ours, ref, to.Addr+"/a:1")
	h.fails(t, 4, []string{from.Addr}, "copy", "--dest-creds", theirs, ref, to.Addr+"/a:1")
	h.ok(t, "copy", "--creds", ours, "--dest-creds", theirs, ref, to.Addr+"/a:1")
	auth := h.path("auth.json")
	for addr, user := range map[string][]string{from.Addr: {peer.User, peer.Password}, to.Addr: {"other", "different"}} {
		if _, err := peer.Run(timeLimit(t), "skopeo", "login", "--tls-verify=false", "--authfile", auth, "--username", user[0], "--password", user[1], addr); err != nil {
			t.Fatal(err)
		}
	}
	h.ok(t, "copy", "--authfile", auth, ref, to.Addr+"/a:2")
	d := h.digestOf(t, inLayout(im))
	for _, tag := range []string{"1", "2"} {
		if got := peerDigest(t, "docker://"+to.Addr+"/a:"+tag, "--authfile", auth); got != d {
			t.Errorf("%s is %s, want %s", tag, got, d)
		}
	}
}

// TestSchema1IsSavedAsOCI saves an image of schema 1, which needs diff IDs for that.
func TestSchema1IsSavedAsOCI(t *testing.T) {
	im, r := get(t, theImages).PAXTar(), get(t, theRegistry)
	ref := r.Addr + "/test/old:v1"
	if err := peer.Copy(timeLimit(t), inLayout(im), "docker://"+ref, "--format", "v2s1"); err != nil {
		t.Fatal(err)
	}
	h, layout := newHost(t), filepath.Join(t.TempDir(), "layout")
	h.ok(t, "save", ref, "oci:"+layout+":v1")
	h.ok(t, "copy", ref, r.Addr+"/test/new:v1")
	if got, want := peerDigest(t, "docker://"+r.Addr+"/test/new:v1"), peerDigest(t, "oci:"+layout+":v1"); got != want {
		t.Errorf("%s in the registry, %s in the layout", got, want)
	}
	h.checkDockerLoads(t, im, r.Addr+"/test/new:v1")
	sameTree(t, h.mounted(t, "oci:"+layout), tarOracle.tree(t, im), treediff.Blind{}, "tar")
}

// TestAnInterruptedSaveLeavesNothing stops it while a layer comes. A layout is left that holds no image, and can be written again.
func TestAnInterruptedSaveLeavesNothing(t *testing.T) {
	for _, transport := range []string{"oci", "oci-archive", "docker-archive", "dir"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(transport+"/"+signal.String(), func(t *testing.T) {
				h := newHost(t)
				r, ref := h.stalled(t)
				place := h.mkdir(t)
				to := transport + ":" + filepath.Join(place, "new")
				cmd := h.command("save", ref, to)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "a layer is being written", func() bool {
					return slices.ContainsFunc(filesBelow(t, place), func(name string) bool {
						info, err := os.Stat(name)
						return err == nil && info.Size() >= 32<<10
					})
				})
				kill(t, cmd.Process.Pid, signal)
				if err := cmd.Wait(); err == nil {
					t.Error("an interrupted save ended with success")
				}
				left := filesBelow(t, place)
				if transport == "oci" {
					left = slices.DeleteFunc(left, func(name string) bool {
						return filepath.Base(name) == "oci-layout" || filepath.Base(name) == "index.json" || strings.HasPrefix(name, filepath.Join(place, "new/blobs/sha256/"))
					})
				}
				if len(left) > 0 {
					t.Errorf("it has left %v", left)
				}
				r.Heal()
				h.ok(t, "save", ref, to)
				h.ok(t, "ls", to+":/noise")
			})
		}
	}
}
