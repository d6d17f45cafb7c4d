package fetcher

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A route is where an image may be had from, in the order to ask: mirrors, and
// at last the registry itself.
type route []*session

// mirrorRest is how long a mirror that has failed is left alone.
const mirrorRest = 5 * time.Minute

// route returns where the image of a docker reference may be had from: what
// registries.conf says of it, or else hosts.toml, or else its registry.
func (f *Fetcher) route(ref Reference) (route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.registries == nil {
		all, err := f.paths.loadRegistries(f.log)
		if err != nil {
			return nil, err
		}
		f.registries = append([]registryConf{}, all...)
	}
	if r := findRegistry(f.registries, ref.Name()); r != nil {
		return f.routeOfRegistry(r, ref)
	}
	domain, path, _ := strings.Cut(ref.repository, "/")
	h, err := f.paths.hostsFile(domain)
	if err != nil {
		return nil, err
	}
	if h != nil {
		return f.routeOfHosts(h, domain, path)
	}
	s, err := f.namedSession(ref, endpointConfig{})
	return route{s}, err
}

func (f *Fetcher) routeOfRegistry(r *registryConf, ref Reference) (route, error) {
	if r.Blocked {
		return nil, fmt.Errorf("%s is blocked: %s says so of %s", ref.Name(), r.file, r.Prefix)
	}
	var all route
	for _, m := range r.Mirrors {
		if m.Pull == pullDigestOnly && ref.digest == "" || m.Pull == pullTagOnly && ref.digest != "" {
			continue
		}
		at, err := r.rewrite(ref, m.Location)
		if err != nil {
			return nil, err
		}
		s, err := f.namedSession(at, endpointConfig{insecure: m.Insecure, mirror: true})
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	at, err := r.rewrite(ref, r.Location)
	if err != nil {
		return nil, err
	}
	host, _, _ := strings.Cut(at.repository, "/")
	asked, _, _ := strings.Cut(ref.repository, "/")
	moved := apiHost(host) != apiHost(asked)
	s, err := f.namedSession(at, endpointConfig{insecure: r.Insecure, mirror: moved})
	return append(all, s), err
}

func (f *Fetcher) routeOfHosts(h *hostsFile, registry, repo string) (route, error) {
	var all route
	for i := range h.hosts {
		conf := &h.hosts[i]
		if !conf.can("pull") {
			continue
		}
		s, err := f.hostSession(h, conf, registry, repo)
		if err != nil {
			return nil, errorf(ErrOptions, "hosts of %s: %s: %v", registry, h.path, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errorf(ErrOptions, "hosts of %s: %s has no host to pull from", registry, h.path)
	}
	return all, nil
}

func (f *Fetcher) hostSession(h *hostsFile, conf *hostConf, registry, repo string) (*session, error) {
	host, c, err := conf.place(registry)
	if err != nil {
		return nil, err
	}
	files, err := conf.certs(filepath.Dir(h.path))
	if err == nil && conf.CA == nil && conf.Client == nil {
		files, err = f.certs(host, c.mirror)
	}
	if err != nil {
		return nil, err
	}
	e, err := f.endpoint(h.path+" "+conf.URL+" "+registry, host, c, files)
	if err != nil {
		return nil, err
	}
	s := f.session(e, repo)
	s.refers = conf.can("resolve")
	return s, nil
}

// namedSession returns the session of an endpoint without a configuration of its own.
func (f *Fetcher) namedSession(ref Reference, c endpointConfig) (*session, error) {
	domain, path, _ := strings.Cut(ref.repository, "/")
	files, err := f.certs(domain, c.mirror)
	if err != nil {
		return nil, errorf(ErrOptions, "%s: %v", domain, err)
	}
	e, err := f.endpoint(fmt.Sprintf("%s %v %v", domain, c.insecure, c.mirror), domain, c, files)
	if err != nil {
		return nil, err
	}
	s := f.session(e, path)
	s.refers = true
	return s, nil
}

// endpoint returns the endpoint that is known by key, and makes it if there is
// none yet. The caller holds f.mu.
func (f *Fetcher) endpoint(key, name string, c endpointConfig, files certFiles) (*endpoint, error) {
	if e := f.endpoints[key]; e != nil {
		return e, nil
	}
	config, err := files.load()
	if err != nil {
		return nil, errorf(ErrOptions, "%s: %v", name, err)
	}
	c.insecure = c.insecure || f.insecure
	e := f.newEndpoint(name, c, config)
	f.endpoints[key] = e
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

// failure returns when an endpoint has failed last, if it has not served since,
// and whether that is so long ago that it may be asked like others.
func (e *endpoint) failure() (at time.Time, usable bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.failed, e.failed.IsZero() || e.f.now().Sub(e.failed) >= mirrorRest
}

func (e *endpoint) usable() bool {
	_, usable := e.failure()
	return usable
}

// fail remembers that e has failed. That it lacks something, or keeps it from
// us, is no failure.
func (e *endpoint) fail(err error) {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnauthorized) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.f.now()
	if e.mirror && (e.failed.IsZero() || now.Sub(e.failed) >= mirrorRest) {
		e.f.log.Warn("a mirror fails, and is left alone for a while", "mirror", e.name, "pause", mirrorRest, "error", err)
	}
	e.failed = now
}

// serve remembers that e has served.
func (e *endpoint) serve() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = time.Time{}
}

// try runs do for one place after the other, until one has what is wanted, and
// again after a pause where that may help. What a tag names is asked only of
// those that are trusted with it.
func (s *registrySource) try(ctx context.Context, what string, byTag bool, do func(*session, *retrier) error) error {
	retry, places := s.f.command(what), s.route
	if byTag {
		places = slices.DeleteFunc(slices.Clone(places), func(at *session) bool { return !at.refers })
	}
	switch len(places) {
	case 0:
		return errorf(ErrOptions, "%s: by the configuration of its registry nobody may be asked what a tag names", what)
	case 1:
		return do(places[0], retry)
	}
	for all := false; ; all = true {
		began := s.f.now()
		err := s.tryOnce(ctx, what, places, all, do)
		if err == nil {
			return nil
		}
		retry.spend(s.f.now().Sub(began))
		if err := retry.again(ctx, err); err != nil {
			return err
		}
	}
}

// tryOnce runs do once for each place; for mirrors that have failed of late
// only if all is set. The error is that of the registry itself. It is one that may pass
// where that of a mirror may: there are networks that have nothing but mirrors.
func (s *registrySource) tryOnce(ctx context.Context, what string, places route, all bool, do func(*session, *retrier) error) error {
	hope := false
	for i, at := range places {
		registry := i == len(places)-1
		switch {
		case registry:
		case !all && !at.usable():
			hope = true
			continue
		}
		retry := s.f.retrier(what)
		retry.once = true
		err := do(at, retry)
		switch {
		case err == nil:
			at.serve()
			return nil
		case registry && hope && isLasting(err):
			return &transient{err: err}
		case registry || ctx.Err() != nil:
			return err
		}
		at.fail(err)
		var t *transient
		hope = hope || errors.As(err, &t)
	}
	return nil
}
