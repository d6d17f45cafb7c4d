package fetcher

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/docker/cli/cli/config/types"
)

// A Login is where credentials are kept.
type Login struct {
	Registry string // and a repository below it, where they are for that alone
	Where    string // the file, or the helper
}

// Login checks credentials against a registry, HOST[:PORT], and stores them: in
// the first of the files with credentials that has some for it already or names
// a helper, or else in the first that can be written. HOST[:PORT]/PATH
// stores them for the repositories below that. Errors wrap ErrUnauthorized
// where the registry refuses the credentials.
func (f *Fetcher) Login(ctx context.Context, registry, user, password string) (*Login, error) {
	host, key, err := parseRegistry(registry)
	if err != nil {
		return nil, err
	}
	if user == "" || password == "" || strings.Contains(user, ":") {
		return nil, errorf(ErrOptions, "a user, without a colon in the name, and a password are needed")
	}
	creds := types.AuthConfig{Username: user, Password: password}
	if err := f.checkLogin(ctx, host, creds); err != nil {
		return nil, err
	}
	where, err := f.keep(ctx, host, key, creds)
	return &Login{key, where}, err
}

// Logout forgets what the first of the files with credentials that has some for
// a registry has for it, under whichever of its names, or what that file's helper has. It returns where that was, and where there is more. The
// error wraps ErrNotFound where there is nothing.
func (f *Fetcher) Logout(ctx context.Context, registry string) (*Login, []string, error) {
	host, key, err := parseRegistry(registry)
	if err != nil {
		return nil, nil, err
	}
	var forgot *Login
	var more []string
	for _, file := range f.authFiles {
		all, err := file.stored(ctx, host, key)
		if err != nil {
			return nil, nil, fmt.Errorf("credentials file %s: %w", file.path, err)
		}
		for _, k := range all {
			if forgot != nil {
				more = append(more, k.where)
				continue
			}
			if err := k.forget(); err != nil {
				return nil, nil, fmt.Errorf("credentials file %s: %w", file.path, err)
			}
			forgot = &Login{key, k.where}
		}
	}
	if forgot == nil {
		return nil, nil, errorf(ErrNotFound, "no credentials for %s are stored", key)
	}
	return forgot, more, nil
}

// parseRegistry parses HOST[:PORT][/PATH], and returns the host, and the key
// that credentials for it are stored under.
func parseRegistry(s string) (host, key string, err error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://"), "/")
	host, path, below := strings.Cut(s, "/")
	if isHub(host) {
		host = hub
		if path == "v1" || path == "v2" { // docker's URL of the Hub
			below = false
		}
	}
	if !domainPattern.MatchString(host) || below && !repositoryPattern.MatchString(path) {
		return "", "", errorf(ErrReference, "%q is not a registry: it has to be HOST[:PORT]", printable(s))
	}
	if below {
		return host, host + "/" + path, nil
	}
	return host, host, nil
}

// checkLogin asks a registry for nothing, with credentials.
func (f *Fetcher) checkLogin(ctx context.Context, registry string, creds types.AuthConfig) error {
	e, err := f.registryEndpoint(Reference{transport: "docker", repository: registry + "/any", tag: defaultTag})
	if err != nil {
		return err
	}
	s := &session{endpoint: e}
	retry := f.command(s.firstContact())
	for {
		err := s.checkOnce(ctx, retry, creds)
		if err == nil {
			return nil
		}
		if err := retry.again(ctx, err); err != nil {
			return err
		}
	}
}

// registryEndpoint returns the registry of ref as configurations have it, without mirrors, and without places that they
// have it moved to.
func (f *Fetcher) registryEndpoint(ref Reference) (*endpoint, error) {
	r, err := f.route(ref)
	if err != nil {
		return nil, err
	}
	if e := r[len(r)-1].endpoint; !e.mirror {
		return e, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.namedSession(ref, endpointConfig{})
	if err != nil {
		return nil, err
	}
	return s.endpoint, nil
}

func (s *session) checkOnce(ctx context.Context, retry *retrier, creds types.AuthConfig) error {
	w := retry.watch(ctx)
	defer w.stop()
	a, err := s.handshakeWith(w.ctx, nil, creds)
	if err != nil {
		return err
	}
	if a.authorization == "" {
		s.f.log.Warn("the registry does not ask for credentials: they cannot be checked", "registry", s.name)
		return nil
	}
	q := s.signed(request{what: s.firstContact()}, a)
	resp, err := roundTrip(w.ctx, s.own, s.endpoint.url(a.origin.scheme, "/"), q)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		discard(resp)
		return nil
	}
	return s.answerError(resp, s.firstContact())
}
