package testimage

import (
	"fmt"
	"net/http"
	"slices"
)

// A Part of a registry is what a fault strikes.
type Part int

// Parts.
const (
	Pings        Part = iota // GET /v2/
	Tokens                   // the token endpoint
	Manifests                // documents by tag or digest
	Blobs                    // bytes of blobs and configs, from the registry or its storage
	Redirects                // the answer that leads to storage
	Uploads                  // the request that begins an upload
	UploadBodies             // the blob that is uploaded
)

// A Kind of fault.
type Kind int

// Kinds. All but Refuse strike requests that would have been answered with bytes, and Cut and Stall uploads as well.
const (
	none        Kind = iota
	Refuse           // answers with Status, and Retry-After where it is set
	RefuseRange      // answers a request for a range with Status
	IgnoreRange      // answers 200 and everything to a request for a range
	WrongRange       // says in Content-Range that the bytes are from one further on
	WrongTotal       // says in Content-Range that the blob is a byte longer
	ShortRange       // answers with a correct range of at most After bytes
	Cut              // breaks the connection after After bytes of the body
	Corrupt          // flips a bit of the byte at After
	Stall            // sends nothing after After bytes until Heal, where there is more to send
)

// A Fault is something a registry does wrong.
type Fault struct {
	On         Part
	Kind       Kind
	Times      int // requests to strike; 0 means all until Heal
	Status     int
	RetryAfter string
	After      int64
}

// Inject adds a fault. Of several that fit a request the first one strikes.
func (r *Registry) Inject(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
}

// Heal removes all faults, and lets stalled requests go on.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
	close(r.healed)
	r.healed = make(chan struct{})
}

// Hits returns how many requests a kind of fault has struck.
func (r *Registry) Hits(k Kind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hits[k]
}

// take returns the fault of one of the kinds that strikes the next request for part.
func (r *Registry) take(part Part, kinds ...Kind) Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, f := range r.faults {
		if f.On != part || !slices.Contains(kinds, f.Kind) {
			continue
		}
		r.hits[f.Kind]++
		if f.Times == 1 {
			r.faults = slices.Delete(r.faults, i, i+1)
		}
		f.Times--
		return *f
	}
	return Fault{}
}

// refused answers for part where it is to be refused.
func (r *Registry) refused(w http.ResponseWriter, part Part) bool {
	f := r.take(part, Refuse)
	if f.Kind == none {
		return false
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	fail(w, f.Status, "FAULT")
	return true
}

// writeBody writes a body that fault may spoil. A body that ends before its
// Content-Length makes the server break the connection.
func (r *Registry) writeBody(w http.ResponseWriter, req *http.Request, fault Fault, body []byte) {
	head := min(max(fault.After, 0), int64(len(body)))
	switch fault.Kind {
	case Cut:
		body = body[:head]
	case Corrupt:
		body = slices.Clone(body)
		if head < int64(len(body)) {
			body[head] ^= 1
		}
	case Stall:
		if head < int64(len(body)) { // or else its connection, which the client takes for free, would answer nothing more
			body = r.stall(w, req, body, head)
		}
	}
	w.Write(body)
}

// stall writes head bytes, waits, and returns the rest.
func (r *Registry) stall(w http.ResponseWriter, req *http.Request, body []byte, head int64) []byte {
	w.Write(body[:head])
	http.NewResponseController(w).Flush()
	if r.untilHealed(req) {
		return body[head:]
	}
	return nil
}

// untilHealed waits for Heal, and tells whether that came before the end of the request.
func (r *Registry) untilHealed(req *http.Request) bool {
	r.mu.Lock()
	healed := r.healed
	r.mu.Unlock()
	select {
	case <-healed:
		return true
	case <-req.Context().Done():
		return false
	}
}

type authMode int

const (
	open authMode = iota
	basic
	bearer
)

// RequireBasic asks every request for a user and a password.
func (r *Registry) RequireBasic(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth, r.user, r.secret = basic, user, password
}

// RequireBearer asks every request for a token. The token endpoint gives it
// to that user, or to whoever has the password as an identity token, or to
// anybody where user is "".
func (r *Registry) RequireBearer(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth, r.user, r.secret = bearer, user, password
}

// ExpireTokens makes all tokens handed out so far worthless.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

// RedirectBlobs answers requests for blobs with a redirect to storage, to a
// URL that is signed. Status 0 ends it.
func (r *Registry) RedirectBlobs(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirect, r.within = status, false
}

// RedirectBlobsWithin is like RedirectBlobs, but the signed URL is on the
// registry's own host and port. It asks for no other authentication.
func (r *Registry) RedirectBlobsWithin(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirect, r.within = status, true
}

// ExpireURLs makes all URLs that redirects have led to worthless.
func (r *Registry) ExpireURLs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.minted++
	r.signature = fmt.Sprintf("sig-%d", r.minted)
}

func (r *Registry) authorized(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, password, _ := req.BasicAuth()
	switch {
	case r.auth == open,
		r.auth == basic && user == r.user && password == r.secret,
		r.auth == bearer && r.tokens[req.Header.Get("Authorization")]:
		return true
	case r.auth == basic:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	case r.auth == bearer:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.registry.URL))
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

// serveToken is the token endpoint of the distribution project's token authentication.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	if r.refused(w, Tokens) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	user, password, _ := req.BasicAuth()
	known := r.user == "" || user == r.user && password == r.secret || req.PostFormValue("refresh_token") == r.secret
	if !known {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	r.minted++
	token := fmt.Sprintf("token-%d", r.minted)
	r.tokens["Bearer "+token] = true
	fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
}
