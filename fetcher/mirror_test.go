package fetcher

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

// A mirrored is a registry, mirrors of it, and a Fetcher that knows of them.
type mirrored struct {
	origin  *testimage.Registry
	mirrors []*testimage.Registry
	bundle  testimage.Bundle
	content []byte
	fetcher *Fetcher
	clock   *clock
	log     bytes.Buffer
}

// mirroredBy says how a Fetcher is told of mirrors.
var mirroredBy = map[string]func(t testing.TB, o *Options, origin string, mirrors []string){
	"registries.conf": func(t testing.TB, o *Options, origin string, mirrors []string) {
		text := fmt.Sprintf("[[registry]]\nlocation = %q\n", origin)
		for _, m := range mirrors {
			text += fmt.Sprintf("[[registry.mirror]]\nlocation = %q\n", m)
		}
		o.RegistriesConf = filepath.Join(t.TempDir(), "registries.conf")
		writeFile(t, o.RegistriesConf, text, 0o600)
	},
	"hosts.toml": func(t testing.TB, o *Options, origin string, mirrors []string) {
		text := fmt.Sprintf("server = \"http://%s\"\n", origin)
		for _, m := range mirrors {
			text += fmt.Sprintf("[host.\"http://%s\"]\n", m)
		}
		o.HostsDir = t.TempDir()
		writeFile(t, filepath.Join(o.HostsDir, origin, "hosts.toml"), text, 0o600)
	},
}

func startMirrored(t testing.TB, by string, mirrors int, o Options) *mirrored {
	m := &mirrored{origin: startRegistry(t), content: noise(1 << 20)}
	m.bundle = imageOf(m.content).Bundle()
	var hosts []string
	for range mirrors {
		r := startRegistry(t)
		m.mirrors, hosts = append(m.mirrors, r), append(hosts, r.Host())
	}
	for _, r := range append([]*testimage.Registry{m.origin}, m.mirrors...) {
		r.Push("a", "t", m.bundle)
	}
	mirroredBy[by](t, &o, m.origin.Host(), hosts)
	o.Log = slog.New(slog.NewTextHandler(&m.log, nil))
	m.fetcher, m.clock = newFetcher(t, o)
	return m
}

func (m *mirrored) ref() string { return m.origin.Host() + "/a:t" }

func (m *mirrored) layer() digest.Digest { return digest.FromBytes(m.content) }

func (m *mirrored) config() digest.Digest {
	for d := range m.bundle.Blobs {
		if d != m.layer() && d != m.bundle.Root.Digest {
			return d
		}
	}
	return ""
}

// read resolves the image, and reads its layer in all ways.
func (m *mirrored) read(t testing.TB, name string) {
	t.Helper()
	for operation, read := range operations {
		got, err := read(t.Context(), openBlob(t, m.fetcher, m.ref(), 0))
		if err != nil || !bytes.Equal(got, wanted(operation, m.content)) {
			t.Errorf("%s, %s: %d bytes, %v", name, operation, len(got), err)
		}
	}
}

func asked(r *testimage.Registry, what string) int {
	return len(r.Requests(func(q testimage.Request) bool { return strings.Contains(q.Path, what) }))
}

func TestMirrorsServeAllThatTheyHave(t *testing.T) {
	for by := range mirroredBy {
		m := startMirrored(t, by, 2, Options{})
		m.read(t, by)
		if n := asked(m.origin, ""); n > 0 {
			t.Errorf("%s: the registry was asked %d times", by, n)
		}
		if n := asked(m.mirrors[1], ""); n > 0 {
			t.Errorf("%s: the second mirror was asked %d times", by, n)
		}
	}
}

func TestWhatAMirrorLacksIsFetchedFromTheNext(t *testing.T) {
	for by := range mirroredBy {
		m := startMirrored(t, by, 2, Options{})
		layer, config := m.layer(), m.config()
		m.mirrors[0].Remove("a", layer)
		m.mirrors[0].Remove("a", config)
		m.mirrors[1].Remove("a", layer)
		m.read(t, by)
		if n := asked(m.mirrors[0], "/manifests/"); n == 0 {
			t.Errorf("%s: the first mirror was not asked for manifests", by)
		}
		if n := asked(m.mirrors[1], config.String()); n == 0 {
			t.Errorf("%s: the second mirror was not asked for the config", by)
		}
		if n := asked(m.origin, "/manifests/"); n > 0 {
			t.Errorf("%s: the registry was asked %d times for manifests", by, n)
		}
		if strings.Contains(m.log.String(), "a mirror fails") {
			t.Errorf("%s: to lack a thing is no failure: %s", by, &m.log)
		}
	}
}

func TestAMirrorThatFailsIsLeftAloneForAWhile(t *testing.T) {
	for by := range mirroredBy {
		for name, fault := range map[string]testimage.Fault{
			"503 at the door":  {On: testimage.Pings, Kind: testimage.Refuse, Status: 503},
			"429":              {On: testimage.Manifests, Kind: testimage.Refuse, Status: 429},
			"wrong bytes":      {On: testimage.Manifests, Kind: testimage.Corrupt, After: 3},
			"cut off":          {On: testimage.Manifests, Kind: testimage.Cut, After: 3},
			"wrong config":     {On: testimage.Blobs, Kind: testimage.Corrupt, After: 3},
			"503 of the blobs": {On: testimage.Blobs, Kind: testimage.Refuse, Status: 503},
		} {
			m := startMirrored(t, by, 1, Options{})
			m.mirrors[0].Inject(fault)
			m.read(t, by+", "+name)
			if m.clock.total() > 0 {
				t.Errorf("%s, %s: waited for the mirror for %v", by, name, m.clock.total())
			}
			if strings.Count(m.log.String(), "a mirror fails") != 1 {
				t.Errorf("%s, %s: the log says %s", by, name, &m.log)
			}
			m.mirrors[0].Heal()
			m.mirrors[0].ForgetRequests()
			m.read(t, by+", "+name)
			if n := asked(m.mirrors[0], ""); n > 0 {
				t.Errorf("%s, %s: the mirror was asked %d times", by, name, n)
			}
			m.clock.sleep(t.Context(), mirrorRest)
			m.origin.ForgetRequests()
			m.read(t, by+", "+name)
			if n := asked(m.origin, ""); n > 0 {
				t.Errorf("%s, %s: after its rest, the mirror was not asked, but the registry %d times", by, name, n)
			}
		}
	}
}

func TestAMirrorThatDiesHalfWayIsReplaced(t *testing.T) {
	for by := range mirroredBy {
		for operation, read := range operations {
			m := startMirrored(t, by, 2, Options{})
			b := openBlob(t, m.fetcher, m.ref(), 0)
			m.mirrors[0].Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, After: 100})
			m.mirrors[0].Inject(testimage.Fault{On: testimage.Pings, Kind: testimage.Refuse, Status: 500})
			m.mirrors[1].Close()
			got, err := read(t.Context(), b)
			if err != nil || !bytes.Equal(got, wanted(operation, m.content)) {
				t.Errorf("%s, %s: %d bytes, %v", by, operation, len(got), err)
			}
			if m.clock.total() > 0 {
				t.Errorf("%s, %s: waited for %v", by, operation, m.clock.total())
			}
		}
	}
}

func TestAMirrorThatSendsReadersElsewhereDoesSoForItself(t *testing.T) {
	for by := range mirroredBy {
		m := startMirrored(t, by, 1, Options{})
		m.mirrors[0].RedirectBlobs(http.StatusTemporaryRedirect)
		m.read(t, by)
		m.mirrors[0].ExpireURLs()
		m.read(t, by)
		if n := asked(m.origin, ""); n > 0 {
			t.Errorf("%s: the registry was asked %d times", by, n)
		}
	}
}

func TestEachHostIsSentItsOwnCredentials(t *testing.T) {
	for by := range mirroredBy {
		for _, mode := range []string{"basic", "bearer"} {
			for _, creds := range []string{"", "origin:canary-origin"} {
				path := filepath.Join(t.TempDir(), "auth.json")
				writeFile(t, path, "{}", 0o600)
				m := startMirrored(t, by, 2, Options{Creds: creds, Authfile: path})
				writeFile(t, path, fmt.Sprintf(`{"auths":{%q:{"username":"mirror","password":"canary-mirror"},%q:{"username":"origin","password":"canary-origin"}}}`,
					m.mirrors[0].Host(), m.origin.Host()), 0o600)
				require := (*testimage.Registry).RequireBasic
				if mode == "bearer" {
					require = (*testimage.Registry).RequireBearer
				}
				require(m.mirrors[0], "mirror", "canary-mirror")
				require(m.mirrors[1], "nobody", "is known here")
				require(m.origin, "origin", "canary-origin")
				if creds == "" { // else the files are not asked
					m.mirrors[0].Remove("a", m.layer())
				}
				m.read(t, by+", "+mode)
				if m.log.Len() > 0 && strings.Contains(m.log.String(), "canary") {
					t.Error(&m.log)
				}
				for host, r := range map[string]*testimage.Registry{"mirror": m.mirrors[0], "nobody": m.mirrors[1], "origin": m.origin} {
					for _, q := range r.Requests(func(q testimage.Request) bool { return q.User != "" && q.User != host }) {
						t.Errorf("%s, %s: %s was sent the credentials of %s", by, mode, host, q.User)
					}
				}
			}
		}
	}
}

func TestMirrorsOfDigestsAndOfTags(t *testing.T) {
	digestOnly, tagOnly := `pull-from-mirror = "digest-only"`, `pull-from-mirror = "tag-only"`
	for _, test := range []struct {
		registry, mirror string // lines of the entries
		byTag, byDigest  bool   // the mirror is asked
	}{
		{"", "", true, true},
		{"", `pull-from-mirror = "all"`, true, true},
		{"", digestOnly, false, true},
		{"", tagOnly, true, false},
		{"mirror-by-digest-only = true", "", false, true},
	} {
		r, mirror := startRegistry(t), startRegistry(t)
		bundle := imageOf(noise(10)).Bundle()
		r.Push("a", "t", bundle)
		mirror.Push("a", "t", bundle)
		path := filepath.Join(t.TempDir(), "registries.conf")
		writeFile(t, path, fmt.Sprintf("[[registry]]\nprefix=%q\n%s\n[[registry.mirror]]\nlocation=%q\n%s\n", r.Host(), test.registry, mirror.Host(), test.mirror), 0o600)
		f, _ := newFetcher(t, Options{RegistriesConf: path})
		for ref, want := range map[string]bool{r.Host() + "/a:t": test.byTag, r.Host() + "/a@" + bundle.Root.Digest.String(): test.byDigest} {
			mirror.ForgetRequests()
			resolve(t, f, ref)
			if got := asked(mirror, "") > 0; got != want {
				t.Errorf("%+v: for %s the mirror was asked: %v", test, ref, got)
			}
		}
	}
}

func TestAMirrorThatIsNotTrustedWithTagsServesDigests(t *testing.T) {
	r, mirror := startRegistry(t), startRegistry(t)
	bundle := imageOf(noise(10)).Bundle()
	r.Push("a", "t", bundle)
	mirror.Push("a", "t", bundle)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "_default", "hosts.toml"), fmt.Sprintf("[host.\"http://%s\"]\ncapabilities=[\"pull\"]\n", mirror.Host()), 0o600)
	f, _ := newFetcher(t, Options{HostsDir: dir})
	openBlob(t, f, r.Host()+"/a:t", 0).ReadAt(make([]byte, 1), 0)
	if n := asked(mirror, "/manifests/t"); n > 0 {
		t.Errorf("the mirror was asked %d times for the tag", n)
	}
	if n := asked(r, "/blobs/"); n > 0 {
		t.Errorf("the registry was asked %d times for blobs", n)
	}
}

func TestABlockedRegistryIsAnErrorThatSaysWhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, path, "[[registry]]\nprefix=\"reg.example/bad\"\nblocked=true\n", 0o600)
	f, _ := newFetcher(t, Options{RegistriesConf: path})
	_, err := f.Resolve(t.Context(), parse(t, "reg.example/bad/x"))
	if err == nil || !strings.Contains(err.Error(), "blocked") || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}

func TestMirrorsAndRegistryShareThePatience(t *testing.T) {
	m := startMirrored(t, "registries.conf", 1, Options{})
	b := openBlob(t, m.fetcher, m.ref(), 0)
	m.mirrors[0].Close()
	m.origin.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 503})
	for operation, read := range operations {
		before := m.clock.total()
		_, err := read(t.Context(), b)
		if waited := m.clock.total() - before; err == nil || waited < 20*time.Second || waited > 31*time.Second {
			t.Errorf("%s: waited %v: %v", operation, waited, err)
		}
	}
}

// There are networks that have nothing but a mirror.
func TestAMirrorThatFailsForAMomentIsAskedAgainWhereTheRegistryIsOutOfReach(t *testing.T) {
	content := noise(1 << 20)
	mirror := startRegistry(t)
	mirror.Push("a", "t", imageOf(content).Bundle())
	conf := filepath.Join(t.TempDir(), "registries.conf")
	for _, registry := range []string{"registry.invalid", "127.0.0.1:1"} { // no such name; nobody there
		writeFile(t, conf, fmt.Sprintf("[[registry]]\nlocation=%q\n[[registry.mirror]]\nlocation=%q\n", registry, mirror.Host()), 0o600)
		for _, on := range []testimage.Part{testimage.Pings, testimage.Manifests, testimage.Blobs} {
			for operation, read := range operations {
				mirror.Heal()
				f, c := newFetcher(t, Options{RegistriesConf: conf})
				dial := f.dial
				f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if host, _, _ := net.SplitHostPort(addr); host == "registry.invalid" {
						return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
					}
					return dial(ctx, network, addr)
				}
				mirror.Inject(testimage.Fault{On: on, Kind: testimage.Refuse, Status: 503, Times: 3})
				b := openBlob(t, f, registry+"/a:t", 0)
				mirror.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, After: 100, Times: 3})
				got, err := read(t.Context(), b)
				if err != nil || !bytes.Equal(got, wanted(operation, content)) {
					t.Errorf("%s, %v, %s: %d bytes, %v", registry, on, operation, len(got), err)
				}
				if c.total() == 0 {
					t.Errorf("%s, %v, %s: no pause was made", registry, on, operation)
				}
			}
		}
	}
}
