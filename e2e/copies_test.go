package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgfs/e2e/internal/peer"
)

// A copied is the image in some place.
type copied struct {
	ref  string // as a user writes it
	both bool   // the place has the image of the other platform as well
	// container is what a tool adds to the tree of a container, where it is one that is exported; nil where it is an image.
	container []string
	flags     []string // of all commands
}

// A copier has tools copy the image to all kinds of places.
type copier struct {
	image   string        // its reference in the registry
	repo    string        // what is pushed is here, in the registry, with a name to come
	dir     string        // files are here
	storage *peer.Storage // of buildah and podman
}

// newCopier returns one for an image in a registry.
func newCopier(t *testing.T, image, registry string) *copier {
	t.Helper()
	storage, err := os.MkdirTemp(lab.dir, "") // a short name
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(storage) })
	c := &copier{image, registry + "/sources/", t.TempDir(), peer.NewStorage(storage)}
	c.prepare(t)
	return c
}

// The image of the other platform, which is one file, and the list of both, in the storage of buildah and podman.
const (
	otherPlatform, otherFile, otherContent = "linux/arm64", "arm", "64"
	otherImage, bothImages                 = "localhost/other", "localhost/both"
)

func (c *copier) at(name string) string { return filepath.Join(c.dir, name) }

// pushed is the reference of what is pushed under a name.
func (c *copier) pushed(name string) string { return c.repo + name + ":v1" }

// short is a reference without what is another one in each run.
func (c *copier) short(ref string) string {
	return strings.NewReplacer(c.dir+"/", "", c.repo, "").Replace(ref)
}

func runTool(t *testing.T, name string, args ...string) {
	t.Helper()
	_, err := peer.Run(timeLimit(t), name, args...)
	must(t, err)
}

// inStorage runs buildah or podman.
func (c *copier) inStorage(t *testing.T, tool string, args ...string) {
	t.Helper()
	_, err := c.storage.Run(timeLimit(t), tool, args...)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// prepare has buildah pull the image, make a list of it and of another platform's, and push that.
func (c *copier) prepare(t *testing.T) {
	t.Helper()
	c.inStorage(t, "buildah", "pull", "--quiet", "--tls-verify=false", c.image)
	must(t, c.storage.OneFile(timeLimit(t), otherImage, otherPlatform, otherFile, otherContent))
	c.inStorage(t, "buildah", "manifest", "create", bothImages, c.image, otherImage)
	c.inStorage(t, "buildah", "manifest", "push", "--quiet", "--tls-verify=false", "--all", bothImages, "docker://"+c.pushed("list"))
}

// copiers have a tool each.
var copiers = map[string]func(*copier, *testing.T) []copied{
	"buildah": (*copier).buildah, "podman": (*copier).podman, "skopeo": (*copier).skopeo, "docker": (*copier).docker, "containerd": (*copier).containerd,
}

func (c *copier) buildah(t *testing.T) []copied {
	for to, flags := range map[string][]string{
		"docker://" + c.pushed("list-v2"):    {"--tls-verify=false", "--format", "v2s2"},
		"oci:" + c.at("buildah-oci") + ":v1": nil,
		"dir:" + c.at("buildah-dir"):         nil,
	} {
		c.inStorage(t, "buildah", slices.Concat([]string{"manifest", "push", "--quiet", "--all"}, flags, []string{bothImages, to})...)
	}
	c.inStorage(t, "buildah", "push", "--quiet", "--tls-verify=false", "--format", "docker", c.image, "docker://"+c.pushed("buildah"))
	c.inStorage(t, "buildah", "push", "--quiet", c.image, "docker-archive:"+c.at("buildah.tar")+":test/image:v1")
	return []copied{
		{ref: c.pushed("list"), both: true},
		{ref: c.pushed("list-v2"), both: true},
		{ref: c.pushed("buildah")},
		{ref: c.at("buildah-oci"), both: true},
		{ref: "dir:" + c.at("buildah-dir"), both: true}, // its layers are not compressed
		{ref: "docker-archive:" + c.at("buildah.tar")},
	}
}

func (c *copier) podman(t *testing.T) []copied {
	for format, name := range map[string]string{"docker-archive": "podman.tar", "docker-dir": "podman-dir"} {
		c.inStorage(t, "podman", "save", "--quiet", "--format", format, "--output", c.at(name), c.image)
	}
	c.inStorage(t, "podman", "create", "--name", "exported", "--network", "none", c.image, "true")
	c.inStorage(t, "podman", "export", "--output", c.at("podman-export.tar"), "exported")
	return []copied{
		{ref: "docker-archive:" + c.at("podman.tar") + ":" + c.image},
		{ref: c.at("podman-dir")},
		{ref: "tar:" + c.at("podman-export.tar"), container: []string{}},
	}
}

func (c *copier) skopeo(t *testing.T) []copied {
	list := "docker://" + c.pushed("list")
	for _, to := range []string{
		"docker://" + c.pushed("skopeo-list"), "oci:" + c.at("skopeo-oci") + ":v1", "oci-archive:" + c.at("skopeo-oci.tar") + ":v1", "dir:" + c.at("skopeo-dir"),
	} {
		must(t, peer.Copy(timeLimit(t), list, to, "--all"))
	}
	must(t, peer.Copy(timeLimit(t), list, "docker://"+c.pushed("skopeo"), "--format", "v2s2"))
	runTool(t, "pigz", "-1", "--keep", c.at("skopeo-oci.tar"))
	return []copied{
		{ref: c.pushed("skopeo-list"), both: true},
		{ref: c.pushed("skopeo")},
		{ref: "oci:" + c.at("skopeo-oci") + ":v1", both: true},
		{ref: "oci-archive:" + c.at("skopeo-oci.tar") + ":v1", both: true},
		{ref: c.at("skopeo-oci.tar.gz"), both: true},
		{ref: "dir:" + c.at("skopeo-dir"), both: true},
	}
}

// docker loads what skopeo has written for it.
func (c *copier) docker(t *testing.T) []copied {
	const name, tag = "test/image", "v1"
	d, ctx := get(t, theDocker), timeLimit(t)
	must(t, peer.Copy(ctx, "docker://"+c.pushed("list"), "docker-archive:"+c.at("skopeo.tar")+":"+name+":"+tag))
	must(t, d.Load(ctx, c.at("skopeo.tar")))
	must(t, d.Tag(ctx, name+":"+tag, c.pushed("docker")))
	must(t, d.Push(ctx, c.pushed("docker")))
	must(t, d.Save(ctx, c.at("docker.tar"), name+":"+tag))
	must(t, d.Export(ctx, c.at("docker-export.tar"), name+":"+tag))
	runTool(t, "gzip", "-1", "--keep", c.at("docker.tar"))
	runTool(t, "pigz", "-1", "--keep", c.at("docker-export.tar"))
	runTool(t, "zstd", "-q", "-1", "--keep", c.at("docker.tar"), c.at("docker-export.tar"))
	hybridOf(t, c.at("docker.tar"), c.at("docker-25.tar"), name, tag)
	asDocker19(t, c.at("docker.tar"), c.at("docker-1.9.tar"))
	server, certs := c.serve(t)
	return []copied{
		{ref: "docker-archive:" + c.at("skopeo.tar") + ":" + name + ":" + tag},
		{ref: c.pushed("docker")},
		{ref: "docker-archive:" + c.at("docker.tar") + ":" + name + ":" + tag},
		{ref: c.at("docker.tar.gz") + ":@0"},
		{ref: c.at("docker.tar.zst")},
		{ref: "docker-archive:" + c.at("docker-25.tar") + ":@0"},
		{ref: c.at("docker-25.tar") + ":" + name + ":" + tag},
		{ref: "docker-archive:" + c.at("docker-1.9.tar") + ":" + name + ":" + tag},
		{ref: c.at("docker-export.tar"), container: ofDocker},
		{ref: c.at("docker-export.tar.gz"), container: ofDocker},
		{ref: "tar:" + server + "/docker-export.tar.zst", container: ofDocker, flags: []string{"--cert-dir", certs}},
	}
}

// ofDocker is what Docker makes in the tree of every container, whatever the image has there: what it knows its own by, and
// empty files to mount others on.
var ofDocker = []string{".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}

// serve serves the files by HTTPS, and returns the URL, and a directory with its certificate.
func (c *copier) serve(t *testing.T) (url, certs string) {
	server := httptest.NewTLSServer(http.FileServer(http.Dir(c.dir)))
	untilDone(server.Close)
	certs = c.at("certs.d")
	must(t, os.Mkdir(certs, 0o700))
	must(t, os.WriteFile(filepath.Join(certs, "ca.crt"), pemOf(server.Certificate()), 0o600))
	return server.URL, certs
}

// containerd writes an archive that is a layout and for docker load.
func (c *copier) containerd(t *testing.T) []copied {
	must(t, get(t, theContainerd).Export(timeLimit(t), c.pushed("list"), c.at("containerd.tar")))
	return []copied{
		{ref: "oci-archive:" + c.at("containerd.tar") + ":" + c.pushed("list"), both: true},
		{ref: "docker-archive:" + c.at("containerd.tar")},
	}
}
