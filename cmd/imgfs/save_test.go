package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// places are destinations, of which a reference is read back, in a directory of the test's.
func places(t *testing.T) []string {
	dir := t.TempDir()
	var all []string
	for _, transport := range []string{"oci", "oci-archive", "docker-archive", "dir"} {
		all = append(all, transport+":"+filepath.Join(dir, transport))
	}
	return all
}

// check compares the file of an image that has been written somewhere.
func (u *userOf) check(ref string) {
	u.t.Helper()
	if out, _ := u.run("cat", ref+":/file"); out != u.content {
		u.t.Errorf("%s: the file has %d bytes, and they are wrong", ref, len(out))
	}
}

func TestASavedImageIsReadBack(t *testing.T) {
	u := newUser(t)
	for _, to := range places(t) {
		if out, _ := u.run("save", u.ref(), to); out != "" {
			t.Errorf("%s: it prints %q", to, out)
		}
		if blobs, err := os.ReadDir(filepath.Join(u.flags[1], "blobs")); err != nil || len(blobs) > 0 {
			t.Fatalf("%s: the cache has %v (%v)", to, blobs, err)
		}
		if got, _ := u.run("digest", to); strings.TrimSpace(got) != u.bundle.Root.Digest.String() && !strings.HasPrefix(to, "docker-archive:") {
			t.Errorf("%s has the digest %s", to, got)
		}
	}
	for _, to := range places(t) {
		u.run("save", u.ref(), to)
		u.check(to)
	}
}

func TestLayersInTheCacheAreSavedFromThere(t *testing.T) {
	u := newUser(t)
	u.cat("at first")
	u.registry.ForgetRequests()
	for _, to := range places(t) {
		u.run("save", "--offline", u.ref(), to)
		u.check(to)
	}
	if n := len(u.registry.Requests(nil)); n > 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

func TestALayerThatIsDamagedInTheCacheIsFetchedAnew(t *testing.T) {
	for name, damage := range map[string]func(f *os.File) error{
		"a bit": func(f *os.File) error {
			_, err := f.WriteAt([]byte("damage"), 4096+1000)
			return err
		},
		"the end": func(f *os.File) error { return f.Truncate(4096 + 2000) },
	} {
		for _, to := range places(t) {
			u := newUser(t)
			u.cat(name)
			f, err := os.OpenFile(filepath.Join(u.flags[1], "blobs", "sha256-"+u.layer.Encoded()), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(f); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			u.registry.ForgetRequests()
			_, log := u.run("save", u.ref(), to)
			if n := u.layerRequests(u.registry); n != 1 || !strings.Contains(log, "dropped") && name == "a bit" {
				t.Errorf("%s, %s: %d requests, the log says %s", name, to, n, log)
			}
			u.check(to)
		}
	}
}

func TestALayerThatAMirrorHasWrongIsSavedFromTheRegistry(t *testing.T) {
	for _, to := range places(t) {
		u := newUser(t)
		u.mirror().Replace("team/a", u.layer, bytes.Repeat([]byte{7}, len(u.bundle.Blobs[u.layer])))
		if _, log := u.run("save", u.ref(), to); !strings.Contains(log, "wrong bytes") {
			t.Errorf("%s: the log says %q", to, log)
		}
		u.check(to)
	}
}

func TestAnArchiveGoesToStandardOutput(t *testing.T) {
	u, whole := newUser(t), 0
	for _, transport := range []string{"oci-archive", "docker-archive"} {
		out, _ := u.run("save", u.ref(), transport+":-")
		path := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		u.check(transport + ":" + path)
		whole = len(out)
	}
	u.registry.Replace("team/a", u.layer, bytes.Repeat([]byte("x"), len(u.bundle.Blobs[u.layer])))
	u.flags[1] = t.TempDir()
	var out, errs bytes.Buffer
	if code := run([]string{"save", "--cache-dir", u.flags[1], u.ref(), "docker-archive:-"}, &out, &errs); code != exitVerification ||
		out.Len() >= whole-512 || !strings.Contains(errs.String(), u.layer.String()) {
		t.Errorf("of wrong bytes: exit code %d, %d bytes, %s", code, out.Len(), &errs)
	}
}

func TestAnArchiveIsNotWrittenToATerminal(t *testing.T) {
	u := newUser(t)
	_, program := terminal(t)
	var errs bytes.Buffer
	if code := run(append([]string{"save", u.ref(), "oci-archive:-"}, u.flags...), program, &errs); code != exitUsage || !strings.Contains(errs.String(), "terminal") {
		t.Errorf("exit code %d, %s", code, &errs)
	}
}

func TestAllOfAnIndexIsSaved(t *testing.T) {
	u := newUser(t)
	arm := testimage.Image{Platform: v1.Platform{OS: "linux", Architecture: "arm64"}, Layers: []testimage.Layer{{Blob: []byte("arm"), DiffID: digest.FromString("arm")}}}
	index := testimage.Index(u.bundle, testimage.Attestation(u.bundle), testimage.Index(arm.Bundle()))
	u.registry.Push("team/a", "v1", index)
	for _, to := range places(t) {
		if strings.HasPrefix(to, "docker-archive:") {
			continue
		}
		u.run("save", "--all", u.ref(), to)
		if got, _ := u.run("digest", to); strings.TrimSpace(got) != index.Root.Digest.String() {
			t.Errorf("%s has the digest %s, want %s", to, got, index.Root.Digest)
		}
		u.check(to)
		if got, _ := u.run("config", "--platform=linux/arm64", to); !strings.Contains(got, "arm64") {
			t.Errorf("%s has the config %s", to, got)
		}
	}
	to := places(t)[0]
	u.run("save", "--platform=linux/arm64", u.ref(), to)
	if got, _ := u.run("digest", to); strings.TrimSpace(got) != arm.Bundle().Root.Digest.String() {
		t.Errorf("one platform has the digest %s", got)
	}
}

func TestAnImageOfSchema1IsSavedWithDiffIDs(t *testing.T) {
	u := newUser(t)
	u.registry.Push("team/a", "v1", testimage.Schema1(true, testimage.Step{Command: "add", Layer: u.bundle.Blobs[u.layer]}, testimage.Step{Command: "env", Layer: []byte("x"), ThrowAway: true}))
	for _, to := range places(t) {
		u.run("save", u.ref(), to)
		u.check(to)
		var config v1.Image
		out, _ := u.run("config", to)
		if err := json.Unmarshal([]byte(out), &config); err != nil || len(config.RootFS.DiffIDs) != 1 || len(config.History) != 2 || !slices.Equal(config.Config.Env, []string{"A=b"}) {
			t.Errorf("%s has the config %s (%v)", to, out, err)
		}
	}
}

func TestCopyPrintsWhatThereIsThen(t *testing.T) {
	u, to := newUser(t), testimage.StartRegistry()
	defer to.Close()
	to.RequireBasic("me", "secret")
	want := to.Host() + "/x/y@" + u.bundle.Root.Digest.String() + "\n"
	for i, done := range []string{"uploaded=2 mounted=0 present=0", "uploaded=0 mounted=0 present=2"} {
		out, log := u.run("copy", "--log-level=info", "--dest-creds=me:secret", u.ref(), to.Host()+"/x/y:z")
		if out != want || !strings.Contains(log, done) {
			t.Errorf("%d: it prints %q and logs %s, want %q and %s", i, out, log, want, done)
		}
	}
	u.flags = append(u.flags, "--creds=me:secret")
	u.check(to.Host() + "/x/y:z")
	for _, q := range u.registry.Requests(nil) {
		if q.Authorization != "" {
			t.Errorf("the registry that it is from was sent %s", q.Authorization)
		}
	}
}

func TestACopyInARegistryMounts(t *testing.T) {
	u := newUser(t)
	_, log := u.run("copy", "--log-level=info", u.ref(), u.registry.Host()+"/team/b:v2")
	if !strings.Contains(log, "uploaded=0 mounted=2 present=0") || u.layerRequests(u.registry) > 1 {
		t.Errorf("the log says %s, and there were %d requests for the layer", log, u.layerRequests(u.registry))
	}
	u.check(u.registry.Host() + "/team/b:v2")
}

func TestImagesThatAreNotWrittenAnywhere(t *testing.T) {
	u := newUser(t)
	layout := filepath.Join(t.TempDir(), "layout")
	for _, tt := range []struct {
		args string
		code int
		say  string
	}{
		{"save REF docker://reg.example/a", exitUsage, "copy"},
		{"save REF reg.example/a", exitUsage, "copy"},
		{"save REF ./somewhere", exitUsage, "oci:DIR"},
		{"save REF tar:x", exitUsage, "oci:DIR"},
		{"save REF", exitUsage, "help"},
		{"save --all --platform=linux/amd64 REF oci:" + layout, exitUsage, "--all"},
		{"copy REF oci:" + layout, exitUsage, "save"},
		{"copy --dest-creds=me REF reg.example/a", exitUsage, "USER:PASSWORD"},
		{"copy --dest-tls-verify false REF reg.example/a", exitUsage, "--dest-tls-verify=false"},
		{"copy --offline REF reg.example/a", exitNotFound, "offline"},
		{"save REF/nothing oci:" + layout, exitNotFound, "not found"},
	} {
		line := strings.Fields(strings.ReplaceAll(tt.args, "REF/nothing", u.registry.Host()+"/nothing"))
		for i := range line {
			line[i] = strings.ReplaceAll(line[i], "REF", u.ref())
		}
		var out, errs bytes.Buffer
		if code := run(append(line, u.flags...), &out, &errs); code != tt.code || out.Len() > 0 || !strings.Contains(errs.String(), tt.say) {
			t.Errorf("%s: exit code %d, %q, %s, want %d and %q", tt.args, code, &out, &errs, tt.code, tt.say)
		}
	}
	if _, err := os.Lstat(layout); err == nil {
		t.Error("there is a layout")
	}
}
