package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// prefetching is a user of an image whose layers are indexed, and of which no byte is cached. Its files are larger than spans;
// contents has them by their paths.
func prefetching(t *testing.T) (u *userOf, contents map[string]string) {
	t.Helper()
	u = newUser(t)
	contents = make(map[string]string)
	random := rand.NewChaCha8([32]byte{2})
	file := func(name string) testimage.Entry {
		noise := make([]byte, 1<<20)
		random.Read(noise)
		contents["/"+name] = string(noise)
		return testimage.File(name, string(noise))
	}
	var im testimage.Image
	for _, tar := range [][]byte{
		testimage.Tar(testimage.Dir("lib/"), file("lib/a.so.1"), file("lib/b.so.1"), file("lib/c"), file("lib/d")),
		testimage.Tar(testimage.Dir("bin/"), file("bin/one"), file("bin/two"), testimage.Link("bin/hard", "bin/one"),
			testimage.Symlink("bin/soft", "../lib/c"), testimage.Symlink("bin/dir", "/lib"), testimage.Symlink("bin/lost", "nowhere"),
			testimage.File("bin/empty", ""), testimage.Dir("odd/"), file("odd/[x]"), file("odd/y")),
	} {
		im.Layers = append(im.Layers, testimage.NewLayer(testimage.Gzip(tar), tar))
	}
	u.registry.Push("team/a", "v1", im.Bundle())
	u.run("ls", u.ref())
	u.run("cache", "rm", "--blobs")
	return u, contents
}

// readable are the files that can be read without the registry.
func (u *userOf) readable(contents map[string]string) (paths []string) {
	u.t.Helper()
	for _, path := range sortedKeys(contents) {
		var out, errs bytes.Buffer
		code := run(append([]string{"cat", "--offline", u.ref() + ":" + path}, u.flags...), &out, &errs)
		switch {
		case code == exitOK && out.String() == contents[path]:
			paths = append(paths, path)
		case code == exitOK:
			u.t.Errorf("%s: wrong bytes", path)
		}
	}
	return paths
}

func TestPrefetchBringsWhatPathsNeed(t *testing.T) {
	u, contents := prefetching(t)
	for _, test := range []struct {
		paths []string
		want  string
		most  int // requests for layers
	}{
		{[]string{"/lib/c"}, "/lib/c", 1},
		{[]string{"lib/c"}, "/lib/c", 1},
		{[]string{"/bin/hard"}, "/bin/one", 1},
		{[]string{"/bin/soft"}, "/lib/c", 1},
		{[]string{"/bin/dir/../bin/two"}, "/bin/two", 1},
		{[]string{"/lib"}, "/lib/a.so.1 /lib/b.so.1 /lib/c /lib/d", 1},
		{[]string{"/bin/dir"}, "/lib/a.so.1 /lib/b.so.1 /lib/c /lib/d", 1},
		{[]string{"/bin"}, "/bin/one /bin/two /lib/c", 2}, // the link to a directory is not followed
		{[]string{"/bin/empty"}, "", 0},
		{[]string{"/*/*.so.1"}, "/lib/a.so.1 /lib/b.so.1", 1},
		{[]string{"/bin/dir/[ab]*", "/odd/[x]"}, "/lib/a.so.1 /lib/b.so.1 /odd/[x]", 2},
		{[]string{"/odd/[yz]"}, "/odd/y", 1},
		{[]string{"/*"}, "/bin/one /bin/two /lib/a.so.1 /lib/b.so.1 /lib/c /lib/d /odd/[x] /odd/y", 2},
	} {
		u.run("cache", "rm", "--blobs")
		u.registry.ForgetRequests()
		_, said := u.run(append([]string{"prefetch", u.ref(), "--paths"}, test.paths...)...)
		asked := len(u.registry.Requests(func(q testimage.Request) bool { return strings.Contains(q.Path, "/blobs/") }))
		if asked > test.most {
			t.Errorf("%q: %d requests for layers, want %d", test.paths, asked, test.most)
		}
		if got := strings.Join(u.readable(contents), " "); got != test.want {
			t.Errorf("%q: %q can be read, want %q", test.paths, got, test.want)
		}
		if want := "MiB fetched in "; test.want != "" && !strings.Contains(said, want) {
			t.Errorf("%q: it says %q, want %q", test.paths, said, want)
		}
	}
}

func TestPrefetchWithoutPathsBringsEverything(t *testing.T) {
	u, contents := prefetching(t)
	u.run("prefetch", u.ref())
	if got := u.readable(contents); len(got) != len(contents) {
		t.Errorf("%q can be read", got)
	}
	var missing []string
	for _, item := range parseItems(t, u) {
		if item.Kind == "blob" && item.Cached < item.Size {
			missing = append(missing, item.Digest.String())
		}
	}
	if len(missing) > 0 {
		t.Errorf("of %q not all is in the cache", missing)
	}
	u.registry.ForgetRequests()
	if _, said := u.run("prefetch", u.ref()); strings.Contains(said, "MiB") {
		t.Errorf("once more, it says %q", said)
	}
}

func TestPrefetchSaysWhatItCannotDo(t *testing.T) {
	u, _ := prefetching(t)
	for _, test := range []struct {
		code int
		args []string
	}{
		{exitNotFound, []string{u.ref(), "--paths", "/lib/c", "/no/such/file"}},
		{exitNotFound, []string{u.ref(), "--paths", "/lib/*.no"}},
		{exitUsage, []string{u.ref(), "--paths", "/lib/[c"}},
		{exitUsage, []string{u.ref(), "/lib/c"}},
		{exitUsage, nil},
	} {
		var out, errs bytes.Buffer
		if code := run(append(append([]string{"prefetch"}, test.args...), u.flags...), &out, &errs); code != test.code {
			t.Errorf("%q: exit code %d, want %d: %s", test.args, code, test.code, &errs)
		}
	}
	u.registry.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Corrupt, After: 1000})
	var out, errs bytes.Buffer
	if code := run(append([]string{"prefetch", u.ref()}, u.flags...), &out, &errs); code != exitVerification || !strings.Contains(errs.String(), "corrupt") {
		t.Errorf("of a registry that serves other bytes: exit code %d: %s", code, &errs)
	}
}

func parseItems(t *testing.T, u *userOf) (items []cacheItem) {
	t.Helper()
	out, _ := u.run("cache", "ls", "--json")
	if err := json.Unmarshal([]byte(out), &items); err != nil {
		t.Fatal(err)
	}
	return items
}
