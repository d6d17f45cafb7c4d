package fetcher

import (
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// pushCanary returns a registry that is pushed to.
func pushCanary(w *world, registry string) *canary {
	c := newCanary(w, registry)
	c.realm, c.stored = "https://auth.example/token", map[string]bool{}
	return c
}

// serveWrite takes everything that is sent to it, by whomever it may be.
func (c *canary) serveWrite(w http.ResponseWriter, req *http.Request) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	which := path.Base(req.URL.Path)
	if d := req.URL.Query().Get("digest"); d != "" {
		which = d
	}
	switch req.Method {
	case http.MethodHead:
		if !c.stored[which] {
			w.WriteHeader(http.StatusNotFound)
		}
	case http.MethodPost:
		w.Header().Set("Location", req.URL.Path+"1?state=x")
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		c.stored[which] = true
		w.WriteHeader(http.StatusCreated)
	}
}

// complete tells whether all of the image has come, and its tag.
func (c *canary) complete() bool {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	for d := range c.bundle.Blobs {
		if !c.stored[d.String()] {
			return false
		}
	}
	return c.stored["t"]
}

// push pushes the image, as one of another repository of the registry where from is not "". It fails the test if a log or the error
// has a canary in it.
func (c *canary) push(t testing.TB, host, login, from string, o Options) (err error) {
	t.Helper()
	f, leaks := c.fetcher(t, host, login, o)
	defer func() { leaks(err) }()
	layout := t.TempDir()
	if err := testimage.WriteLayout(layout, testimage.Tagged{Bundle: c.bundle}); err != nil {
		t.Fatal(err)
	}
	b := bundleFrom(t, f, "oci:"+layout, false)
	if b.From = (Reference{}); from != "" {
		b.From = parse(t, from)
	}
	_, err = f.Push(t.Context(), parse(t, host+"/a:t"), b)
	return err
}

// where are the requests of a push that a registry may answer with another place.
var where = map[string]func(req *http.Request) bool{
	"what is there": func(req *http.Request) bool {
		return req.Method == http.MethodHead && strings.Contains(req.URL.Path, "/blobs/")
	},
	"which manifest is there": func(req *http.Request) bool {
		return req.Method == http.MethodHead && strings.Contains(req.URL.Path, "/manifests/")
	},
	"the beginning": func(req *http.Request) bool { return req.Method == http.MethodPost },
	"the blob": func(req *http.Request) bool {
		return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/uploads/")
	},
	"the manifest": func(req *http.Request) bool {
		return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/")
	},
}

// greedy answers, elsewhere than at the registry, with a wish for more than it should get.
func greedy(rw http.ResponseWriter, i int) {
	rw.Header().Set("WWW-Authenticate", []string{`Basic realm="x"`, `Bearer realm="https://evil.test/token",service="x"`}[i%2])
	rw.WriteHeader([]int{401, 403, 407}[i%3])
}

func TestRedirectsOfAPushLeadAwayFromCredentials(t *testing.T) {
	const reg = "https://reg.example:443"
	for what, is := range where {
		for i, location := range elsewheres {
			status, basic := []int{301, 302, 303, 307, 308}[i%5], i%2 == 0
			t.Run(fmt.Sprintf("%s, basic %v, %d to %q", what, basic, status, location), func(t *testing.T) {
				c := pushCanary(newWorld(t), reg)
				c.basic = basic
				c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
					switch {
					case strings.HasSuffix(req.URL.Path, "/token"):
						return false
					case origin != reg:
						greedy(rw, i)
						return true
					case is(req) && c.known(req):
						rw.Header().Set("Location", location)
						rw.WriteHeader(status)
						return true
					}
					return false
				}
				err := c.push(t, "reg.example", "a password", "", Options{})
				if err == nil && !strings.HasSuffix(what, "there") { // who does not know what is there writes it
					t.Error("no error")
				}
				checkCanaries(t, c, reg)
			})
		}
	}
}

// checkCanaries fails the test where secrets have come to others than the registry and its token server.
func checkCanaries(t *testing.T, c *canary, reg string) {
	t.Helper()
	c.only(t, "push", canaryToken, reg)
	if c.basic {
		c.only(t, "push", canaryPassword, reg)
	} else {
		c.only(t, "push", canaryPassword, "https://auth.example:443")
	}
}

func TestUploadsThatGoElsewhereGoWithoutCredentials(t *testing.T) {
	const reg = "https://reg.example:443"
	for _, generous := range []bool{false, true} { // whether elsewhere is somebody who takes the blob
		for i, location := range elsewheres {
			basic := i%2 == 0
			t.Run(fmt.Sprintf("basic %v, generous %v, to %q", basic, generous, location), func(t *testing.T) {
				c := pushCanary(newWorld(t), reg)
				c.basic = basic
				c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
					switch {
					case strings.HasSuffix(req.URL.Path, "/token"):
						return false
					case origin != reg && generous && req.Method == http.MethodPut:
						c.serveWrite(rw, req)
						return true
					case origin != reg:
						greedy(rw, i)
						return true
					case req.Method == http.MethodPost && c.known(req):
						rw.Header().Set("Location", location)
						rw.WriteHeader(http.StatusAccepted)
						return true
					}
					return false
				}
				err := c.push(t, "reg.example", "a password", "", Options{})
				if err == nil != c.complete() || !generous && err == nil {
					t.Errorf("complete %v, error %v", c.complete(), err)
				}
				checkCanaries(t, c, reg)
			})
		}
	}
}

// An upload may go to another host; but not to one that only we can reach, and never by plain HTTP where the registry speaks TLS.
func TestUploadsGoWhereTheyMay(t *testing.T) {
	no := false
	for _, test := range []struct {
		host, origin, location string
		works, insecure        bool
	}{
		{"reg.example", "https://reg.example:443", "https://storage.test/upload?sig=a%2Fb", true, false},
		{"reg.example", "https://reg.example:443", "https://reg.example:8443/upload", true, false},
		{"reg.example", "https://reg.example:443", "/elsewhere", true, false},
		{"reg.example", "https://reg.example:443", "https://203.0.113.1/upload", true, false},
		{"reg.example", "https://reg.example:443", "http://reg.example/upload", false, false},
		{"reg.example", "https://reg.example:443", "http://storage.test/upload", false, false},
		{"reg.example", "https://reg.example:443", "http://127.0.0.1:5000/upload", false, false},
		{"reg.example", "https://reg.example:443", "https://127.0.0.1/upload", false, false},
		{"reg.example", "https://reg.example:443", "https://10.0.0.1/upload", false, false},
		{"reg.example", "https://reg.example:443", "https://169.254.169.254/upload", false, false},
		{"reg.example", "https://reg.example:443", "https://x.localhost/upload", false, false},
		{"reg.example", "https://reg.example:443", "", false, false},
		{"10.0.0.1:8443", "https://10.0.0.1:8443", "https://10.0.0.2/upload", true, false},
		{"127.0.0.1:5000", "http://127.0.0.1:5000", "http://127.0.0.1:5001/upload", true, false},
		{"127.0.0.1:5000", "http://127.0.0.1:5000", "http://storage.test/upload", false, false},
		{"127.0.0.1:5000", "http://127.0.0.1:5000", "https://storage.test/upload", true, false},
		{"reg.example:5000", "http://reg.example:5000", "http://reg.example:5001/upload", true, true},
	} {
		for _, redirected := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, to %q, redirected %v", test.host, test.location, redirected), func(t *testing.T) {
				c := pushCanary(newWorld(t), test.origin)
				c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
					switch {
					case req.Method == http.MethodPost && c.known(req) && !redirected:
						rw.Header().Set("Location", test.location)
						rw.WriteHeader(http.StatusAccepted)
					case req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/uploads/1") && redirected:
						rw.Header().Set("Location", test.location)
						rw.WriteHeader(http.StatusTemporaryRedirect)
					case req.Method == http.MethodPut && origin != test.origin && strings.Contains(req.URL.Path, "upload"):
						c.serveWrite(rw, req)
					default:
						return false
					}
					return true
				}
				var o Options
				if test.insecure {
					o.TLSVerify = &no
				}
				if err := c.push(t, test.host, "a password", "", o); (err == nil) != test.works || c.complete() != test.works {
					t.Errorf("complete %v, error %v", c.complete(), err)
				}
				checkCanaries(t, c, test.origin)
			})
		}
	}
}

func TestTokenServersOfAPushGetCredentialsOnlyWhereTheyMay(t *testing.T) {
	const reg = "https://reg.example:443"
	for _, test := range []struct {
		realm, to string // who may be sent the credentials; "" is nobody
	}{
		{"https://reg.example/token", reg},
		{"https://auth.example/token", "https://auth.example:443"},
		{"http://reg.example/token", ""},
		{"http://auth.example/token", ""},
		{"https://10.0.0.1/token", ""},
		{"https://user:password@auth.example/token", ""},
	} {
		for login := range logins {
			c := pushCanary(newWorld(t), reg)
			c.realm = test.realm
			name := fmt.Sprintf("realm %q, %s", test.realm, login)
			err := c.push(t, "reg.example", login, "reg.example/other:t", Options{})
			if works := test.to != "" || login == "a registry token"; (err == nil) != works || c.complete() != works {
				t.Errorf("%s: %v", name, err)
			}
			for _, secret := range []string{canaryPassword, canaryIdentity} {
				c.only(t, name, secret, test.to)
			}
			for _, secret := range []string{canaryToken, canaryRegistry} {
				c.only(t, name, secret, reg)
			}
		}
	}
}

// A first contact that leads elsewhere ends credentials for a push as well.
func TestAFirstContactThatLeadsAwayPushesNothing(t *testing.T) {
	const reg = "https://reg.example:443"
	for i, location := range elsewheres {
		c := pushCanary(newWorld(t), reg)
		c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
			switch {
			case origin == reg && req.URL.Path == "/v2/":
				rw.Header().Set("Location", location)
				rw.WriteHeader([]int{301, 302, 303, 307, 308}[i%5])
				return true
			case origin != reg && !strings.HasSuffix(req.URL.Path, "token"):
				greedy(rw, i)
				return true
			}
			return false
		}
		name := fmt.Sprintf("to %q", location)
		c.push(t, "reg.example", "a password", "", Options{}) // some work, as somebody may have a token who is nobody
		c.only(t, name, canaryPassword)
		c.only(t, name, canaryToken, reg)
	}
}
