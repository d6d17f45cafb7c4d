package fetcher

import (
	"net/url"
	"slices"
)

// maxForeign bounds the URLs of one layer that are tried.
const maxForeign = 8

// foreignRoute returns where a foreign layer may be had from: its URLs, where
// that is allowed, and then the route to its registry, which may have it as well.
func (f *Fetcher) foreignRoute(urls []string, registry route) (route, error) {
	if !f.opts.AllowForeign {
		return registry, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all route
	for _, text := range urls[:min(len(urls), maxForeign)] {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && (u.Scheme != "http" || !f.insecure && !isLoopback(u.Host)) {
			f.log.Warn("a foreign layer has a URL that is not asked: it is not HTTPS")
			continue
		}
		u.User, u.Fragment = nil, ""
		s, err := f.fileSession(u)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return slices.Concat(all, registry), nil
}
