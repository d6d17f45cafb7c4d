package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Bounds of one request.
const (
	maxRedirects = 5
	maxRenewals  = 2        // of credentials or of a redirect
	maxErrorBody = 64 << 10 // bytes of an error's body that are read
)

// A session is our authenticated relation to one repository at one endpoint.
type session struct {
	*endpoint
	repo   string   // path of the repository there
	refers bool     // it is trusted with what a tag names
	push   bool     // it is written to
	from   string   // path of another repository there, of which blobs may be mounted; "" is none
	file   *url.URL // not nil: this is no repository but a file, which is asked for without credentials
	group  singleflight.Group

	// mu protects the following.
	mu         sync.Mutex
	access     *access // nil before the first handshake
	generation int     // handshakes so far
}

// url returns the URL of a document or blob; kind is "manifests" or "blobs".
// It has no scheme: the handshake finds that out.
func (s *session) url(kind, which string) *url.URL {
	if s.file != nil {
		u := *s.file
		return &u
	}
	return s.endpoint.url("", "/"+s.repo+"/"+kind+"/"+which)
}

// A request is what is asked of a URL.
type request struct {
	method    string // "" means GET
	header    http.Header
	what      string               // for errors
	keepToken bool                 // a refusal does not mean that we need new credentials
	astray    bool                 // another server has led us there: no credentials, wherever it is
	length    int64                // of the body
	body      func() io.ReadCloser // a new one for each place that the request goes to; nil: none
}

// reads tells whether a request changes nothing where it goes to.
func (q request) reads() bool {
	return q.method == "" || q.method == http.MethodGet || q.method == http.MethodHead
}

// send makes one request to the registry with our credentials, or elsewhere
// without. Where the registry refuses the credentials, they are renewed.
func (s *session) send(ctx context.Context, u *url.URL, q request) (*http.Response, error) {
	if s.file != nil {
		return roundTrip(ctx, s.foreign, u, q)
	}
	for renewals := 0; ; renewals++ {
		a, generation, err := s.authenticated(ctx)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "" {
			u.Scheme = a.origin.scheme
		}
		if q.astray || originOf(u) != a.origin {
			return roundTrip(ctx, s.foreign, u, q)
		}
		resp, err := roundTrip(ctx, s.own, u, s.signed(q, a))
		if err != nil || !isRefusal(resp.StatusCode) || q.keepToken || renewals == maxRenewals {
			return resp, err
		}
		discard(resp)
		if err := s.renew(ctx, generation, challenges(resp.Header)); err != nil {
			return nil, err
		}
	}
}

// signed returns q with all that is for the registry alone.
func (s *session) signed(q request, a *access) request {
	h := q.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	for key, values := range s.header {
		h[key] = values
	}
	if a.authorization != "" {
		h.Set("Authorization", a.authorization)
	}
	q.header = h
	return q
}

func isRefusal(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// follow makes a request at u, and at all places it is redirected to. It
// returns the last answer, and where it came from. What has left the
// registry's origin once has no credentials any more, even if it comes back.
func (s *session) follow(ctx context.Context, u *url.URL, q request) (*http.Response, place, error) {
	at := place{url: u, astray: q.astray}
	for hops := 0; ; hops++ {
		q.astray = at.astray
		resp, err := s.send(ctx, at.url, q)
		if err != nil {
			return nil, at, err
		}
		next, err := redirection(at.url, resp)
		if err == nil && (next == nil || !q.reads() && !keepsMethod(resp.StatusCode)) {
			return resp, at, nil
		}
		discard(resp)
		if err == nil && !q.reads() {
			err = checkWritten(originOf(u), next)
		}
		if err == nil && hops == maxRedirects {
			err = fmt.Errorf("%s redirects more than %d times", s.name, maxRedirects)
		}
		if err != nil {
			return nil, at, fmt.Errorf("%s: %w", q.what, err)
		}
		at = place{url: next, redirected: true, astray: at.astray || originOf(next) != originOf(at.url)}
	}
}

// keepsMethod tells whether a redirect is to be followed with the request as it was (RFC 9110, section 15.4).
func keepsMethod(status int) bool {
	return status == http.StatusTemporaryRedirect || status == http.StatusPermanentRedirect
}

func roundTrip(ctx context.Context, rt http.RoundTripper, u *url.URL, q request) (*http.Response, error) {
	target := *u // transports change it
	req := (&http.Request{Method: q.method, URL: &target, Host: u.Host, Header: q.header.Clone()}).WithContext(ctx)
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if q.body != nil && q.length > 0 {
		req.Body, req.ContentLength = q.body(), q.length
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, connectionError(ctx, q.what, u.Host, err)
	}
	return resp, nil
}

// discard ends a response whose body is not wanted, so that its connection
// can be used again where the body is short.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, maxErrorBody)
	resp.Body.Close()
}

// errorCodes are those of the OCI distribution specification, and of docker's
// before it. Nothing else of an error's body is passed on: the server has been
// sent credentials, and could write them there.
var errorCodes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DENIED", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
	"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "MANIFEST_UNVERIFIED", "NAME_INVALID", "NAME_UNKNOWN", "PAGINATION_NUMBER_INVALID",
	"RANGE_INVALID", "SIZE_INVALID", "TAG_INVALID", "TOOMANYREQUESTS", "UNAUTHORIZED", "UNAVAILABLE", "UNKNOWN", "UNSUPPORTED",
}

// answerError makes an error of an answer that is none of those wanted, and
// ends it.
func (s *session) answerError(resp *http.Response, what string) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
	var doc struct{ Errors []struct{ Code string } }
	var code string
	if json.NewDecoder(bytes.NewReader(body)).Decode(&doc) == nil && len(doc.Errors) > 0 && slices.Contains(errorCodes, doc.Errors[0].Code) {
		code = doc.Errors[0].Code
	}
	return s.statusError(resp.StatusCode, code, retryAfter(resp.Header, s.f.now()), what)
}

// statusError makes an error of a status. The kinds follow the OCI
// distribution specification; registries answer 401 and 403 for repositories
// that do not exist, too.
func (s *session) statusError(status int, code string, after time.Duration, what string) error {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if code != "" {
		text += ", " + code
	}
	switch {
	case isRefusal(status) && s.file != nil:
		return errorf(ErrUnauthorized, "%s: %s refuses access (%s)", what, s.name, text)
	case isRefusal(status) && s.isLogin():
		return errorf(ErrUnauthorized, "registry %s refuses these credentials (%s)", s.name, text)
	case isRefusal(status):
		return errorf(ErrUnauthorized, "%s: registry %s refuses access (%s): the repository does not exist, or needs other credentials", what, s.name, text)
	case status == http.StatusNotFound && s.file != nil:
		return errorf(ErrNotFound, "%s: not found at %s", what, s.name)
	case status == http.StatusNotFound:
		return errorf(ErrNotFound, "%s: not found in registry %s", what, s.name)
	}
	err := fmt.Errorf("%s: %s answers %s", what, s.name, text)
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return &transient{err, after}
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return err
	}
	if status >= 500 {
		return &transient{err, after}
	}
	return err
}
