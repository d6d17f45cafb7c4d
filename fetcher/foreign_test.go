package fetcher

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

// foreignBundle returns an image whose layer has URLs, and does not hold it.
func foreignBundle(content []byte, urls ...string) testimage.Bundle {
	l := layerOf(content)
	l.MediaType, l.URLs = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", urls
	b := testimage.Image{Layers: []testimage.Layer{l}}.Bundle()
	delete(b.Blobs, l.DiffID)
	return b
}

func TestForeignLayersAreFetchedWhenThatIsAllowedAndWithoutCredentials(t *testing.T) {
	const reg = "https://reg.example:443"
	content := noise(1000)
	w := newWorld(t)
	for name, test := range map[string]struct {
		urls    []string
		allowed bool
		works   bool
	}{
		"not asked for":           {[]string{"https://cdn.example/blobs/x"}, false, false},
		"one":                     {[]string{"https://cdn.example/blobs/x?a=b"}, true, true},
		"the second":              {[]string{"https://none.example/gone", "https://cdn.example/blobs/x"}, true, true},
		"the registry's own host": {[]string{"https://reg.example/elsewhere/blobs/x"}, true, true},
		"one with a password":     {[]string{"https://me:canary@cdn.example/blobs/x"}, true, true},
		"by a redirect":           {[]string{"https://cdn.example/redirect"}, true, true},
		"it wants credentials":    {[]string{"https://cdn.example/private"}, true, false},
		"plain HTTP":              {[]string{"http://cdn.example/blobs/x"}, true, false},
		"a file":                  {[]string{"file:///etc/passwd"}, true, false},
		"no URL":                  {[]string{"::canary", "https://", ""}, true, false},
		"too many":                {append(make([]string, maxForeign), "https://cdn.example/blobs/x"), true, false},
	} {
		c := newCanary(w, reg)
		c.realm = "https://auth.example/token"
		c.bundle = foreignBundle(content, test.urls...)
		c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
			switch path := req.URL.Path; {
			case strings.HasSuffix(path, "/blobs/x"):
				http.ServeContent(rw, req, "", w.authority.NotBefore, bytes.NewReader(content))
			case path == "/redirect":
				http.Redirect(rw, req, "https://reg.example/blobs/x", http.StatusFound)
			case path == "/private":
				rw.Header().Set("WWW-Authenticate", `Bearer realm="https://evil.test/token"`)
				rw.WriteHeader(http.StatusUnauthorized)
			case path == "/gone", strings.HasSuffix(path, layerOf(content).DiffID.Encoded()) && c.known(req):
				rw.WriteHeader(http.StatusNotFound)
			default:
				return false
			}
			return true
		}
		err := c.pull(t, "reg.example", "a password", Options{AllowForeign: test.allowed})
		if (err == nil) != test.works {
			t.Errorf("%s: %v", name, err)
		}
		if !test.works && (!errors.Is(err, ErrNotFound) || !test.allowed && !strings.Contains(err.Error(), "foreign layer")) {
			t.Errorf("%s: %v", name, err)
		}
		c.only(t, name, canaryToken, reg)
		c.only(t, name, canaryPassword, "https://auth.example:443")
		w.mu.Lock()
		for _, s := range w.sent {
			if !strings.Contains(s.all, "/v2/") && !strings.Contains(s.all, "/token") && strings.Contains(s.all, "canary") {
				t.Errorf("%s: a foreign URL was sent %s", name, s.all)
			}
			if !test.allowed && strings.Contains(s.all, "/blobs/x") {
				t.Errorf("%s: a foreign URL was asked", name)
			}
		}
		w.mu.Unlock()
	}
}
