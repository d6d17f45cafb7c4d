package main

import (
	"bytes"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// cached are the bytes of layers in the cache, and the number of indexes.
func (u *userOf) cached() (bytes int64, indexes int) {
	u.t.Helper()
	for _, i := range parseItems(u.t, u) {
		switch i.Kind {
		case "blob":
			bytes += i.Cached
		case "index":
			indexes++
		}
	}
	return bytes, indexes
}

func TestPullBringsAllOfAnImage(t *testing.T) {
	u, contents := prefetching(t)
	u.run("cache", "rm", "--all")
	out, said := u.run("pull", u.ref())
	whole, indexes := u.cached()
	if d, _ := u.run("digest", u.ref()); out != d || indexes != 2 || !strings.Contains(said, "MiB fetched in ") {
		t.Errorf("it prints %q and says %q; %d layers are indexed", out, said, indexes)
	}
	u.run("cache", "rm", "--blobs")
	u.run("cat", u.ref()+":/lib/c")
	part, _ := u.cached()
	if _, said = u.run("pull", u.ref()); part == 0 || part >= whole || strings.HasPrefix(said, humanBytes(whole)) {
		t.Errorf("of a layer of which %d bytes are here it says %q", part, said)
	}
	if got, _ := u.cached(); got != whole {
		t.Errorf("%d bytes are in the cache, want %d", got, whole)
	}
	u.registry.Close()
	if got := u.readable(contents); len(got) != len(contents) {
		t.Errorf("without the registry %q can be read", got)
	}
}

func TestPullOfIndexesKeepsNoBlobs(t *testing.T) {
	u, _ := prefetching(t)
	u.run("cache", "rm", "--all")
	u.run("pull", "--index-only", u.ref())
	if n, indexes := u.cached(); n != 0 || indexes != 2 {
		t.Errorf("%d bytes of layers are in the cache, and %d indexes", n, indexes)
	}
	u.run("cat", u.ref()+":/lib/c")
	before, _ := u.cached()
	u.run("cache", "rm", "--indexes")
	u.run("pull", "--index-only", u.ref())
	if after, indexes := u.cached(); before == 0 || after != before || indexes != 2 {
		t.Errorf("%d bytes were in the cache, and %d are now, with %d indexes", before, after, indexes)
	}
}

func TestPullOfAllPlatforms(t *testing.T) {
	u := newUser(t)
	var images []testimage.Bundle
	for _, arch := range []string{"amd64", "arm64"} {
		tar := testimage.Tar(testimage.File("arch", arch))
		images = append(images, testimage.Image{
			Platform: v1.Platform{OS: "linux", Architecture: arch}, Layers: []testimage.Layer{testimage.NewLayer(testimage.Gzip(tar), tar)},
		}.Bundle())
	}
	u.registry.Push("team/a", "v1", testimage.Index(images[0], testimage.Attestation(images[0]), images[1]))
	u.run("pull", "--all-platforms", u.ref())
	var out, errs bytes.Buffer
	if code := run(append([]string{"pull", "--all-platforms", u.ref() + "x"}, u.flags...), &out, &errs); code == exitOK || out.Len() > 0 {
		t.Errorf("of an image that is not there: exit code %d, prints %q", code, &out)
	}
	u.registry.Close()
	for _, arch := range []string{"amd64", "arm64"} {
		if got, _ := u.run("cat", "--offline", "--platform=linux/"+arch, u.ref()+":/arch"); got != arch {
			t.Errorf("the file of %s is %q", arch, got)
		}
	}
}
