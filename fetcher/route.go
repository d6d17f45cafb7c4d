package fetcher

import (
	"context"
	"errors"
	"strings"
	"time"
)

// A route is where an image may be had from, in the order to ask: mirrors, and
// at last the registry itself.
type route []*session

// mirrorRest is how long a mirror that has failed is left alone.
const mirrorRest = 5 * time.Minute

// route returns where the image of a docker reference may be had from.
func (f *Fetcher) route(ref Reference) (route, error) {
	domain, path, _ := strings.Cut(ref.repository, "/")
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.endpoint(domain)
	if err != nil {
		return nil, err
	}
	return route{f.session(e, path)}, nil
}

// endpoint returns the registry of that name. The caller holds f.mu.
func (f *Fetcher) endpoint(name string) (*endpoint, error) {
	if e := f.endpoints[name]; e != nil {
		return e, nil
	}
	config, err := tlsConfig(f.opts.CertDir)
	if err != nil {
		return nil, err
	}
	e := f.newEndpoint(name, endpointConfig{insecure: f.insecure}, config)
	f.endpoints[name] = e
	return e, nil
}

// session returns the session for a repository at e. The caller holds f.mu.
func (f *Fetcher) session(e *endpoint, repo string) *session {
	key := sessionKey{e, repo}
	s := f.sessions[key]
	if s == nil {
		s = &session{endpoint: e, repo: repo}
		f.sessions[key] = s
	}
	return s
}

type sessionKey struct {
	endpoint *endpoint
	repo     string
}

// usable tells whether an endpoint has not failed as a mirror of late.
func (e *endpoint) usable() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed.IsZero() || e.f.now().Sub(e.failed) >= mirrorRest
}

// fail remembers that e has failed as a mirror. That it lacks something, or
// keeps it from us, is no failure.
func (e *endpoint) fail(err error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnauthorized) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = e.f.now()
	e.f.log.Warn("a mirror fails, and is left alone for a while", "mirror", e.name, "pause", mirrorRest, "error", err)
}

// try runs do for one place after the other, until one has what is wanted.
// Mirrors get one attempt each, the registry itself as many as it takes.
func (s *registrySource) try(ctx context.Context, what string, do func(*session, *retrier) error) error {
	registry := s.route[len(s.route)-1]
	for _, mirror := range s.route[:len(s.route)-1] {
		if !mirror.usable() {
			continue
		}
		retry := s.f.retrier(what)
		retry.once = true
		err := do(mirror, retry)
		if err == nil || ctx.Err() != nil {
			return err
		}
		mirror.fail(err)
	}
	return do(registry, s.f.retrier(what))
}
