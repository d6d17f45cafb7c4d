package fetcher

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgfs/internal/testimage"
)

// placesOf returns where f looks for what ref names: HOST/REPOSITORY of each.
func placesOf(t testing.TB, f *Fetcher, ref string) ([]string, error) {
	t.Helper()
	r, err := f.route(parse(t, ref))
	var all []string
	for _, s := range r {
		all = append(all, s.name+"/"+s.repo)
	}
	return all, err
}

func TestRegistriesConfSaysWhereImagesAre(t *testing.T) {
	const conf = `
unqualified-search-registries = ["ignored.example"]
short-name-mode = "enforcing"
[aliases]
"alpine" = "ignored.example/alpine"
[[registry]]
location = "plain.example"
[[registry.mirror]]
location = "mirror.example/plain"
[[registry]]
prefix = "moved.example/team"
location = "new.example:5000/group"
[[registry.mirror]]
location = "mirror.example"
[[registry.mirror]]
location = "mirror.example:8443/cache/group"
insecure = true
[[registry]]
prefix = "moved.example/team/special"
location = "special.example/x"
[[registry]]
prefix = "moved.example/team/tagged:v1"
location = "tagged.example/y:v1"
[[registry]]
prefix = "*.wild.example"
[[registry.mirror]]
location = "mirror.example"
[[registry]]
prefix = "known.wild.example"
location = "known.example"
[[registry]]
prefix = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
[[registry]]
prefix = "docker.io/library/busybox"
location = "docker.io/library/busybox"
[[registry]]
prefix = "port.example:5000"
location = "other.example"
`
	file := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, file, conf, 0o600)
	f, _ := newFetcher(t, Options{RegistriesConf: file})
	for ref, want := range map[string][]string{
		"nobody.example/a":              {"nobody.example/a"},
		"plain.example/a/b":             {"mirror.example/plain/a/b", "plain.example/a/b"},
		"plain.example:5000/a":          {"plain.example:5000/a"},
		"plain.example.org/a":           {"plain.example.org/a"},
		"moved.example/team/a:v2":       {"mirror.example/a", "mirror.example:8443/cache/group/a", "new.example:5000/group/a"},
		"moved.example/team":            nil, // mirror.example alone is no name
		"moved.example/teams/a":         {"moved.example/teams/a"},
		"moved.example/team/special/a":  {"special.example/x/a"},
		"moved.example/team/special:v3": {"special.example/x"},
		"moved.example/team/tagged:v1":  {"tagged.example/y"},
		"moved.example/team/tagged:v12": {"mirror.example/tagged", "mirror.example:8443/cache/group/tagged", "new.example:5000/group/tagged"},
		"a.wild.example/x":              {"mirror.example/x", "a.wild.example/x"},
		"a.b.wild.example/x":            {"mirror.example/x", "a.b.wild.example/x"},
		"wild.example/x":                {"wild.example/x"},
		"awild.example/x":               {"awild.example/x"},
		"known.wild.example/x":          {"known.example/x"},
		"alpine":                        {"mirror.example/hub/library/alpine", "docker.io/library/alpine"},
		"team/app":                      {"mirror.example/hub/team/app", "docker.io/team/app"},
		"busybox":                       {"docker.io/library/busybox"},
		"port.example:5000/a":           {"other.example/a"},
		"port.example/a":                {"port.example/a"},
	} {
		got, err := placesOf(t, f, ref)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%s: %v\n%s", ref, err, diff)
		}
	}
}

func TestRegistriesConfsThatMakeNoSense(t *testing.T) {
	for _, conf := range []string{
		"[[registry", "registry = 1", "[[registry]]", "[[registry]]\nprefix=\"\"\ninsecure=true",
		"[[registry]]\nprefix=\"a.*.example\"\nlocation=\"x.example\"", "[[registry]]\nprefix=\"*.example/x\"", "[[registry]]\nprefix=\"*.example:5000\"",
		"[[registry]]\nlocation=\"https://x.example\"", "[[registry]]\nlocation=\"x.example/\"",
		"[[registry]]\nlocation=\"x.example\"\n[[registry.mirror]]", "[[registry]]\nlocation=\"x.example\"\n[[registry.mirror]]\nlocation=\"http://m.example\"",
		"[[registry]]\nlocation=\"x.example\"\n[[registry.mirror]]\nlocation=\"m.example\"\npull-from-mirror=\"some\"",
		"[[registry]]\nlocation=\"x.example\"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation=\"m.example\"\npull-from-mirror=\"all\"",
		"[[registry]]\nprefix=\"reg.example\"\nlocation=\"nohost\"", "[[registry]]\nprefix=\"reg.example\"\nlocation=\"UPPER.example/UPPER\"",
		"[[registry]]\nprefix=\"reg.example\"\nlocation=\"x.example/a:tag\"", "#" + strings.Repeat("x", maxConf),
	} {
		file := filepath.Join(t.TempDir(), "registries.conf")
		writeFile(t, file, conf, 0o600)
		f, _ := newFetcher(t, Options{RegistriesConf: file})
		_, err := placesOf(t, f, "reg.example/a")
		if !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), file) {
			t.Errorf("%.100s: %v", conf, err)
		}
	}
	f, _ := newFetcher(t, Options{RegistriesConf: filepath.Join(t.TempDir(), "missing")})
	if _, err := placesOf(t, f, "reg.example/a"); !errors.Is(err, ErrOptions) {
		t.Errorf("a file that is named and missing: %v", err)
	}
}

func TestEntriesOfVersion1AreIgnoredAndTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, file, "[registries.search]\nregistries = ['a.example']\n[registries.insecure]\nregistries = ['reg.example']\n", 0o600)
	var log bytes.Buffer
	f, _ := newFetcher(t, Options{RegistriesConf: file, Log: slog.New(slog.NewTextHandler(&log, nil))})
	got, err := placesOf(t, f, "reg.example/a")
	if err != nil || len(got) != 1 || !strings.Contains(log.String(), "version 1") || !strings.Contains(log.String(), file) {
		t.Errorf("%v, %v, %s", got, err, &log)
	}
}

func TestConfigurationsAreWhereOtherToolsHaveThem(t *testing.T) {
	entry := func(mirror string) string {
		return fmt.Sprintf("[[registry]]\nlocation=\"reg.example\"\n[[registry.mirror]]\nlocation=%q\n", mirror)
	}
	hosts := func(mirror string) string { return fmt.Sprintf("[host.\"https://%s\"]\n", mirror) }
	type files map[string]string // by path; etc/ and home/ are directories of the test
	for name, test := range map[string]struct {
		files files
		want  string // the mirror
	}{
		"nothing":              {files{}, ""},
		"the system's file":    {files{"etc/containers/registries.conf": entry("etc.example")}, "etc.example"},
		"the user's file":      {files{"etc/containers/registries.conf": entry("etc.example"), "home/containers/registries.conf": entry("home.example")}, "home.example"},
		"a system's drop-in":   {files{"etc/containers/registries.conf": entry("etc.example"), "etc/containers/registries.conf.d/a.conf": entry("dropin.example")}, "dropin.example"},
		"the last drop-in":     {files{"etc/containers/registries.conf.d/b.conf": entry("b.example"), "etc/containers/registries.conf.d/a.conf": entry("a.example")}, "b.example"},
		"no drop-in":           {files{"etc/containers/registries.conf.d/a.txt": entry("a.example")}, ""},
		"a user's drop-in":     {files{"etc/containers/registries.conf.d/b.conf": entry("b.example"), "home/containers/registries.conf.d/a.conf": entry("a.example")}, "a.example"},
		"the user's file only": {files{"home/containers/registries.conf": entry("home.example"), "etc/containers/registries.conf.d/b.conf": entry("b.example")}, "home.example"},
		"the environment's": {files{"env": entry("env.example"), "home/containers/registries.conf": entry("home.example"),
			"etc/containers/registries.conf": entry("etc.example")}, "env.example"},
		"containerd's":                 {files{"etc/containerd/certs.d/reg.example/hosts.toml": hosts("ctr.example")}, "ctr.example"},
		"docker's":                     {files{"etc/docker/certs.d/reg.example/hosts.toml": hosts("docker.example")}, "docker.example"},
		"the user's containerd's":      {files{"home/containerd/certs.d/reg.example/hosts.toml": hosts("user.example"), "etc/containerd/certs.d/reg.example/hosts.toml": hosts("ctr.example")}, "user.example"},
		"containerd's for all":         {files{"etc/containerd/certs.d/_default/hosts.toml": hosts("all.example")}, "all.example"},
		"containerd's, after podman's": {files{"etc/containerd/certs.d/reg.example/hosts.toml": hosts("ctr.example"), "etc/containers/registries.conf": entry("etc.example")}, "etc.example"},
	} {
		isolate(t)
		root := t.TempDir()
		t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "home"))
		for path, content := range test.files {
			writeFile(t, filepath.Join(root, path), content, 0o600)
		}
		if test.files["env"] != "" {
			t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(root, "env"))
		}
		f, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.paths, err = findPaths(&f.opts, filepath.Join(root, "etc")); err != nil {
			t.Fatal(err)
		}
		got, err := placesOf(t, f, "reg.example/a")
		want := []string{"reg.example/a"}
		if test.want != "" {
			want = []string{test.want + "/a", "reg.example/a"}
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestHostsTomlSaysWhomToAskAndHow(t *testing.T) {
	const conf = `
server = "https://up.example"
ca = "up.crt"
[header]
  x-up = "canary-up"
[host."https://b.example"]
  capabilities = ["pull", "resolve"]
[host."https://b.example".header]
  Authorization = "Basic canary-header"
  X-Several = ["one", "two"]
[host."http://a.example:5000/deep/path"]
  dial_timeout = "1s"
  override_path = true
[host."c.example/sub"]
  skip_verify = true
  client = [["c.cert", "c.key"], ["both.pem", ""]]
[host."https://push.example"]
  capabilities = ["push"]
`
	dir := t.TempDir()
	in := filepath.Join(dir, "reg.example_8443_")
	cert, key, _ := clientCertificate(t)
	for name, content := range map[string]string{"hosts.toml": conf, "up.crt": cert, "c.cert": cert, "c.key": key, "both.pem": cert + key} {
		writeFile(t, filepath.Join(in, name), content, 0o600)
	}
	f, _ := newFetcher(t, Options{HostsDir: dir, Creds: "me:canary"})
	r, err := f.route(parse(t, "reg.example:8443/a"))
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, s := range r {
		urls = append(urls, s.url("manifests", "t").String()+" "+strings.Join(s.schemes(), ","))
		if creds, err := f.credentials(t.Context(), s.endpoint, s.repo); err != nil || creds.Password != "" {
			t.Errorf("%s is sent the registry's password", s.name)
		}
	}
	want := []string{
		"//b.example/v2/a/manifests/t?ns=reg.example%3A8443 https",
		"//a.example:5000/deep/path/a/manifests/t?ns=reg.example%3A8443 http",
		"//c.example/sub/v2/a/manifests/t?ns=reg.example%3A8443 https",
		"//up.example/v2/a/manifests/t?ns=reg.example%3A8443 https",
	}
	if diff := cmp.Diff(want, urls); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(http.Header{"Authorization": {"Basic canary-header"}, "X-Several": {"one", "two"}}, r[0].header); diff != "" {
		t.Error(diff)
	}
	if !r[2].skipVerify || r[1].skipVerify || r[1].dialTimeout == 0 || r[3].header.Get("x-up") != "canary-up" {
		t.Errorf("%+v", r[2].endpointConfig)
	}
}

func TestHostsTomlsThatMakeNoSense(t *testing.T) {
	for _, conf := range []string{
		"[host", "[header]\nAuthorization = canary", "[host.\"https://canary:canary@x.example\"]\nca", "server = 1", "server = \"ftp://x.example\"", "server = \"https://\"", "server = \"https://canary:canary@x.example\"",
		"[host.\"https://x.example/?canary\"]", "[host.\"https://x.example\"]\nca = 1", "[host.\"https://x.example\"]\nca = [1]", "ca = \"missing.crt\"",
		"client = 1", "client = [[\"a\",\"b\",\"c\"]]", "client = [[1]]", "client = \"missing.pem\"", "dial_timeout = \"soon\"", "dial_timeout = \"-1s\"",
		"[header]\nx = 1", "[header]\nx = [1]", "capabilities = [\"push\"]",
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "reg.example", "hosts.toml"), conf, 0o600)
		f, _ := newFetcher(t, Options{HostsDir: dir})
		_, err := placesOf(t, f, "reg.example/a")
		if !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", conf, err)
		}
	}
}

func TestATagIsAskedOfNobodyWhoMayNotResolveIt(t *testing.T) {
	r := startRegistry(t)
	b := imageOf(noise(10)).Bundle()
	r.Push("a", "t", b)
	const pull = "capabilities=[\"pull\"]\n"
	for name, content := range map[string]string{
		"the last host":    fmt.Sprintf("server=\"http://%s\"\n"+pull, r.Host()),
		"all of the hosts": fmt.Sprintf("server=\"http://%[1]s\"\n"+pull+"[host.\"http://%[1]s/\"]\n"+pull, r.Host()),
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "reg.example", "hosts.toml"), content, 0o600)
		f, _ := newFetcher(t, Options{HostsDir: dir})
		r.ForgetRequests()
		if _, err := f.Resolve(t.Context(), parse(t, "reg.example/a:t")); !errors.Is(err, ErrOptions) || len(r.Requests(nil)) > 0 {
			t.Errorf("%s: %v, after %d requests", name, err, len(r.Requests(nil)))
		}
		if im := resolve(t, f, "reg.example/a@"+b.Root.Digest.String()); im.Digest != b.Root.Digest {
			t.Errorf("%s: by its digest it is %s", name, im.Digest)
		}
	}
}

func TestWhatAConfigurationAddsToRequestsIsForItsHostAlone(t *testing.T) {
	const mirror = "https://mirror.example:443"
	w := newWorld(t)
	for _, location := range append([]string{""}, elsewheres...) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "reg.example", "hosts.toml"), fmt.Sprintf(
			"server=\"https://none.invalid:1\"\n[host.\"https://mirror.example\"]\n[host.\"https://mirror.example\".header]\nX-Key=%q\n", canaryHeader), 0o600)
		c := newCanary(w, mirror)
		c.realm = "https://auth.example/token"
		c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
			if location == "" || origin != mirror || !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			rw.Header().Set("Location", location)
			rw.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
		if err := c.pull(t, "reg.example", "a password", Options{HostsDir: dir}); err != nil {
			t.Errorf("%s: what the mirror leads nowhere for, the registry has: %v", location, err)
		}
		c.only(t, location, canaryHeader, mirror)
		c.only(t, location, canaryPassword) // it is for reg.example
		if !c.world.received(canaryHeader)[mirror] {
			t.Errorf("%s: the header was not sent", location)
		}
	}
}

func TestEachRegistryHasItsOwnCertificates(t *testing.T) {
	cert, key, clients := clientCertificate(t)
	other, otherKey, _ := clientCertificate(t)
	r := testimage.StartTLSRegistry(clients)
	t.Cleanup(r.Close)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	authority := encodePEM("CERTIFICATE", r.Certificate().Raw)
	good := map[string]string{"ca.crt": authority, "client.cert": cert, "client.key": key}
	for name, test := range map[string]struct {
		dir   string // etc/ and home/ are directories of the test
		files map[string]string
		ok    bool
	}{
		"nowhere":                      {"etc/elsewhere", good, false},
		"docker's":                     {"etc/docker/certs.d/HOST", good, true},
		"podman's":                     {"etc/containers/certs.d/HOST", good, true},
		"the user's":                   {"home/containers/certs.d/HOST", good, true},
		"the user's of docker":         {"home/docker/certs.d/HOST", good, true},
		"those of another registry":    {"etc/docker/certs.d/127.0.0.1", good, false},
		"no client certificate":        {"etc/docker/certs.d/HOST", map[string]string{"ca.crt": authority}, false},
		"another's client certificate": {"etc/docker/certs.d/HOST", map[string]string{"ca.crt": authority, "client.cert": other, "client.key": otherKey}, false},
		"a broken one":                 {"etc/docker/certs.d/HOST", map[string]string{"ca.crt": "x"}, false},
	} {
		isolate(t)
		root := t.TempDir()
		t.Setenv("XDG_CONFIG_HOME", filepath.Join(root, "home"))
		for file, content := range test.files {
			writeFile(t, filepath.Join(root, strings.Replace(test.dir, "HOST", r.Host(), 1), file), content, 0o600)
		}
		f, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.paths, err = findPaths(&f.opts, filepath.Join(root, "etc")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t")); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAMirrorIsShownNoClientCertificateOfTheRegistry(t *testing.T) {
	cert, key, clients := clientCertificate(t)
	r := testimage.StartTLSRegistry(clients)
	t.Cleanup(r.Close)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	certs := t.TempDir()
	for name, content := range map[string]string{"ca.crt": encodePEM("CERTIFICATE", r.Certificate().Raw), "client.cert": cert, "client.key": key} {
		writeFile(t, filepath.Join(certs, name), content, 0o600)
	}
	file := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, file, fmt.Sprintf("[[registry]]\nlocation=\"127.0.0.1:1\"\n[[registry.mirror]]\nlocation=%q\n", r.Host()), 0o600)
	f, _ := newFetcher(t, Options{CertDir: certs, RegistriesConf: file})
	if _, err := f.Resolve(t.Context(), parse(t, "127.0.0.1:1/a:t")); err == nil {
		t.Error("the mirror, which wants a client certificate, has served")
	}
	resolve(t, f, r.Host()+"/a:t")
}

func TestRelativeConfigurationsAreThoseOfTheDirectoryAtTheBeginning(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "conf", "[[registry]]\nlocation=\"reg.example\"\n[[registry.mirror]]\nlocation=\"m.example\"\n", 0o600)
	f, _ := newFetcher(t, Options{RegistriesConf: "conf"})
	if err := os.Chdir("/"); err != nil {
		t.Fatal(err)
	}
	if got, err := placesOf(t, f, "reg.example/a"); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestInsecureIsForTheRegistryOrMirrorThatItIsWrittenAt(t *testing.T) {
	registry, mirror := testimage.StartTLSRegistry(nil), testimage.StartTLSRegistry(nil)
	for _, r := range []*testimage.Registry{registry, mirror} {
		t.Cleanup(r.Close)
		r.Push("a", "t", imageOf(noise(10)).Bundle())
	}
	for _, test := range []struct {
		registry, mirror bool // insecure
		login, served    bool
	}{{false, false, false, false}, {true, false, true, true}, {false, true, false, true}, {true, true, true, true}} {
		file := filepath.Join(t.TempDir(), "registries.conf")
		writeFile(t, file, fmt.Sprintf("[[registry]]\nlocation=%q\ninsecure=%v\n[[registry.mirror]]\nlocation=%q\ninsecure=%v\n",
			registry.Host(), test.registry, mirror.Host(), test.mirror), 0o600)
		f, _ := newFetcher(t, Options{RegistriesConf: file})
		mirror.ForgetRequests()
		if _, err := f.Resolve(t.Context(), parse(t, registry.Host()+"/a:t")); (err == nil) != test.served {
			t.Errorf("%+v: resolved: %v", test, err)
		}
		if n := asked(mirror, "/manifests/"); (n > 0) != test.mirror {
			t.Errorf("%+v: the mirror was asked %d times", test, n)
		}
		if _, err := f.Login(t.Context(), registry.Host(), "me", "x"); (err == nil) != test.login {
			t.Errorf("%+v: login: %v", test, err)
		}
		if _, err := f.Tags(t.Context(), parse(t, registry.Host()+"/a")); (err == nil) != test.login {
			t.Errorf("%+v: tags: %v", test, err)
		}
	}
}
