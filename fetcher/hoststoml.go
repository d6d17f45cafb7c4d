package fetcher

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A hostsFile is containerd's hosts.toml for one registry
// (github.com/containerd/containerd, docs/hosts.md): hosts in the order to ask.
type hostsFile struct {
	path  string
	hosts []hostConf
}

// A hostConf is one host of it.
type hostConf struct {
	URL          string   `toml:"-"` // "" for the registry itself
	Capabilities []string // pull, resolve, push, referrers; none is all
	CA           any      // a path or several
	Client       any      // a path, several, or several pairs of certificate and key
	SkipVerify   bool     `toml:"skip_verify"`
	Header       map[string]any
	OverridePath bool   `toml:"override_path"`
	DialTimeout  string `toml:"dial_timeout"`
}

// hostsFile returns the file for a registry; nil if there is none.
func (p paths) hostsFile(registry string) (*hostsFile, error) {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = slices.Insert(names, 0, registry[:i]+"_"+registry[i+1:]+"_")
	}
	for _, dir := range p.hostDirs {
		for _, name := range names {
			file := filepath.Join(dir, name, "hosts.toml")
			b, err := readConf(file)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				continue
			}
			if err != nil {
				return nil, errorf(ErrOptions, "hosts of %s: %v", registry, err)
			}
			h, err := parseHosts(b)
			if err != nil {
				return nil, errorf(ErrOptions, "hosts of %s: %s: %v", registry, file, err)
			}
			h.path = file
			return h, nil
		}
	}
	return nil, nil
}

func parseHosts(b []byte) (*hostsFile, error) {
	var c struct {
		hostConf
		Server string
		Host   map[string]hostConf
	}
	meta, err := decodeTOML(b, &c)
	if err != nil {
		return nil, err
	}
	h := &hostsFile{}
	seen := map[string]bool{}
	for _, key := range meta.Keys() { // in the order of the file
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		host := c.Host[key[1]]
		host.URL = key[1]
		h.hosts = append(h.hosts, host)
	}
	c.hostConf.URL = c.Server
	h.hosts = append(h.hosts, c.hostConf)
	return h, nil
}

// can tells whether a host has a capability.
func (h *hostConf) can(what string) bool {
	return len(h.Capabilities) == 0 || slices.ContainsFunc(h.Capabilities, func(c string) bool { return strings.EqualFold(c, what) })
}

// place returns host[:port] and what else makes an endpoint for the registry.
func (h *hostConf) place(registry string) (host string, c endpointConfig, err error) {
	if h.URL == "" {
		host = registry
	} else if host, c, err = h.parseURL(); err != nil {
		return "", c, err
	}
	if apiHost(host) != apiHost(registry) {
		c.query = url.Values{"ns": {registry}}.Encode()
		c.mirror = true
	}
	c.skipVerify, c.pullOnly = h.SkipVerify, !h.can("push")
	if c.header, err = h.header(); err != nil {
		return "", c, err
	}
	if h.DialTimeout != "" {
		if c.dialTimeout, err = time.ParseDuration(h.DialTimeout); err != nil || c.dialTimeout <= 0 {
			return "", c, fmt.Errorf("dial_timeout %q is not a time", h.DialTimeout)
		}
	}
	return host, c, nil
}

func (h *hostConf) parseURL() (host string, c endpointConfig, err error) {
	text := h.URL
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
		return "", c, errors.New("a host is not a URL of scheme, host and path")
	}
	c.scheme, c.root = u.Scheme, strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !h.OverridePath && !strings.HasSuffix(c.root, "/v2") {
		c.root += "/v2"
	}
	if c.root == "" {
		c.root = "/"
	}
	return u.Host, c, nil
}

func (h *hostConf) header() (http.Header, error) {
	header := http.Header{}
	for key, value := range h.Header {
		values, ok := list(value)
		if !ok {
			return nil, fmt.Errorf("header %q is neither a string nor a list of them", key)
		}
		header[http.CanonicalHeaderKey(key)] = values
	}
	return header, nil
}

// certs returns the host's files; relative paths are those of dir.
func (h *hostConf) certs(dir string) (c certFiles, err error) {
	in := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	if h.CA != nil {
		files, ok := list(h.CA)
		if !ok {
			return c, errors.New("ca is neither a path nor a list of them")
		}
		for _, file := range files {
			c.authorities = append(c.authorities, in(file))
		}
	}
	clients, ok := h.Client.([]any)
	if !ok && h.Client != nil {
		clients = []any{h.Client}
	}
	for _, client := range clients {
		pair, ok := list(client)
		if !ok || len(pair) < 1 || len(pair) > 2 {
			return c, errors.New("client is neither a path nor a list of paths or pairs of them")
		}
		c.clients = append(c.clients, [2]string{in(pair[0]), in(append(pair, "")[1])})
	}
	return c, nil
}

// list returns what is a string, or a list of strings, in TOML.
func list(value any) (all []string, ok bool) {
	if s, ok := value.(string); ok {
		return []string{s}, true
	}
	values, ok := value.([]any)
	for _, v := range values {
		s, isString := v.(string)
		if !isString {
			return nil, false
		}
		all = append(all, s)
	}
	return all, ok
}
