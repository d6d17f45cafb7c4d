package fetcher

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// An origin is a scheme, a host and a port (RFC 6454): what credentials are
// for. Hosts are compared as they are written, but for upper case: a name with
// a dot at its end, or another spelling of an address, is another host.
type origin struct{ scheme, host, port string }

func originOf(u *url.URL) origin {
	o := origin{strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()}
	if o.port == "" {
		o.port = map[string]string{"http": "80", "https": "443"}[o.scheme]
	}
	return o
}

// isLoopback tells whether a host or host:port is this machine.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// isInside tells whether a host is an address that means something else to
// each who uses it: of this machine, of a private network, of a link, or of
// nobody.
func isInside(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()
}

// checkRealm decides whether a token server that a registry names may be asked
// at all, and whether it may be sent the credentials for the registry.
//
// It may be on any host and port: many registries have theirs elsewhere. But it
// has to be asked by HTTPS, unless the registry itself is asked by plain HTTP;
// then a realm by plain HTTP gets credentials on the registry's own host alone
// (loopback counts as one host). An address inside of a network is for
// registries inside: one on the Internet could otherwise make us ask what only
// we can reach.
func checkRealm(registry origin, realm *url.URL) (credentials bool, err error) {
	to := originOf(realm)
	switch {
	case to.scheme != "https" && to.scheme != "http" || to.host == "":
		return false, errors.New("its token server is not an HTTP URL")
	case realm.User != nil:
		return false, errors.New("its token server is a URL with a user in it")
	case to.scheme == "http" && registry.scheme == "https":
		return false, fmt.Errorf("its token server %s is to be asked by plain HTTP, the registry is not", to.host)
	case to.host != registry.host && isInside(to.host) && !isInside(registry.host):
		return false, fmt.Errorf("its token server %s is an address inside of a network, the registry is not", to.host)
	case to.scheme == "http":
		return to.host == registry.host || isLoopback(to.host) && isLoopback(registry.host), nil
	}
	return true, nil
}

// redirection returns where an answer leads to; nil if nowhere else. A user
// and a password in that URL are left out.
func redirection(u *url.URL, resp *http.Response) (*url.URL, error) {
	location := resp.Header.Get("Location")
	if resp.StatusCode/100 != 3 || location == "" {
		return nil, nil
	}
	return parseLocation(u, location)
}

// parseLocation returns where an answer of u says that something is.
func parseLocation(u *url.URL, location string) (*url.URL, error) {
	next, err := u.Parse(location)
	if err != nil || next.Scheme != "https" && next.Scheme != "http" || next.Hostname() == "" {
		return nil, fmt.Errorf("%s redirects to what is not a URL", u.Host)
	}
	next.User, next.Fragment = nil, ""
	return next, nil
}

// checkWritten decides whether something may be written where a registry has it
// go. An address inside of a network is for registries inside, as with token servers.
func checkWritten(registry origin, to *url.URL) error {
	if o := originOf(to); o.host != registry.host && isInside(o.host) && !isInside(registry.host) {
		return fmt.Errorf("%s has it written to %s, an address inside of a network, and is not at one itself", registry.host, o.host)
	}
	return nil
}
