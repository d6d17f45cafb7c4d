package testimage

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A Registry is an image registry on a loopback port, and the storage on
// another port that it can send readers of blobs to. It serves what was pushed
// to it with Push, has switches for authentication and faults, which may be
// turned while requests are under way, and remembers all requests.
type Registry struct {
	registry, storage *httptest.Server

	// mu protects the following.
	mu           sync.Mutex
	repos        map[string]*repository
	auth         authMode
	user, secret string
	tokens       map[string]bool // those that are good
	minted       int
	redirect     int    // status of the redirect to storage; 0: none
	within       bool   // the redirect leads to the registry itself
	signature    string // what storage wants to see in a URL
	uploads      uploads
	faults       []*Fault
	hits         map[Kind]int
	healed       chan struct{} // closed by Heal
	requests     []Request
}

type repository struct {
	blobs map[digest.Digest][]byte
	types map[digest.Digest]string
	tags  map[string]digest.Digest
}

// A Request is an entry of the registry's log.
type Request struct {
	Server        string // "registry" or "storage"
	Method        string
	Path          string
	Query         string
	Range         string // header
	Authorization string // header
	User          string // of basic authentication
	UserAgent     string // header
	// ProxyAuthorization is a header that is for proxies, never for registries.
	ProxyAuthorization string
}

// StartRegistry starts a registry that speaks plain HTTP.
func StartRegistry() *Registry {
	r := newRegistry()
	r.registry.Start()
	r.storage.Start()
	return r
}

// StartTLSRegistry starts a registry that speaks TLS with a certificate that
// only Certificate vouches for. Where clients is not nil, it asks readers for
// a certificate that clients vouches for; its storage asks for none.
func StartTLSRegistry(clients *x509.CertPool) *Registry {
	r := newRegistry()
	if clients != nil {
		r.registry.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	}
	r.registry.StartTLS()
	r.storage.StartTLS()
	return r
}

func newRegistry() *Registry {
	r := &Registry{
		repos:     map[string]*repository{},
		tokens:    map[string]bool{},
		signature: "sig-0",
		hits:      map[Kind]int{},
		healed:    make(chan struct{}),
	}
	r.registry = httptest.NewUnstartedServer(http.HandlerFunc(r.serveRegistry))
	r.storage = httptest.NewUnstartedServer(http.HandlerFunc(r.serveStorage))
	quiet := log.New(io.Discard, "", 0)
	r.registry.Config.ErrorLog, r.storage.Config.ErrorLog = quiet, quiet
	return r
}

// Close stops the servers, and ends all requests.
func (r *Registry) Close() {
	r.Heal()
	for _, s := range []*httptest.Server{r.registry, r.storage} {
		s.CloseClientConnections()
		s.Close()
	}
}

// Host returns the registry's host:port.
func (r *Registry) Host() string { return r.registry.Listener.Addr().String() }

// StorageHost returns the host:port of the storage that redirects lead to.
func (r *Registry) StorageHost() string { return r.storage.Listener.Addr().String() }

// Certificate returns the certificate of a TLS registry.
func (r *Registry) Certificate() *x509.Certificate { return r.registry.Certificate() }

// Push puts a bundle into a repository. Tag "" gives it no tag.
func (r *Registry) Push(repo, tag string, b Bundle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.repo(repo)
	maps.Copy(at.blobs, b.Blobs)
	maps.Copy(at.types, b.Types)
	if tag != "" {
		at.tags[tag] = b.Root.Digest
	}
}

// repo returns a repository, and makes it where it is not there. The caller holds r.mu.
func (r *Registry) repo(name string) *repository {
	at := r.repos[name]
	if at == nil {
		at = &repository{map[digest.Digest][]byte{}, map[digest.Digest]string{}, map[string]digest.Digest{}}
		r.repos[name] = at
	}
	return at
}

// Replace makes a repository serve other bytes for the blob d.
func (r *Registry) Replace(repo string, d digest.Digest, content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repos[repo].blobs[d] = content
}

// Remove makes a repository forget the blob d.
func (r *Registry) Remove(repo string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repos[repo].blobs, d)
}

// Requests returns the log of requests for which keep is true; nil keeps all.
func (r *Registry) Requests(keep func(Request) bool) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if keep == nil {
		return slices.Clone(r.requests)
	}
	return slices.DeleteFunc(slices.Clone(r.requests), func(q Request) bool { return !keep(q) })
}

// ForgetRequests empties the log.
func (r *Registry) ForgetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

func (r *Registry) record(server string, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, _, _ := req.BasicAuth()
	r.requests = append(r.requests, Request{
		Server: server, Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery,
		Range: req.Header.Get("Range"), Authorization: req.Header.Get("Authorization"), User: user, UserAgent: req.UserAgent(),
		ProxyAuthorization: req.Header.Get("Proxy-Authorization"),
	})
}

// serveRegistry routes by the endpoints of the OCI distribution specification, 1.1.
func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	r.record("registry", req)
	if req.URL.Path == "/token" {
		r.serveToken(w, req)
		return
	}
	if path, ok := strings.CutPrefix(req.URL.Path, storagePath); ok {
		r.serveSigned(w, req, path)
		return
	}
	if req.URL.Path == "/v2/" && r.refused(w, Pings) {
		return
	}
	if !r.authorized(w, req) {
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if ok && r.serveWrite(w, req, path) {
		return
	}
	if repo, which, found := cutLast(path, "/manifests/"); ok && found {
		r.serveManifest(w, req, repo, which)
		return
	}
	if repo, which, found := cutLast(path, "/blobs/"); ok && found {
		r.serveBlob(w, req, repo, digest.Digest(which))
		return
	}
	if repo, rest, found := cutLast(path, "/tags/list"); ok && found && rest == "" {
		r.serveTags(w, req, repo)
		return
	}
	if path != "" {
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, repo, which string) {
	d, mediaType, content := r.manifest(repo, which)
	if content == nil {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	r.serveBytes(w, req, Manifests, content)
}

// serveTags answers with at most n tags that come after last, and says where there are more.
func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, repo string) {
	r.mu.Lock()
	at := r.repos[repo]
	var tags []string
	if at != nil {
		tags = slices.Sorted(maps.Keys(at.tags))
	}
	r.mu.Unlock()
	if at == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	query := req.URL.Query()
	from, _ := slices.BinarySearch(tags, query.Get("last")+"\x00")
	tags = tags[from:]
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n >= 0 && n < len(tags) {
		tags = tags[:n]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?last=%s&n=%d>; rel="next"`, repo, tags[n-1], n))
	}
	r.serveBytes(w, req, Manifests, encode(map[string]any{"name": repo, "tags": tags}))
}

func (r *Registry) manifest(repo, which string) (digest.Digest, string, []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.repos[repo]
	if at == nil {
		return "", "", nil
	}
	d, tagged := at.tags[which]
	if !tagged {
		d = digest.Digest(which)
	}
	if at.types[d] == "" {
		return "", "", nil
	}
	return d, at.types[d], at.blobs[d]
}

func (r *Registry) blob(repo string, d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.repos[repo]; at != nil {
		return at.blobs[d]
	}
	return nil
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, repo string, d digest.Digest) {
	content := r.blob(repo, d)
	if content == nil {
		if !r.refused(w, Blobs) {
			fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		}
		return
	}
	if status, url := r.elsewhere(repo, d); status != 0 {
		if !r.refused(w, Redirects) {
			w.Header().Set("Location", url)
			w.WriteHeader(status)
		}
		return
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	r.serveBytes(w, req, Blobs, content)
}

func (r *Registry) elsewhere(repo string, d digest.Digest) (status int, url string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	base := r.storage.URL + "/"
	if r.within {
		base = r.registry.URL + storagePath
	}
	return r.redirect, fmt.Sprintf("%s%s/%s?signature=%s", base, repo, d, r.signature)
}

// storagePath is what the registry itself has signed URLs below.
const storagePath = "/storage/"

// serveStorage does what an object store does with signed URLs: the signature
// is all, and a second kind of authentication beside it is refused.
func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	r.record("storage", req)
	if req.Header.Get("Authorization") != "" {
		http.Error(w, "only one authentication mechanism is allowed", http.StatusBadRequest)
		return
	}
	if req.Method == http.MethodPut {
		r.serveUpload(w, req)
		return
	}
	r.serveSigned(w, req, strings.TrimPrefix(req.URL.Path, "/"))
}

// serveSigned answers a request for REPO/DIGEST that has to be signed.
func (r *Registry) serveSigned(w http.ResponseWriter, req *http.Request, path string) {
	r.mu.Lock()
	good := req.URL.Query().Get("signature") == r.signature
	r.mu.Unlock()
	repo, d, _ := cutLast(path, "/")
	content := r.blob(repo, digest.Digest(d))
	switch {
	case !good:
		http.Error(w, "request has expired", http.StatusForbidden)
	case content == nil:
		http.NotFound(w, req)
	default:
		r.serveBytes(w, req, Blobs, content)
	}
}

// serveBytes answers with content or the range of it that is asked for, as far as faults allow.
func (r *Registry) serveBytes(w http.ResponseWriter, req *http.Request, part Part, content []byte) {
	if r.refused(w, part) {
		return
	}
	if req.Header.Get("Range") != "" {
		if f := r.take(part, RefuseRange); f.Kind != none {
			fail(w, f.Status, "FAULT")
			return
		}
	}
	fault := r.take(part, IgnoreRange, WrongRange, WrongTotal, ShortRange, Cut, Corrupt, Stall)
	lo, hi, ranged := parseRange(req.Header.Get("Range"), int64(len(content)))
	if fault.Kind == IgnoreRange {
		lo, hi, ranged = 0, int64(len(content)), false
	}
	if lo >= hi && ranged {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(content)))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if fault.Kind == ShortRange && ranged {
		hi = min(hi, lo+max(fault.After, 1))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(hi-lo, 10))
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", contentRange(fault.Kind, lo, hi, int64(len(content))))
	}
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		r.writeBody(w, req, fault, content[lo:hi])
	}
}

func contentRange(fault Kind, lo, hi, total int64) string {
	switch fault {
	case WrongRange:
		lo, hi = lo+1, hi+1
	case WrongTotal:
		total++
	}
	return fmt.Sprintf("bytes %d-%d/%d", lo, hi-1, total)
}

// parseRange understands the two forms of a single range that have a start.
func parseRange(header string, size int64) (lo, hi int64, ok bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	lo, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dash || err != nil {
		return 0, size, false
	}
	hi = size
	if last != "" {
		end, err := strconv.ParseInt(last, 10, 64)
		if err != nil || end < lo {
			return 0, size, false
		}
		hi = min(size, end+1)
	}
	return lo, hi, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"as the test wants it"}]}`, code)
}
