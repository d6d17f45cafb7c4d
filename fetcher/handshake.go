package fetcher

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"

	"github.com/docker/cli/cli/config/types"
)

// An access is what a handshake has come to: how a registry is spoken to.
type access struct {
	origin        origin // whom the authorization is for
	authorization string // header; "" where none is needed or had
}

// handshake asks the registry what authentication it wants, finds the
// credentials, and gets a token where one is needed. Refused are the challenges
// of a request that the registry has refused since, if it has.
func (s *session) handshake(ctx context.Context, refused []challenge) (*access, error) {
	creds, err := s.f.credentials(ctx, s.endpoint, s.repo)
	if err != nil {
		return nil, err
	}
	return s.handshakeWith(ctx, refused, creds)
}

func (s *session) handshakeWith(ctx context.Context, refused []challenge, creds types.AuthConfig) (*access, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.f.stall, errStalled) // a helper may have asked its user, and taken longer
	defer cancel()
	p, err := s.ping(ctx)
	if err != nil {
		return nil, err
	}
	wanted := p.challenges
	if len(wanted) == 0 {
		wanted = refused
	} else if len(refused) > 0 && refused[0].params["scope"] != "" {
		wanted[0].params["scope"] = refused[0].params["scope"] // it knows better what the request takes
	}
	if p.astray && creds != (types.AuthConfig{}) {
		if s.isLogin() {
			return nil, errorf(ErrUnauthorized, "registry %s is sent no credentials: it redirects the first contact elsewhere", s.name)
		}
		s.f.log.Warn("a registry is used without credentials: it redirects the first contact elsewhere", "registry", s.name)
		creds = types.AuthConfig{}
	}
	header, err := s.authorization(ctx, p.origin, wanted, creds)
	if err != nil {
		return nil, err
	}
	return &access{p.origin, header}, nil
}

// A pong is the answer to the first contact.
type pong struct {
	origin     origin // of the registry
	astray     bool   // it is another server that has answered
	challenges []challenge
}

// ping makes the first contact, without credentials. Plain HTTP is tried where
// it may be, and where nobody speaks TLS; not where TLS fails, and not where it
// has been spoken before.
func (s *session) ping(ctx context.Context) (*pong, error) {
	var last error
	for _, scheme := range s.schemes() {
		p, err := s.pingAt(ctx, s.endpoint.url(scheme, "/"))
		if err == nil {
			s.speak(scheme)
			return p, nil
		}
		if !isNotTLS(err) || ctx.Err() != nil {
			return nil, err
		}
		last = err
	}
	return nil, last
}

// isNotTLS tells whether an error of the first contact says that nobody
// listens, or somebody who hangs up or talks of something else; or that a
// proxy connects nobody there, which it may well do for plain HTTP.
func isNotTLS(err error) bool {
	if !errors.As(err, new(*contactError)) {
		return false
	}
	for _, kind := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, io.EOF, errTunnel} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return errors.As(err, new(tls.RecordHeaderError))
}

// A contactError says that no answer came at all.
type contactError struct{ err error }

func (e *contactError) Error() string { return e.err.Error() }
func (e *contactError) Unwrap() error { return e.err }

func (s *session) pingAt(ctx context.Context, u *url.URL) (*pong, error) {
	p := &pong{origin: originOf(u)}
	for hops := 0; ; hops++ {
		rt, q := s.own, request{header: s.header, what: s.firstContact()}
		if p.astray {
			rt, q.header = s.foreign, nil
		}
		resp, err := roundTrip(ctx, rt, u, q)
		if err != nil {
			return nil, &contactError{err}
		}
		next, err := redirection(u, resp)
		if err == nil && next == nil {
			return p, s.readPong(resp, p)
		}
		discard(resp)
		if err == nil && hops == maxRedirects {
			err = fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.firstContact(), err)
		}
		u = next
		p.astray = p.astray || originOf(u) != p.origin
	}
}

func (s *session) readPong(resp *http.Response, p *pong) error {
	defer discard(resp)
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusUnauthorized:
		p.challenges = challenges(resp.Header)
		return nil
	case resp.StatusCode == http.StatusNotFound && s.root != "/v2":
		return nil // a place inside of a registry's API need not have a front door
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s does not answer as a registry does (404 Not Found)", s.name)
	case resp.StatusCode == http.StatusBadRequest && p.origin.scheme == "http" && s.scheme == "":
		// It is what servers of TLS say to plain HTTP. This one has failed to speak it for a moment.
		return &transient{err: fmt.Errorf("%s: %s refuses plain HTTP (400 Bad Request)", s.firstContact(), s.name)}
	}
	return s.statusError(resp.StatusCode, "", retryAfter(resp.Header, s.f.now()), s.firstContact())
}

// isLogin tells whether the session is for no repository, but to see whether credentials are good.
func (s *session) isLogin() bool { return s.repo == "" && s.file == nil }

// firstContact names the handshake in errors.
func (s *session) firstContact() string {
	if s.isLogin() {
		return "first contact with " + s.name
	}
	return "first contact for " + s.name + "/" + s.repo
}

// renew makes the handshake anew, unless that has happened since generation.
// All who come while one is under way wait for it. It runs on its own time, so
// that it does not fail the others when the one who started it goes away.
func (s *session) renew(ctx context.Context, generation int, refused []challenge) error {
	done := s.group.DoChan("", func() (any, error) {
		if _, now := s.current(); now != generation {
			return nil, nil
		}
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.f.timeout, errStalled)
		defer cancel()
		a, err := s.handshake(ctx, refused)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.access = a
		s.generation++
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return connectionError(ctx, s.firstContact(), s.name, nil)
	}
}

// authenticated returns what the latest handshake has come to.
func (s *session) authenticated(ctx context.Context) (*access, int, error) {
	if a, generation := s.current(); a != nil {
		return a, generation, nil
	}
	if err := s.renew(ctx, 0, nil); err != nil {
		return nil, 0, err
	}
	a, generation := s.current()
	return a, generation, nil
}

func (s *session) current() (*access, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access, s.generation
}
