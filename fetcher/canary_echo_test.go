package fetcher

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// echoes are answers of a server that has been sent credentials, and writes them wherever it can.
var echoes = map[string]func(w http.ResponseWriter, secret string){
	"the status line": func(w http.ResponseWriter, secret string) { raw(w, "HTTP/1.1 "+secret+"\r\n\r\n") },
	"no HTTP":         func(w http.ResponseWriter, secret string) { raw(w, secret+"\r\n\r\n") },
	"a header's name": func(w http.ResponseWriter, secret string) { raw(w, "HTTP/1.1 200 OK\r\n"+secret+"\r\n\r\n") },
	"the length": func(w http.ResponseWriter, secret string) {
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: "+secret+"\r\n\r\n")
	},
	"the encoding": func(w http.ResponseWriter, secret string) {
		raw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: "+secret+"\r\n\r\n")
	},
	"the range": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Content-Range", secret)
		w.WriteHeader(http.StatusPartialContent)
	},
	"the code of an error": func(w http.ResponseWriter, secret string) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, secret, secret)
	},
	"the digest": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Docker-Content-Digest", secret)
		w.WriteHeader(http.StatusForbidden)
	},
	"a redirect": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Location", "https://evil.test/blobs/"+secret+"?x="+secret)
		w.WriteHeader(http.StatusFound)
	},
	"a redirect to nowhere": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Location", "x:"+secret)
		w.WriteHeader(http.StatusFound)
	},
	"the pause to make": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Retry-After", secret)
		w.WriteHeader(http.StatusServiceUnavailable)
	},
	"the place of an upload": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Location", "https://evil.test/blobs/"+secret+"?x="+secret)
		w.WriteHeader(http.StatusAccepted)
	},
	"a place that is none": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Location", "x:"+secret)
		w.WriteHeader(http.StatusAccepted)
	},
	"a redirect of what is written": func(w http.ResponseWriter, secret string) {
		w.Header().Set("Location", "https://evil.test/blobs/"+secret+"?x="+secret)
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
}

func TestWhatAServerEchoesGetsIntoNoLogAndNoError(t *testing.T) {
	w := newWorld(t)
	const reg = "https://reg.example:443"
	for name, answer := range echoes {
		for _, what := range []string{"/blobs/", "/manifests/", "/token"} {
			c := newCanary(w, reg)
			c.realm = "https://auth.example/token"
			c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
				secret := req.Header.Get("Authorization")
				if !strings.Contains(req.URL.Path, what) || secret == "" {
					return false
				}
				answer(rw, secret)
				return true
			}
			if err := c.pull(t, "reg.example", "a password", Options{}); err == nil && what != "/manifests/" {
				t.Errorf("%s of %s: no error", name, what)
			}
		}
	}
}

func TestWhatARegistryEchoesToAPushGetsIntoNoLogAndNoError(t *testing.T) {
	const reg = "https://reg.example:443"
	for name, answer := range echoes {
		for what, is := range where {
			c := pushCanary(newWorld(t), reg)
			c.odd = func(rw http.ResponseWriter, req *http.Request, origin string) bool {
				secret := req.Header.Get("Authorization")
				if origin != reg {
					rw.WriteHeader(http.StatusTeapot)
					return true
				}
				if !is(req) || secret == "" {
					return false
				}
				answer(rw, secret)
				return true
			}
			if err := c.push(t, "reg.example", "a password", "", Options{}); err == nil && !strings.HasSuffix(what, "there") {
				t.Errorf("%s of %s: no error", name, what)
			}
		}
	}
}

// raw answers with bytes that need not be HTTP.
func raw(w http.ResponseWriter, answer string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write([]byte(answer))
}
