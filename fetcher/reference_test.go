package fetcher

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestNamesAreCompletedAsDockerDoes(t *testing.T) {
	t.Chdir(t.TempDir())
	for in, want := range map[string]string{
		"alpine":                                 "docker://docker.io/library/alpine:latest",
		"docker://alpine":                        "docker://docker.io/library/alpine:latest",
		"alpine:3.18":                            "docker://docker.io/library/alpine:3.18",
		"me/tool":                                "docker://docker.io/me/tool:latest",
		"docker.io/alpine":                       "docker://docker.io/library/alpine:latest",
		"index.docker.io/library/alpine":         "docker://docker.io/library/alpine:latest",
		"localhost/x":                            "docker://localhost/x:latest",
		"localhost:5000/a/b":                     "docker://localhost:5000/a/b:latest",
		"registry:5000/a:b":                      "docker://registry:5000/a:b",
		"[::1]:5000/a":                           "docker://[::1]:5000/a:latest",
		"reg.example/a/b__c/d-e.f:V_1.2-x":       "docker://reg.example/a/b__c/d-e.f:V_1.2-x",
		"alpine@" + sum:                          "docker://docker.io/library/alpine@" + sum,
		"alpine:3@" + sum:                        "docker://docker.io/library/alpine:3@" + sum,
		"docker://reg.example/a/b:c@" + sum:      "docker://reg.example/a/b:c@" + sum,
		"a/b@sha512:" + strings.Repeat("a", 128): "docker://docker.io/a/b@sha512:" + strings.Repeat("a", 128),
	} {
		r, err := ParseReference(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if r.String() != want {
			t.Errorf("%s is %s, want %s", in, r, want)
		}
	}
}

func TestNamesThatAreNone(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, in := range []string{
		"", "docker://", "docker:alpine", "Alpine", "a//b", "a/../b", "reg.example/../v2/x", "./", "-a", "a:", "a:-b",
		"a:" + strings.Repeat("t", 129), "a@", "a@sha256:12", "a@md5:d41d8cd98f00b204e9800998ecf8427e", "a b", "a\x00b", "https://reg.example/a",
		"reg.example/a?x=y", "user:pw@reg.example/a", "oci:", "oci::", "exa_mple.com/a", strings.Repeat("a/", 200) + "a",
	} {
		r, err := ParseReference(in)
		if in == "./" {
			if err != nil || r.transport != byContent {
				t.Errorf("%q is not a path: %v", in, err)
			}
			continue
		}
		if !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v (%v), want an ErrReference", in, r, err)
		}
	}
}

func TestTransportsOfOtherToolsAreNamed(t *testing.T) {
	for _, in := range []string{"docker-daemon:a:b", "containers-storage:a"} {
		_, err := ParseReference(in)
		if !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), "is not supported") || !strings.Contains(err.Error(), "oci:DIR") {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestLayoutsAreParsedAsSkopeoDoes(t *testing.T) {
	cwd := t.TempDir()
	t.Chdir(cwd)
	for _, dir := range []string{"a", "b:c", "b:c/d"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ in, dir, tag, digest string }{
		{"oci:a", "a", "", ""},
		{"oci:./a/", "a", "", ""},
		{"oci:a:t", "a", "t", ""},
		{"oci:a:docker.io/library/alpine:3", "a", "docker.io/library/alpine:3", ""},
		{"oci:a@" + sum, "a", "", sum},
		{"oci:b:c", "b:c", "", ""},
		{"oci:b:c:t", "b:c", "t", ""},
		{"oci:b:c/d:t", "b:c/d", "t", ""},
		{"oci:b:c@" + sum, "b:c", "", sum},
		{"oci:not/there:t", "not/there", "t", ""},
		{"oci:not:there:t", "not", "there:t", ""},
		{"oci:not:there:", "not:there", "", ""},
		{"oci:" + cwd + "/a:t", "a", "t", ""},
	}
	for _, test := range tests {
		r, err := ParseReference(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		want := Reference{transport: "oci", path: filepath.Join(cwd, test.dir), tag: test.tag, digest: ""}
		want.digest = r.digest
		if r != want || r.digest.String() != test.digest {
			t.Errorf("%s is %+v, want %+v", test.in, r, test)
		}
		if again, err := ParseReference(r.String()); again != r {
			t.Errorf("%s is written %s, and that is %+v (%v)", test.in, r, again, err)
		}
	}
}

func TestAnExistingLayoutNeedsNoPrefix(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := testimage.WriteLayout("alpine", testimage.Tagged{Tag: "3", Bundle: testimage.Image{}.Bundle()}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("busybox", 0o755); err != nil {
		t.Fatal(err)
	}
	for in, transport := range map[string]string{
		"alpine": byContent, "alpine:3": byContent, "alpine@" + sum: byContent, "docker://alpine": "docker",
		"busybox": "docker", "busybox:1": "docker",
	} {
		r, err := ParseReference(in)
		if err != nil || r.transport != transport {
			t.Errorf("%s is %q (%v), want one of %s", in, r, err, transport)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for _, test := range []struct{ in, ref, path string }{
		{"alpine", "alpine", "/"},
		{"alpine:/etc/passwd", "alpine", "/etc/passwd"},
		{"alpine:3.20:/etc", "alpine:3.20", "/etc"},
		{"localhost:5000/x:v1:/", "localhost:5000/x:v1", "/"},
		{"docker://alpine", "docker://alpine", "/"},
		{"docker://alpine:/bin", "docker://alpine", "/bin"},
		{"docker://reg.example:5000/a:b@" + sum + ":/c:/d", "docker://reg.example:5000/a:b@" + sum, "/c:/d"},
		{"oci:/srv/layout", "oci:/srv/layout", "/"},
		{"oci:/srv/layout:/etc", "oci:/srv/layout", "/etc"},
		{"oci:/srv/layout:v1:/etc/passwd", "oci:/srv/layout:v1", "/etc/passwd"},
		{"oci:layout@sha256:abc:/a:/b", "oci:layout@sha256:abc", "/a:/b"},
		{"/srv/layout:/etc", "/srv/layout", "/etc"},
		{"./layout:t:/etc", "./layout:t", "/etc"},
		{"oci-archive:/tmp/x.tar", "oci-archive:/tmp/x.tar", "/"},
		{"oci-archive:/tmp/x.tar:/etc", "oci-archive:/tmp/x.tar", "/etc"},
		{"docker-archive:/tmp/x.tar:a:b:/etc", "docker-archive:/tmp/x.tar:a:b", "/etc"},
		{"dir:/tmp/x", "dir:/tmp/x", "/"},
		{"tar:/tmp/x.tar:/etc", "tar:/tmp/x.tar", "/etc"},
		{"https://reg.example/a", "https://reg.example/a", "/"},
		{"", "", "/"},
	} {
		if ref, path := SplitPath(test.in); ref != test.ref || path != test.path {
			t.Errorf("SplitPath(%q) = %q, %q; want %q, %q", test.in, ref, path, test.ref, test.path)
		}
	}
}

func TestPathsOfOtherTransportsNameNoImageOfARegistry(t *testing.T) {
	for _, transport := range transports {
		if transport.parse != nil {
			continue
		}
		ref, _ := SplitPath(transport.name + ":/tmp/x:/etc")
		if r, err := ParseReference(ref); !errors.Is(err, ErrReference) {
			t.Errorf("%s is %v (%v)", ref, r, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"alpine", "docker://reg.example/a/b:c@" + sum, "localhost:5000/x", "[::1]:5/a", "oci:/tmp", "oci:/tmp:a:b/c",
		"oci:a:b:", "oci:/tmp@" + sum, "oci:@:@" + sum, "/a/../b:c", "./a:", "oci-archive:x", "..", "a@sha512:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Fatalf("%q: %v is no ErrReference", s, err)
			}
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is written %q, and that is %+v (%v), not %+v", s, r, again, err, r)
		}
	})
}
