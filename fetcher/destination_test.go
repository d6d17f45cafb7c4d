package fetcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestDestinationsAreParsedAsReferencesAre(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"there", "with:colon"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(here, name) }
	docker := func(s string) Destination { return Destination{Transport: "docker", Ref: parse(t, "docker://"+s)} }
	d := digest.FromString("x").String()
	for s, want := range map[string]Destination{
		"oci:new":                        {Transport: "oci", Path: at("new")},
		"oci:new:v1":                     {Transport: "oci", Path: at("new"), Tag: "v1"},
		"oci:there:reg.example/a:v1":     {Transport: "oci", Path: at("there"), Tag: "reg.example/a:v1"},
		"oci:with:colon:v1":              {Transport: "oci", Path: at("with:colon"), Tag: "v1"},
		"oci:new:":                       {Transport: "oci", Path: at("new")},
		"oci-archive:a.tar":              {Transport: "oci-archive", Path: at("a.tar")},
		"oci-archive:/x/a.tar:v1":        {Transport: "oci-archive", Path: "/x/a.tar", Tag: "v1"},
		"oci-archive:-":                  {Transport: "oci-archive", Path: Stdout},
		"oci-archive:-:v1":               {Transport: "oci-archive", Path: Stdout, Tag: "v1"},
		"docker-archive:-":               {Transport: "docker-archive", Path: Stdout},
		"docker-archive:-:alpine":        {Transport: "docker-archive", Path: Stdout, Tag: "docker.io/library/alpine:latest"},
		"docker-archive:a.tar:me/a:b":    {Transport: "docker-archive", Path: at("a.tar"), Tag: "docker.io/me/a:b"},
		"docker-archive:a.tar:r.io:1/a":  {Transport: "docker-archive", Path: at("a.tar"), Tag: "r.io:1/a:latest"},
		"dir:d":                          {Transport: "dir", Path: at("d")},
		"dir:d:e":                        {Transport: "dir", Path: at("d:e")},
		"alpine":                         docker("alpine"),
		"there":                          docker("there"), // a name, though there is a directory
		"docker://reg.example:5000/a:v1": docker("reg.example:5000/a:v1"),
		"reg.example/a@" + d:             docker("reg.example/a@" + d),
	} {
		if got, err := ParseDestination(s); err != nil || got != want {
			t.Errorf("%q is %+v (%v), want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "/srv/x", "./x", "..", "tar:x", "docker:alpine", "docker-daemon:alpine", "containers-storage:alpine", "https://reg.example/a", "Alpine",
		"oci:", "oci:there@" + d, "oci-archive:x@" + d, "oci:there:a b", "oci:there:-v1", "oci:there:../x", "docker-archive:x:@0", "docker-archive:-:@0",
		"docker-archive:x:a@" + d, "docker-archive:x:A", "dir:", "dir:-\x00", "docker-archive:-:a b",
	} {
		if got, err := ParseDestination(s); !errors.Is(err, ErrReference) {
			t.Errorf("%q is %+v (%v)", s, got, err)
		}
	}
}
