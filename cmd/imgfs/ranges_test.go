package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

// A userOf is somebody with a cache and a registry.
type userOf struct {
	t        *testing.T
	registry *testimage.Registry
	flags    []string
	content  string // of /file in team/a:v1
	layer    digest.Digest
	bundle   testimage.Bundle
}

func newUser(t *testing.T) *userOf {
	u := &userOf{t: t, registry: testimage.StartRegistry(), flags: []string{"--cache-dir", t.TempDir()}}
	t.Cleanup(u.registry.Close)
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	u.content = string(noise)
	tar := testimage.Tar(testimage.File("file", u.content))
	layer := testimage.NewLayer(testimage.Gzip(tar), tar)
	u.layer = digest.FromBytes(layer.Blob)
	u.bundle = testimage.Image{Layers: []testimage.Layer{layer}}.Bundle()
	u.registry.Push("team/a", "v1", u.bundle)
	return u
}

func (u *userOf) ref() string { return u.registry.Host() + "/team/a:v1" }

// run runs a command that has to succeed.
func (u *userOf) run(args ...string) (stdout, stderr string) {
	u.t.Helper()
	var out, errs bytes.Buffer
	if code := run(append(args[:len(args):len(args)], u.flags...), &out, &errs); code != exitOK {
		u.t.Errorf("imgfs %s: exit code %d: %s", strings.Join(args, " "), code, &errs)
	}
	return out.String(), errs.String()
}

// cat compares the file of the image, and returns what was logged.
func (u *userOf) cat(name string) string {
	u.t.Helper()
	out, log := u.run("cat", u.ref()+":/file")
	if out != u.content {
		u.t.Errorf("%s: the file has %d bytes, and they are wrong", name, len(out))
	}
	return log
}

func (u *userOf) layerRequests(r *testimage.Registry) int {
	return len(r.Requests(func(q testimage.Request) bool { return strings.HasSuffix(q.Path, u.layer.String()) }))
}

func TestALayerWithoutRangesIsSpooledOnce(t *testing.T) {
	for name, fault := range map[string]testimage.Fault{
		"200": {On: testimage.Blobs, Kind: testimage.IgnoreRange},
		"416": {On: testimage.Blobs, Kind: testimage.RefuseRange, Status: 416},
		"501": {On: testimage.Blobs, Kind: testimage.RefuseRange, Status: 501},
	} {
		u := newUser(t)
		u.cat(name)
		if out, _ := u.run("inspect", u.ref()); !strings.Contains(out, "Ranges:      yes\n") {
			t.Errorf("%s: before, inspect says %s", name, out)
		}
		u.registry.Inject(fault)
		var says struct{ Ranges *bool }
		out, _ := u.run("inspect", "--json", u.ref())
		if err := json.Unmarshal([]byte(out), &says); err != nil || says.Ranges == nil || *says.Ranges {
			t.Errorf("%s: inspect says %s", name, out)
		}
		if out, _ := u.run("inspect", u.ref()); !strings.Contains(out, "Ranges:      no") {
			t.Errorf("%s: inspect says %s", name, out)
		}
		u.run("cache", "rm", "--blobs")
		u.registry.ForgetRequests()
		if log := u.cat(name); strings.Count(log, "does not serve ranges") != 1 {
			t.Errorf("%s: the log says %q", name, log)
		}
		if n := u.layerRequests(u.registry); n != 2 { // for a range, and for the whole
			t.Errorf("%s: the layer was asked for %d times", name, n)
		}
		u.registry.ForgetRequests()
		u.cat(name)
		if n := u.layerRequests(u.registry); n != 0 {
			t.Errorf("%s: the layer was asked for %d times, and is in the cache", name, n)
		}
		if out, _ := u.run("inspect", "--offline", u.ref()); strings.Contains(out, "Ranges") {
			t.Errorf("%s: offline, inspect says %s", name, out)
		}
	}
}

// mirror starts a mirror of the registry, and has it asked first.
func (u *userOf) mirror() *testimage.Registry {
	u.t.Helper()
	mirror := testimage.StartRegistry()
	u.t.Cleanup(mirror.Close)
	mirror.Push("team/a", "v1", u.bundle)
	conf := filepath.Join(u.t.TempDir(), "registries.conf")
	text := fmt.Sprintf("[[registry]]\nlocation=%q\n[[registry.mirror]]\nlocation=%q\n", u.registry.Host(), mirror.Host())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		u.t.Fatal(err)
	}
	u.flags = append(u.flags, "--registries-conf", conf)
	return mirror
}

func TestALayerThatAMirrorHasWrongComesFromTheRegistry(t *testing.T) {
	for _, indexed := range []bool{false, true} {
		u := newUser(t)
		mirror := u.mirror()
		if indexed {
			u.cat("at first")
			flags := u.flags
			u.flags = u.flags[:2]
			u.run("cache", "rm", "--blobs")
			u.flags = flags
		}
		mirror.Replace("team/a", u.layer, bytes.Repeat([]byte{7}, len(u.bundle.Blobs[u.layer])))
		if log := u.cat("a mirror that is wrong"); !strings.Contains(log, "wrong bytes") {
			t.Errorf("indexed %v: the log says %q", indexed, log)
		}
		if n := u.layerRequests(u.registry); n == 0 {
			t.Errorf("indexed %v: the registry was not asked", indexed)
		}
	}
}
