package testimage

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// uploads is how a registry takes blobs.
type uploads struct {
	begun     int  // so far
	elsewhere bool // they go to storage
	unmounted bool // blobs of other repositories are not mounted
	redirect  int  // status of the redirect that the first place of an upload answers with; 0: none
}

// UploadToStorage has blobs sent to the storage, at a URL that is signed.
func (r *Registry) UploadToStorage() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploads.elsewhere = true
}

// RedirectUploads answers who sends a blob with a redirect to another place of the registry.
func (r *Registry) RedirectUploads(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploads.redirect = status
}

// RefuseMounts begins an upload where a blob of another repository is to be mounted.
func (r *Registry) RefuseMounts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploads.unmounted = true
}

// Pushed returns what a tag of a repository names, with all that the repository has.
func (r *Registry) Pushed(repo, tag string) Bundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := newBundle()
	at := r.repos[repo]
	if at == nil {
		return b
	}
	for d, content := range at.blobs {
		b.Blobs[d] = content
	}
	for d, mediaType := range at.types {
		b.Types[d] = mediaType
	}
	d := at.tags[tag]
	b.Root = v1.Descriptor{MediaType: at.types[d], Digest: d, Size: int64(len(at.blobs[d]))}
	return b
}

// serveWrite answers a request that writes, and tells whether it is one.
func (r *Registry) serveWrite(w http.ResponseWriter, req *http.Request, path string) bool {
	repo, upload, isUpload := cutLast(path, "/blobs/uploads/")
	at, which, isManifest := cutLast(path, "/manifests/")
	switch {
	case isUpload && req.Method == http.MethodPost && upload == "":
		r.beginUpload(w, req, repo)
	case isUpload && req.Method == http.MethodPut:
		r.serveUpload(w, req)
	case isManifest && req.Method == http.MethodPut:
		r.serveManifestWrite(w, req, at, which)
	default:
		return false
	}
	return true
}

func (r *Registry) beginUpload(w http.ResponseWriter, req *http.Request, repo string) {
	if r.refused(w, Uploads) {
		return
	}
	d, from := digest.Digest(req.URL.Query().Get("mount")), req.URL.Query().Get("from")
	if content := r.blob(from, d); content != nil && r.mount(repo, d, content) {
		w.Header().Set("Docker-Content-Digest", d.String())
		w.WriteHeader(http.StatusCreated)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uploads.begun++
	location := fmt.Sprintf("/v2/%s/blobs/uploads/%d?state=a%%2Fb&signature=%s", repo, r.uploads.begun, r.signature)
	if r.uploads.elsewhere {
		location = r.storage.URL + location
	}
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusAccepted)
}

func (r *Registry) mount(repo string, d digest.Digest, content []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.uploads.unmounted {
		return false
	}
	r.repo(repo).blobs[d] = content
	return true
}

// serveUpload takes a blob that is sent in one request to a place that an upload was given.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request) {
	repo, upload, _ := cutLast(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/uploads/")
	query := req.URL.Query()
	r.mu.Lock()
	good := query.Get("signature") == r.signature && query.Get("state") == "a/b"
	redirect := r.uploads.redirect
	r.mu.Unlock()
	if !good {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	}
	if redirect != 0 && !strings.HasPrefix(upload, "moved-") {
		w.Header().Set("Location", fmt.Sprintf("moved-%s?state=a%%2Fb&signature=%s", upload, query.Get("signature")))
		w.WriteHeader(redirect)
		return
	}
	if r.refused(w, UploadBodies) {
		return
	}
	content, ok := r.readUpload(w, req)
	if !ok {
		return
	}
	d := digest.Digest(query.Get("digest"))
	if d.Validate() != nil || d.Algorithm().FromBytes(content) != d {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	r.mu.Lock()
	r.repo(repo).blobs[d] = content
	r.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// readUpload reads the body of a request, as far as faults allow.
func (r *Registry) readUpload(w http.ResponseWriter, req *http.Request) ([]byte, bool) {
	f := r.take(UploadBodies, Cut, Stall)
	if f.Kind == none {
		content, err := io.ReadAll(req.Body)
		return content, err == nil
	}
	head, err := io.ReadAll(io.LimitReader(req.Body, f.After))
	if err == nil && f.Kind == Stall && r.untilHealed(req) {
		rest, err := io.ReadAll(req.Body)
		return append(head, rest...), err == nil
	}
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		conn.Close()
	}
	return nil, false
}

// serveManifestWrite takes a manifest, if all is there that it refers to.
func (r *Registry) serveManifestWrite(w http.ResponseWriter, req *http.Request, repo, which string) {
	if r.refused(w, Manifests) {
		return
	}
	content, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	var doc struct {
		Config            *v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if json.Unmarshal(content, &doc) != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	d := digest.FromBytes(content)
	if given := digest.Digest(which); given.Validate() == nil {
		d = given.Algorithm().FromBytes(content)
		if d != given {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID")
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.repo(repo)
	for _, needed := range append(doc.Layers, doc.Manifests...) {
		if at.blobs[needed.Digest] == nil && len(needed.URLs) == 0 {
			fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	at.blobs[d], at.types[d] = content, req.Header.Get("Content-Type")
	if digest.Digest(which) != d {
		at.tags[which] = d
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}
