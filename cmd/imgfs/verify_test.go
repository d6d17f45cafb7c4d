package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// threeLayers is an image that can be tampered with.
func threeLayers() testimage.Image {
	var im testimage.Image
	for i := range 3 {
		tar := testimage.Tar(testimage.File(fmt.Sprint("file", i), fmt.Sprint("content", i)))
		im.Layers = append(im.Layers, testimage.NewLayer(testimage.Gzip(tar), tar))
		im.History = append(im.History, v1.History{CreatedBy: fmt.Sprint("step ", i)}, v1.History{EmptyLayer: true})
	}
	return im
}

// verified runs verify, and returns its nodes, those that are not ok among them (by name and result), and what it said.
func verified(t *testing.T, code int, args ...string) (nodes []verifyNode, wrong []string, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(append([]string{"verify", "--json", "--cache-dir", t.TempDir()}, args...), &out, &errs); got != code {
		t.Errorf("verify %q: exit code %d, want %d: %s", args, got, code, &errs)
	}
	if err := json.Unmarshal(out.Bytes(), &nodes); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	for _, n := range nodes {
		if n.Result == nodeDiffers || n.Result == nodeError {
			name := n.Node
			if n.Layer > 0 {
				name = fmt.Sprint(name, " ", n.Layer)
			}
			wrong = append(wrong, name+": "+n.Result)
		}
	}
	return nodes, wrong, errs.String()
}

func TestVerifyNamesWhatIsWrongAndNothingElse(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	good := testimage.Index(testimage.Index(threeLayers().Bundle()))
	r.Push("a", "good", good)
	if nodes, wrong, _ := verified(t, exitOK, r.Host()+"/a:good"); len(wrong) > 0 || len(nodes) != 12 {
		t.Errorf("an image that is right: %v of %+v", wrong, nodes)
	}
	for i, tampering := range testimage.Tamperings() {
		t.Run(tampering.Name, func(t *testing.T) {
			repo := fmt.Sprint("tampered/", i)
			b := tampering.Of(good)
			r.Push(repo, "t", b)
			result, code := nodeDiffers, exitVerification
			if tampering.Missing {
				result, code = nodeError, exitNotFound
			}
			var want []string
			for _, node := range tampering.Wrong {
				want = append(want, node+": "+result)
			}
			for _, ref := range []string{repo + ":t", repo + "@" + b.Root.Digest.String()} {
				if nodes, wrong, _ := verified(t, code, r.Host()+"/"+ref); !slices.Equal(wrong, want) {
					t.Errorf("%s: wrong is %q of %+v", ref, wrong, nodes)
				}
			}
		})
	}
}

func TestVerifyChecksAllPlatformsAndArtifactsIfAsked(t *testing.T) {
	arm := threeLayers()
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	amd := threeLayers().Bundle()
	attestation := testimage.Attestation(amd)
	index := testimage.Index(amd, attestation, arm.Bundle())
	r := testimage.StartRegistry()
	defer r.Close()
	r.Push("a", "t", index)
	ref := r.Host() + "/a:t"
	names := func(nodes []verifyNode) (names []string) {
		for _, n := range nodes {
			if n.Layer <= 1 {
				names = append(names, n.Node+n.Platform)
			}
		}
		return names
	}
	image := []string{"config", "diff IDs", "history", "layer", "diff ID"}
	one := append([]string{"index", "manifestlinux/amd64"}, image...)
	all := append(append(slices.Clone(one), "manifestunknown/unknown", "config", "blob", "manifestlinux/arm64"), image...)
	nodes, _, _ := verified(t, exitOK, "--platform=linux/amd64", ref)
	if got := names(nodes); !slices.Equal(got, one) {
		t.Errorf("of one platform: %q, want %q", got, one)
	}
	r.ForgetRequests()
	nodes, _, _ = verified(t, exitOK, "--all-platforms", ref)
	if got := names(nodes); !slices.Equal(got, all) {
		t.Errorf("of all platforms: %q, want %q", got, all)
	}
	layer := digest.FromBytes(arm.Layers[0].Blob).String()
	if asked := r.Requests(func(q testimage.Request) bool { return strings.HasSuffix(q.Path, layer) }); len(asked) != 1 {
		t.Errorf("a layer of both platforms is fetched %d times", len(asked))
	}
	for _, d := range attestation.Digests() {
		if string(attestation.Blobs[d]) == "{}" {
			r.Replace("a", d, []byte("[]"))
		}
	}
	if _, wrong, _ := verified(t, exitVerification, "--all-platforms", ref); !slices.Equal(wrong, []string{"blob 1: differs"}) {
		t.Errorf("of an attestation that has been changed: %q", wrong)
	}
	verified(t, exitNotFound, "--platform=linux/s390x", ref)
}

// docs are the results for the documents of an image.
func docs(nodes []verifyNode) (results []string) {
	for _, n := range nodes {
		if n.Layer == 0 {
			results = append(results, n.Node+": "+n.Result)
		}
	}
	return results
}

func TestVerifySaysWhatAnArchiveAndATarDoNotHave(t *testing.T) {
	var im testimage.Image
	for i := range 2 {
		tar := testimage.Tar(testimage.File("file", fmt.Sprint("content ", i)))
		im.Layers = append(im.Layers, testimage.NewLayer(tar, tar))
	}
	files, item := im.DockerFiles("a:1")
	archive := testimage.Tar(append(files, testimage.DockerManifestFile(item))...)
	changed := bytes.Replace(archive, []byte("content 1"), []byte("content 2"), 1)
	reconfigured := bytes.Replace(archive, []byte(`"amd64"`), []byte(`"amd65"`), -1)
	cut := testimage.Gzip(im.Layers[0].Blob)
	cut = cut[:len(cut)-1]
	made := []string{"manifest: unchecked", "config: ok", "diff IDs: ok", "history: unchecked"}
	bad := []string{"manifest: unchecked", "config: differs", "diff IDs: ok", "history: unchecked"}
	all := []string{"manifest: unchecked", "config: unchecked", "diff IDs: ok", "history: ok"}
	for _, test := range []struct {
		name  string
		file  []byte
		code  int
		docs  []string
		wrong []string
	}{
		{"docker save", archive, exitOK, made, nil},
		{"docker save, compressed", testimage.Gzip(archive), exitOK, made, nil},
		{"docker save with another layer", changed, exitVerification, made, []string{"layer 2: differs"}},
		{"docker save with another config", testimage.Zstd(reconfigured), exitVerification, bad, []string{"config: differs"}},
		{"a root file system", im.Layers[0].Blob, exitOK, all, nil},
		{"a root file system, compressed", testimage.Gzip(im.Layers[0].Blob), exitOK, all, nil},
		{"a root file system, cut short", cut, exitVerification, nil, nil},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, test.file, 0o600); err != nil {
			t.Fatal(err)
		}
		nodes, wrong, _ := verified(t, test.code, path)
		if got := docs(nodes); !slices.Equal(got, test.docs) || !slices.Equal(wrong, test.wrong) {
			t.Errorf("%s: %q, wrong is %q; want %q, %q", test.name, got, wrong, test.docs, test.wrong)
		}
	}
}

func TestVerifySaysThatSchema1HasNoDiffIDs(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	layer := testimage.Gzip(testimage.Tar(testimage.File("f", "1")))
	b := testimage.Schema1(true, testimage.Step{Command: "one", Layer: layer}, testimage.Step{Command: "two", Layer: layer, ThrowAway: true})
	r.Push("a", "t", b)
	nodes, wrong, _ := verified(t, exitOK, r.Host()+"/a:t")
	if got := docs(nodes); !slices.Equal(got, []string{"manifest: ok", "config: unchecked", "diff IDs: unchecked", "history: ok"}) {
		t.Errorf("%q, wrong is %q", got, wrong)
	}
	r.Replace("a", digest.FromBytes(layer), bytes.Repeat([]byte{1}, len(layer)))
	if _, wrong, _ = verified(t, exitVerification, r.Host()+"/a:t"); !slices.Equal(wrong, []string{"layer 1: differs"}) {
		t.Errorf("with another layer, wrong is %q", wrong)
	}
}

func TestVerifyBelievesNothingThatIsInTheCache(t *testing.T) {
	u := newUser(t)
	u.cat("at first")
	u.run("verify", u.ref())
	noise := bytes.Clone(u.bundle.Blobs[u.layer])
	noise[len(noise)/2] ^= 1
	u.registry.Replace("team/a", u.layer, noise)
	u.cat("from the cache")
	var out, errs bytes.Buffer
	if code := run(append([]string{"verify", u.ref()}, u.flags...), &out, &errs); code != exitVerification || !strings.Contains(out.String(), "differs: layer "+u.layer.String()) {
		t.Errorf("exit code %d: %s%s", code, &out, &errs)
	}
}

func TestVerifySaysWhyItCouldNotCheck(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	r.RequireBasic("user", "secret")
	r.Push("a", "t", threeLayers().Bundle())
	verified(t, exitAuth, r.Host()+"/a:t")
	_, _, said := verified(t, exitOK, "--creds=user:secret", r.Host()+"/a:t")
	if said != "" {
		t.Errorf("it says %q of an image that is right", said)
	}
	verified(t, exitNotFound, "--creds=user:secret", r.Host()+"/a:nosuch")

	im := threeLayers()
	r.Remove("a", digest.FromBytes(im.Layers[0].Blob))
	r.Replace("a", digest.FromBytes(im.Layers[1].Blob), bytes.Repeat([]byte{1}, len(im.Layers[1].Blob)))
	_, wrong, said := verified(t, exitVerification, "--creds=user:secret", r.Host()+"/a:t")
	if !slices.Equal(wrong, []string{"layer 1: error", "layer 2: differs"}) || !strings.Contains(said, "differs: 1 of 10") {
		t.Errorf("where a layer is wrong and another is not there: %q, and it says %q", wrong, said)
	}
}

// fast runs verify --fast, and returns the results of all nodes in a line.
func (u *userOf) fast(code int, ref string) string {
	u.t.Helper()
	u.registry.ForgetRequests()
	var out, errs bytes.Buffer
	if got := run(append([]string{"verify", "--fast", "--json", ref}, u.flags...), &out, &errs); got != code {
		u.t.Errorf("exit code %d, want %d: %s", got, code, &errs)
	}
	var nodes []verifyNode
	if err := json.Unmarshal(out.Bytes(), &nodes); err != nil {
		u.t.Fatal(err)
	}
	if asked := u.registry.Requests(nil); len(asked) > 0 {
		u.t.Errorf("the registry was asked: %v", asked)
	}
	var results []string
	for _, n := range nodes {
		results = append(results, n.Node+" "+n.Result)
	}
	return strings.Join(results, ", ")
}

func TestVerifyFastLooksAtTheCacheAlone(t *testing.T) {
	const layers = ", diff IDs ok, history unchecked, layer "
	u := newUser(t)
	ref := u.ref()
	if got := u.fast(exitNotFound, ref); got != "" {
		t.Errorf("of what was never seen: %s", got)
	}
	u.run("inspect", ref)
	if got, want := u.fast(exitOK, ref), "manifest ok, config ok"+layers+"unchecked, diff ID unchecked"; got != want {
		t.Errorf("of documents: %s, want %s", got, want)
	}
	u.run("ls", ref)
	u.run("cache", "rm", "--blobs")
	if got, want := u.fast(exitOK, ref), "manifest ok, config ok"+layers+"unchecked, diff ID ok"; got != want {
		t.Errorf("of an index: %s, want %s", got, want)
	}
	u.cat("from the registry")
	good := "manifest ok, config ok" + layers + "ok, diff ID ok"
	if got := u.fast(exitOK, ref); got != good {
		t.Errorf("of all: %s, want %s", got, good)
	}
	other := testimage.Image{Layers: []testimage.Layer{{Blob: u.bundle.Blobs[u.layer], DiffID: digest.FromString("other")}}}.Bundle()
	u.registry.Push("team/a", "v2", other)
	v2 := u.registry.Host() + "/team/a:v2"
	u.run("digest", v2)
	if got, want := u.fast(exitVerification, v2), strings.Replace(good, "diff ID ok", "diff ID differs", 1); got != want {
		t.Errorf("of an image that says another diff ID: %s, want %s", got, want)
	}
}

func TestVerifyFastFindsDamage(t *testing.T) {
	u := newUser(t)
	cacheDir := u.flags[1]
	u.cat("at first")
	manifest := u.bundle.Root.Digest
	for _, damage := range []struct{ file, want string }{
		{"documents/sha256-" + manifest.Encoded(), "manifest differs"},
		{"indexes/sha256-" + u.layer.Encoded(), "diff ID differs"},
		{"blobs/sha256-" + u.layer.Encoded(), "layer differs"},
	} {
		name := filepath.Join(cacheDir, damage.file)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := u.fast(exitVerification, u.ref()); !strings.Contains(got, damage.want) || strings.Count(got, "differs") != 1 {
			t.Errorf("%s was damaged, and there is: %s", damage.file, got)
		}
		u.cat("after the damage")
		if got := u.fast(exitOK, u.ref()); strings.Contains(got, "differs") {
			t.Errorf("%s was damaged, and is mended: %s", damage.file, got)
		}
	}
}
