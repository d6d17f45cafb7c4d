package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

// Bounds of one request.
const (
	maxRedirects = 5
	maxRenewals  = 2        // of credentials or of a redirect
	maxErrorBody = 64 << 10 // bytes of an error's body that are read
)

// A session is our authenticated relation to one repository.
type session struct {
	f     *Fetcher
	repo  name.Repository
	group singleflight.Group

	// mu protects the following.
	mu         sync.Mutex
	rt         http.RoundTripper // nil before the first handshake
	generation int               // handshakes so far
}

func (f *Fetcher) session(ref Reference) (*session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[ref.repository]; s != nil {
		return s, nil
	}
	repo, err := ref.registryRepository(f.insecure)
	if err != nil {
		return nil, err
	}
	s := &session{f: f, repo: repo}
	f.sessions[ref.repository] = s
	return s, nil
}

func (s *session) host() string { return s.repo.RegistryStr() }

// url returns the URL of a document or blob; kind is "manifests" or "blobs".
// The transport puts in the scheme that the registry speaks.
func (s *session) url(kind, which string) *url.URL {
	return &url.URL{Scheme: s.repo.Scheme(), Host: s.host(), Path: "/v2/" + s.repo.RepositoryStr() + "/" + kind + "/" + which}
}

// authenticated returns the transport that was made by the latest handshake.
func (s *session) authenticated(ctx context.Context) (http.RoundTripper, int, error) {
	if rt, generation := s.current(); rt != nil {
		return rt, generation, nil
	}
	if err := s.renew(ctx, 0); err != nil {
		return nil, 0, err
	}
	rt, generation := s.current()
	return rt, generation, nil
}

func (s *session) current() (http.RoundTripper, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rt, s.generation
}

// renew makes the handshake anew, unless that has happened since generation.
// All who come while one is under way wait for it. It runs on its own time, so
// that it does not fail the others when the one who started it goes away.
func (s *session) renew(ctx context.Context, generation int) error {
	done := s.group.DoChan("", func() (any, error) {
		if _, now := s.current(); now != generation {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.f.timeout)
		defer cancel()
		rt, err := s.handshake(ctx)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rt = rt
		s.generation++
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return connectionError(ctx, s.authentication(), s.host(), nil)
	}
}

// handshake asks the registry what authentication it wants, finds the
// credentials, and gets a token where one is needed.
func (s *session) handshake(ctx context.Context) (http.RoundTripper, error) {
	auth, err := s.f.credentials(ctx, s.repo)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.f.stall) // a helper may have asked its user, and taken longer
	defer cancel()
	w := &wire{f: s.f, host: s.host()}
	base := transport.NewUserAgent(w, "")
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, auth, base, []string{s.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, s.handshakeError(ctx, err, time.Duration(w.after.Load()))
	}
	return rt, nil
}

// handshakeError sorts the errors of a handshake. It does not pass on what
// the registry or its token server wrote: they have been sent credentials, and
// the answer of a token server may hold a token. After is the pause that
// either has asked for.
func (s *session) handshakeError(ctx context.Context, err error, after time.Duration) error {
	if isLasting(err) {
		return connectionError(ctx, s.authentication(), s.host(), err)
	}
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s does not answer as a registry does (404 Not Found)", s.host())
	}
	if answer != nil {
		return s.statusError(answer.StatusCode, "", after, s.authentication())
	}
	if ctx.Err() == context.DeadlineExceeded {
		return &transient{err: fmt.Errorf("%s: no answer in %v", s.host(), s.f.stall)}
	}
	var u *url.Error
	if errors.As(err, &u) {
		return connectionError(ctx, s.authentication(), s.host(), err)
	}
	return fmt.Errorf("%s: the registry's authentication makes no sense: %s", s.host(), printable(err.Error()))
}

// authentication names the handshake in errors.
func (s *session) authentication() string { return "first contact for " + s.repo.String() }

// A request is what is asked of a URL.
type request struct {
	method    string // "" means GET
	header    http.Header
	what      string // for errors
	keepToken bool   // a refusal does not mean that we need new credentials
}

// send makes one request to the registry with our credentials, or elsewhere
// without. Where the registry refuses the credentials, they are renewed.
func (s *session) send(ctx context.Context, u *url.URL, q request) (*http.Response, error) {
	if u.Host != s.host() {
		return roundTrip(ctx, s.f.foreign, u, q)
	}
	for renewals := 0; ; renewals++ {
		rt, generation, err := s.authenticated(ctx)
		if err != nil {
			return nil, err
		}
		resp, err := roundTrip(ctx, rt, u, q)
		if err != nil || !isRefusal(resp.StatusCode) || q.keepToken || renewals == maxRenewals {
			return resp, err
		}
		discard(resp)
		if err := s.renew(ctx, generation); err != nil {
			return nil, err
		}
	}
}

func isRefusal(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// follow makes a request at u, and at all places it is redirected to. It
// returns the last answer, and where it came from.
func (s *session) follow(ctx context.Context, u *url.URL, q request) (*http.Response, *url.URL, error) {
	for hops := 0; ; hops++ {
		resp, err := s.send(ctx, u, q)
		if err != nil {
			return nil, nil, err
		}
		location := resp.Header.Get("Location")
		if resp.StatusCode/100 != 3 || location == "" {
			return resp, u, nil
		}
		discard(resp)
		next, err := u.Parse(location)
		if err != nil || next.Scheme != "https" && next.Scheme != "http" || next.Host == "" {
			return nil, nil, fmt.Errorf("%s: %s redirects to what is not a URL", q.what, u.Host)
		}
		if hops == maxRedirects {
			return nil, nil, fmt.Errorf("%s: %s redirects more than %d times", q.what, s.host(), maxRedirects)
		}
		next.User, next.Fragment = nil, ""
		u = next
	}
}

func roundTrip(ctx context.Context, rt http.RoundTripper, u *url.URL, q request) (*http.Response, error) {
	target := *u // transports change it
	req := (&http.Request{Method: q.method, URL: &target, Host: u.Host, Header: q.header.Clone()}).WithContext(ctx)
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

var errorCode = regexp.MustCompile(`^[A-Z_]{1,40}$`)

// answerError makes an error of an answer that is none of those wanted, and
// ends it. Of the body it takes the code alone.
func (s *session) answerError(resp *http.Response, what string) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
	var doc struct{ Errors []struct{ Code string } }
	var code string
	if json.NewDecoder(bytes.NewReader(body)).Decode(&doc) == nil && len(doc.Errors) > 0 && errorCode.MatchString(doc.Errors[0].Code) {
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
	case isRefusal(status):
		return errorf(ErrUnauthorized, "%s: registry %s refuses access (%s): the repository does not exist, or needs other credentials", what, s.host(), text)
	case status == http.StatusNotFound:
		return errorf(ErrNotFound, "%s: not found in registry %s", what, s.host())
	}
	err := fmt.Errorf("%s: registry %s answers %s", what, s.host(), text)
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
