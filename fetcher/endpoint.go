package fetcher

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// hubHost is where the API of the Docker Hub is.
const hubHost = "registry-1.docker.io"

// isHub tells whether a registry's host is a name of the Docker Hub.
func isHub(host string) bool { return host == hub || host == "index.docker.io" || host == hubHost }

// apiHost returns the host[:port] at which the registry of that name answers.
func apiHost(registry string) string {
	if isHub(registry) {
		return hubHost
	}
	return registry
}

// An endpoint is a server that speaks a registry's API: a registry, or a mirror of one.
type endpoint struct {
	f    *Fetcher
	name string // host[:port] as people know it, and as credentials are kept for it
	host string // host[:port] to connect to
	endpointConfig
	own, foreign http.RoundTripper // to its own origin, and to where it redirects

	// mu protects the following.
	mu     sync.Mutex
	failed time.Time // as a mirror; zero: it has not
	spoken string    // the scheme of the last first contact
}

// An endpointConfig is what is special about an endpoint.
type endpointConfig struct {
	scheme      string        // "": HTTPS, and where that is allowed plain HTTP as well
	root        string        // path of the API; "" means /v2
	query       string        // goes to its own origin with each request
	header      http.Header   // likewise
	insecure    bool          // any certificate is good, and plain HTTP
	skipVerify  bool          // any certificate is good
	dialTimeout time.Duration // 0 is what all have
	mirror      bool          // credentials of the command line are not for it
	pullOnly    bool          // nothing may be pushed there
}

// newEndpoint returns the endpoint of that name; config is what TLS takes there.
func (f *Fetcher) newEndpoint(name string, c endpointConfig, config *tls.Config) *endpoint {
	e := &endpoint{f: f, name: name, host: apiHost(name), endpointConfig: c}
	if e.root == "" {
		e.root = "/v2"
	}
	config = config.Clone()
	config.InsecureSkipVerify = c.insecure || c.skipVerify
	foreign := config.Clone()
	foreign.Certificates = nil
	plain := c.insecure || c.scheme == "http"
	e.own, e.foreign = f.newTransport(config, plain, c.dialTimeout), f.newTransport(foreign, plain, c.dialTimeout)
	return e
}

// schemes returns what the endpoint may speak, in the order to try.
func (e *endpoint) schemes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.scheme != "":
		return []string{e.scheme}
	case e.spoken != "https" && (e.insecure || isLoopback(e.host)):
		return []string{"https", "http"}
	}
	return []string{"https"}
}

// speak remembers which scheme an endpoint speaks.
func (e *endpoint) speak(scheme string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spoken = scheme
}

// url returns the URL of a path below the API's root.
func (e *endpoint) url(scheme, path string) *url.URL {
	return &url.URL{Scheme: scheme, Host: e.host, Path: strings.TrimSuffix(e.root, "/") + path, RawQuery: e.query}
}
