package fetcher

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// Secrets, all with the word canary in them, so that none gets lost in a log.
const (
	canaryPassword = "canary-password"
	canaryIdentity = "canary-identity"
	canaryRegistry = "canary-registry-token"
	canaryToken    = "canary-token"  // what token servers give
	canaryHeader   = "canary-header" // what a configuration adds to requests
)

// logins are the kinds of credentials that there are for a registry.
var logins = map[string]string{
	"a password":        fmt.Sprintf(`"auth":%q`, base64.StdEncoding.EncodeToString([]byte("me:"+canaryPassword))),
	"an identity token": fmt.Sprintf(`"identitytoken":%q`, canaryIdentity),
	"a registry token":  fmt.Sprintf(`"registrytoken":%q`, canaryRegistry),
}

// A canaryRegistry serves one image at one origin, to whoever has the token
// or the password. What it does otherwise is in the fields.
type canary struct {
	world    *world
	registry string // origin
	basic    bool
	realm    string // of its challenge
	bundle   testimage.Bundle
	stored   map[string]bool // what has been pushed to it, by digest and tag; nil where it is pulled from
	// odd answers instead, where it returns true.
	odd func(w http.ResponseWriter, req *http.Request, origin string) bool
}

func newCanary(w *world, registry string) *canary {
	return &canary{world: w, registry: registry, bundle: imageOf(noise(1000)).Bundle()}
}

func (c *canary) serve(w http.ResponseWriter, req *http.Request) {
	origin := originText(req)
	switch {
	case c.odd != nil && c.odd(w, req, origin):
	case strings.Contains(req.URL.Path, "token"):
		fmt.Fprintf(w, `{"token":%q}`, canaryToken)
	case origin == c.registry && !c.known(req):
		c.challenge(w)
	case c.stored != nil:
		c.serveWrite(w, req)
	case strings.Contains(req.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", c.bundle.Root.MediaType)
		w.Write(c.bundle.Blobs[c.bundle.Root.Digest])
	case strings.Contains(req.URL.Path, "/blobs/"):
		http.ServeContent(w, req, "", c.world.authority.NotBefore, bytes.NewReader(c.blob(req.URL.Path)))
	}
}

// blob returns the blob whose digest a path ends with.
func (c *canary) blob(path string) []byte {
	for d, b := range c.bundle.Blobs {
		if strings.HasSuffix(path, d.String()) {
			return b
		}
	}
	return nil
}

func (c *canary) known(req *http.Request) bool {
	_, password, _ := req.BasicAuth()
	auth := req.Header.Get("Authorization")
	return auth == "Bearer "+canaryToken || auth == "Bearer "+canaryRegistry || c.basic && password == canaryPassword
}

func (c *canary) challenge(w http.ResponseWriter) {
	value := fmt.Sprintf(`Bearer realm="%s",service="reg"`, c.realm)
	if c.basic {
		value = `Basic realm="reg"`
	}
	w.Header().Set("WWW-Authenticate", value)
	w.WriteHeader(http.StatusUnauthorized)
}

// pull fetches the image, and a range and the whole of its layer. It returns
// the first error, and fails the test if a log or an error has a canary in it.
func (c *canary) pull(t testing.TB, host, login string, o Options) (err error) {
	t.Helper()
	f, leaks := c.fetcher(t, host, login, o)
	defer func() { leaks(err) }()
	ref := parse(t, host+"/a:t")
	im, err := f.Resolve(t.Context(), ref)
	if err != nil {
		return err
	}
	b, err := f.Blob(t.Context(), im, im.Layers[0])
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := readRange(b, 10, 20); err != nil {
		return err
	}
	_, err = operations["the stream"](t.Context(), b)
	return err
}

// fetcher returns a Fetcher that has credentials for a host, and what fails the test if a canary is in its log or in an error.
func (c *canary) fetcher(t testing.TB, host, login string, o Options) (*Fetcher, func(error)) {
	t.Helper()
	c.world.become(c.serve)
	o.Authfile = filepath.Join(t.TempDir(), "auth.json")
	writeFile(t, o.Authfile, fmt.Sprintf(`{"auths":{%q:{%s},"evil.test":{}}}`, host, logins[login]), 0o600)
	var log lateLog
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f, _ := c.world.fetcher(t, o)
	return f, func(err error) {
		leaks(t, &log, err, "canary", base64.StdEncoding.EncodeToString([]byte("me:canary-password")))
	}
}

// only fails the test where a secret has come to an origin that is not in the list.
func (c *canary) only(t testing.TB, name, secret string, origins ...string) {
	t.Helper()
	for got := range c.world.received(secret) {
		if !slices.Contains(origins, got) {
			t.Errorf("%s: %s was sent %s; it is for %v", name, got, secret, origins)
		}
	}
}

func TestTokenServersGetCredentialsOnlyWhereTheyMay(t *testing.T) {
	w := newWorld(t)
	no := false
	const reg, plainReg, loopback = "https://reg.example:443", "http://reg.example:5000", "http://127.0.0.1:5000"
	for _, test := range []struct {
		host, origin, realm string
		to                  string // who may be sent the credentials; "" is nobody
		works               bool
		insecure            bool
	}{
		// A registry by HTTPS.
		{"reg.example", reg, "https://reg.example/token", reg, true, false},
		{"reg.example", reg, "HTTPS://REG.EXAMPLE/token", reg, true, false},
		{"reg.example", reg, "https://reg.example:8443/token", "https://reg.example:8443", true, false},
		{"reg.example", reg, "https://auth.example/token?x=y", "https://auth.example:443", true, false},
		{"reg.example", reg, "https://api.other.test/token", "https://api.other.test:443", true, false},
		{"reg.example", reg, "https://203.0.113.1/token", "https://203.0.113.1:443", true, false},
		{"docker.io/library", "https://registry-1.docker.io:443", "https://auth.docker.io/token", "https://auth.docker.io:443", true, false},
		{"reg.example:8443", "https://reg.example:8443", "https://reg.example/jwt/token", reg, true, false},
		{"[2001:db8::1]:8443", "https://[2001:db8::1]:8443", "https://[2001:db8::1]/token", "https://[2001:db8::1]:443", true, false},
		{"[2001:db8::1]:8443", "https://[2001:db8::1]:8443", "https://[2001:db8::2]/token", "https://[2001:db8::2]:443", true, false},
		{"reg.example", reg, "http://reg.example/token", "", false, false},
		{"reg.example", reg, "http://reg.example:5000/token", "", false, false},
		{"reg.example", reg, "http://auth.example/token", "", false, false},
		{"reg.example", reg, "http://127.0.0.1:5001/token", "", false, false},
		{"reg.example", reg, "http://localhost:5001/token", "", false, false},
		{"reg.example", reg, "https://127.0.0.1/token", "", false, false},
		{"reg.example", reg, "https://localhost:8443/token", "", false, false},
		{"reg.example", reg, "https://[::1]:8443/token", "", false, false},
		{"reg.example", reg, "https://10.0.0.1/token", "", false, false},
		{"reg.example", reg, "https://192.168.1.1:8443/token", "", false, false},
		{"reg.example", reg, "https://169.254.169.254/token", "", false, false},
		{"reg.example", reg, "https://localhost./token", "", false, false},
		{"reg.example", reg, "https://x.localhost/token", "", false, false},
		{"reg.example", reg, "https://[fe80::1]/token", "", false, false},
		{"reg.example", reg, "https://[::ffff:10.0.0.1]/token", "", false, false},
		{"reg.example", reg, "https://0.0.0.0/token", "", false, false},
		{"reg.example", reg, "https://evil.test@auth.example/token", "", false, false},
		{"reg.example", reg, "https://user:password@reg.example/token", "", false, false},
		{"reg.example", reg, "ftp://auth.example/token", "", false, false},
		{"reg.example", reg, "//auth.example/token", "", false, false},
		{"reg.example", reg, "/token", "", false, false},
		{"reg.example", reg, "https:///token", "", false, false},
		{"reg.example", reg, "https://:443/token", "", false, false},
		{"reg.example", reg, "::", "", false, false},
		{"reg.example", reg, "", "", false, false},
		// Inside of a network.
		{"10.0.0.1:8443", "https://10.0.0.1:8443", "https://10.0.0.1/token", "https://10.0.0.1:443", true, false},
		{"10.0.0.1:8443", "https://10.0.0.1:8443", "https://10.0.0.2/token", "https://10.0.0.2:443", true, false},
		{"10.0.0.1:8443", "https://10.0.0.1:8443", "http://10.0.0.1/token", "", false, false},
		// A registry on this machine.
		{"127.0.0.1:5000", loopback, "http://127.0.0.1:5000/token", loopback, true, false},
		{"127.0.0.1:5000", loopback, "http://127.0.0.1:5001/token", "http://127.0.0.1:5001", true, false},
		{"127.0.0.1:5000", loopback, "http://localhost:5001/token", "http://localhost:5001", true, false},
		{"127.0.0.1:5000", loopback, "http://[::1]:5001/token", "http://[::1]:5001", true, false},
		{"127.0.0.1:5000", loopback, "https://auth.example/token", "https://auth.example:443", true, false},
		{"127.0.0.1:5000", loopback, "http://auth.example/token", "", false, false},
		{"127.0.0.1:5000", loopback, "http://127.0.0.1.example/token", "", false, false},
		{"127.0.0.1:8443", "https://127.0.0.1:8443", "http://127.0.0.1:5001/token", "", false, false},
		// Registries whose user does without TLS.
		{"reg.example:5000", plainReg, "http://reg.example:5000/token", plainReg, true, true},
		{"reg.example:5000", plainReg, "http://reg.example:5001/token", "http://reg.example:5001", true, true},
		{"reg.example:5000", plainReg, "http://REG.example/token", "http://reg.example:80", true, true},
		{"reg.example:5000", plainReg, "https://auth.example/token", "https://auth.example:443", true, true},
		{"reg.example:5000", plainReg, "http://auth.example/token", "", true, true}, // whoever is nobody may get a token, too
		{"reg.example:5000", plainReg, "http://reg.example./token", "", true, true},
		{"reg.example:5000", plainReg, "http://sub.reg.example/token", "", true, true},
		{"reg.example:5000", plainReg, "http://127.0.0.1:5001/token", "", false, true},
		{"reg.example", reg, "http://reg.example/token", "", false, true},
		{"reg.example", reg, "http://auth.example/token", "", false, true},
	} {
		for login := range logins {
			name := fmt.Sprintf("%s, realm %q, %s", test.host, test.realm, login)
			c := newCanary(w, test.origin)
			c.realm = test.realm
			var o Options
			if test.insecure {
				o.TLSVerify = &no
			}
			err := c.pull(t, test.host, login, o)
			if works := test.works || login == "a registry token"; (err == nil) != works {
				t.Errorf("%s: %v", name, err)
			}
			for _, secret := range []string{canaryPassword, canaryIdentity} {
				c.only(t, name, secret, test.to)
			}
			for _, secret := range []string{canaryToken, canaryRegistry} {
				c.only(t, name, secret, test.origin)
			}
			if test.to != "" && login == "a password" && !c.world.received(canaryPassword)[test.to] {
				t.Errorf("%s: %s was not sent the password, but %v", name, test.to, c.world.received(canaryPassword))
			}
		}
	}
}

// elsewheres are places that are not https://reg.example, as a redirect there
// may name them.
var elsewheres = []string{
	"https://evil.test/blobs/x", "http://evil.test/blobs/x", "https://evil.test:8443/blobs/x", "//evil.test/blobs/x",
	"https://reg.example:8443/blobs/x", "http://reg.example/blobs/x", "http://reg.example:443/blobs/x", "http://reg.example:5000/blobs/x",
	"https://reg.example./blobs/x", "https://sub.reg.example/blobs/x", "https://example/blobs/x", "https://reg.example.evil.test/blobs/x",
	"https://reg.example@evil.test/blobs/x", "https://reg.example:443@evil.test/blobs/x", "https://me:canary@evil.test/blobs/x",
	"https://evil.test/blobs/x?canary#@reg.example", "https://evil.test/reg.example/blobs/x", "https://evil.test?canary=https://reg.example/blobs/x",
	`https://evil.test\@reg.example/blobs/x`, `https:\\evil.test/blobs/x`, "https://reg%2eexample.evil.test/blobs/x", "https://[::1]:8443/blobs/x",
	"https://[2001:db8::1]/blobs/x", "http://127.0.0.1:5000/blobs/x", "https://127.0.0.1/blobs/x", "https://169.254.169.254/blobs/x",
	"https://reg.example:0443/blobs/x", "https://еg.example/blobs/x", "https://reg.example,evil.test/blobs/x", "ftp://reg.example/blobs/x",
	"https://reg.example:99999/blobs/x", "https:///blobs/x", "https://evil.test\t/blobs/x", "javascript:canary", "https:evil.test/canary",
}

func TestRedirectsOfTheRegistryLeadAwayFromCredentials(t *testing.T) {
	w := newWorld(t)
	const reg = "https://reg.example:443"
	for _, what := range []string{"/blobs/", "/manifests/"} {
		for _, basic := range []bool{false, true} {
			for i, location := range elsewheres {
				c := newCanary(w, reg)
				c.basic, c.realm = basic, "https://auth.example/token"
				c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
					switch {
					case strings.HasSuffix(req.URL.Path, "/token"):
						return false
					case origin != reg: // it wants more than it should get
						rw.Header().Set("WWW-Authenticate", []string{`Basic realm="x"`, `Bearer realm="https://evil.test/token",service="x"`}[i%2])
						rw.Header().Set("Proxy-Authenticate", `Basic realm="x"`)
						rw.WriteHeader([]int{401, 403, 407}[i%3])
						return true
					case strings.Contains(req.URL.Path, what) && c.known(req):
						rw.Header().Set("Location", location)
						rw.WriteHeader([]int{301, 302, 303, 307, 308}[i%5])
						return true
					}
					return false
				}
				name := fmt.Sprintf("%s, basic %v, to %q", what, basic, location)
				if err := c.pull(t, "reg.example", "a password", Options{}); err == nil {
					t.Errorf("%s: no error", name)
				}
				c.only(t, name, canaryToken, reg)
				c.only(t, name, canaryPassword, reg, "https://auth.example:443")
				if basic {
					c.only(t, name, canaryPassword, reg)
				}
			}
		}
	}
}

func TestWhoHasLedAwayDoesNotLeadBack(t *testing.T) {
	w := newWorld(t)
	const reg = "https://reg.example:443"
	c := newCanary(w, reg)
	c.realm = "https://auth.example/token"
	c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") || !c.known(req) && origin == reg {
			return false
		}
		location := "https://evil.test" + req.URL.Path
		if origin != reg {
			location = "https://reg.example/v2/steered" + req.URL.Path
		}
		http.Redirect(rw, req, location, http.StatusTemporaryRedirect)
		return true
	}
	err := c.pull(t, "reg.example", "a password", Options{})
	if !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	for _, s := range c.world.sent {
		if strings.Contains(s.all, "/steered") && strings.Contains(s.all, "canary") {
			t.Errorf("where another server has led: %s", s.all)
		}
	}
}

func TestTheSameOriginIsTheSameHoweverItIsWritten(t *testing.T) {
	w := newWorld(t)
	const reg = "https://reg.example:443"
	for _, base := range []string{"https://reg.example/elsewhere", "https://REG.example/elsewhere", "HTTPS://reg.example:443/elsewhere", "https://me:canary@reg.example/elsewhere", "/elsewhere", "../../elsewhere"} {
		c := newCanary(w, reg)
		c.realm = "https://auth.example/token"
		c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
			if !strings.HasPrefix(req.URL.Path, "/v2/a/") || !c.known(req) {
				return false
			}
			rw.Header().Set("Location", base+strings.TrimPrefix(req.URL.Path, "/v2/a"))
			rw.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
		if err := c.pull(t, "reg.example", "a password", Options{}); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
}

func TestRedirectsOfATokenRequestLeadAwayFromCredentials(t *testing.T) {
	w := newWorld(t)
	const reg, auth = "https://reg.example:443", "https://auth.example:443"
	for _, test := range []struct {
		location string
		to       []string // who may be sent the credentials beside the token server
		works    bool
	}{
		{"https://auth.example/other-token", nil, true},
		{"https://AUTH.example:443/other-token", nil, true},
		{"/other-token", nil, true},
		{"https://evil.test/other-token", nil, true}, // it gives a token to nobody in particular
		{"//evil.test/other-token", nil, true},
		{"https://auth.example:8443/other-token", nil, true},
		{"https://auth.example./other-token", nil, true},
		{"https://sub.auth.example/other-token", nil, true},
		{"https://reg.example/other-token", nil, true},
		{"https://auth.example@evil.test/other-token", nil, true},
		{"https://me:canary@evil.test/other-token", nil, true},
		{"https://evil.test/back-token", nil, true},
		{"http://auth.example/other-token", nil, false},
		{"http://evil.test/other-token", nil, false},
		{"https://127.0.0.1/other-token", nil, false},
		{"https://169.254.169.254/other-token", nil, false},
		{"https://[::1]:8443/other-token", nil, false},
		{"/token", nil, false}, // for ever
		{"ftp://auth.example/other-token", nil, false},
		{"::canary", nil, false},
	} {
		for _, login := range []string{"a password", "an identity token"} {
			for _, status := range []int{301, 302, 303, 307, 308} {
				c := newCanary(w, reg)
				c.realm = "https://auth.example/token"
				c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
					switch req.URL.Path {
					case "/token":
						rw.Header().Set("Location", test.location)
					case "/back-token":
						rw.Header().Set("Location", "https://auth.example/steered-token")
					default:
						return false
					}
					rw.WriteHeader(status)
					return true
				}
				name := fmt.Sprintf("%d to %s with %s", status, test.location, login)
				if err := c.pull(t, "reg.example", login, Options{}); (err == nil) != test.works {
					t.Errorf("%s: %v", name, err)
				}
				c.only(t, name, canaryPassword, auth)
				c.only(t, name, canaryIdentity, auth)
				c.only(t, name, canaryToken, reg)
				for _, s := range c.world.sent {
					if strings.Contains(s.all, "/steered-token") && strings.Contains(s.all, "canary") {
						t.Errorf("%s: where another server has led: %s", name, s.all)
					}
				}
			}
		}
	}
}

func TestAFirstContactThatLeadsAwayEndsCredentials(t *testing.T) {
	w := newWorld(t)
	const reg = "https://reg.example:443"
	for i, location := range elsewheres {
		for login := range logins {
			c := newCanary(w, reg)
			c.realm = "https://auth.example/token"
			c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
				switch {
				case origin == reg && req.URL.Path == "/v2/":
					rw.Header().Set("Location", location)
					rw.WriteHeader([]int{301, 302, 303, 307, 308}[i%5])
					return true
				case origin != reg && !strings.HasSuffix(req.URL.Path, "token"):
					rw.Header().Set("WWW-Authenticate", []string{`Basic realm="x"`, `Bearer realm="https://evil.test/token",service="x"`}[i%2])
					rw.WriteHeader(http.StatusUnauthorized)
					return true
				}
				return false
			}
			name := fmt.Sprintf("to %q, %s", location, login)
			c.pull(t, "reg.example", login, Options{}) // some work, as somebody may have a token who is nobody
			for _, secret := range []string{canaryPassword, canaryIdentity, canaryRegistry} {
				c.only(t, name, secret)
			}
			c.only(t, name, canaryToken, reg)
		}
	}
	c := newCanary(w, reg)
	c.realm = "https://auth.example/token"
	c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
		if req.URL.Path == "/v2/" {
			rw.Header().Set("Location", "/v2/front-door")
			rw.WriteHeader(http.StatusFound)
		}
		return req.URL.Path == "/v2/"
	}
	if err := c.pull(t, "reg.example", "a password", Options{}); err != nil || !c.world.received(canaryPassword)["https://auth.example:443"] {
		t.Errorf("a first contact that leads to the same origin: %v", err)
	}
}
