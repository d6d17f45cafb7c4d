package fetcher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

type traffic struct{ requests, bytes, retries atomic.Int64 }

// connect makes the transports. Both trust the same authorities; just the one
// to registries has a client certificate to show.
func (f *Fetcher) connect() error {
	config, err := tlsConfig(f.opts.CertDir, f.insecure)
	if err != nil {
		return err
	}
	foreign := config.Clone()
	foreign.Certificates = nil
	f.registry, f.foreign = f.newTransport(config), f.newTransport(foreign)
	return nil
}

func (f *Fetcher) newTransport(config *tls.Config) http.RoundTripper {
	return &meter{
		userAgent: f.opts.UserAgent,
		plain:     f.insecure,
		traffic:   &f.traffic,
		inner: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // blobs are compressed, and ranges are of the bytes as stored
			MaxIdleConns:          32,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
		},
	}
}

var errPlainHTTP = errors.New("plain HTTP is refused (it is for loopback addresses, and for TLS verification switched off)")

// A meter is what every request goes through. It counts them, says who we are,
// and refuses plain HTTP, also where a redirect leads to it.
type meter struct {
	inner     http.RoundTripper
	userAgent string
	plain     bool // plain HTTP is for every host
	traffic   *traffic
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !m.plain && !isLoopback(req.URL.Host) {
		return nil, errPlainHTTP
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", m.userAgent)
	resp, err := m.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	m.traffic.requests.Add(1)
	resp.Body = &meteredBody{resp.Body, &m.traffic.bytes}
	return resp, nil
}

type meteredBody struct {
	io.ReadCloser
	count *atomic.Int64
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.count.Add(int64(n))
	return n, err
}

// A wire is what a registry's authenticated transport is built on. It decides
// who sees the client certificate.
type wire struct {
	f     *Fetcher
	host  string
	after atomic.Int64 // the last Retry-After; the handshake's errors do not have it
}

// RoundTrip hides all challenges but that to a ping: the transport above would
// answer each by getting a token for that request alone, and a hundred readers
// would get a hundred. They renew together, in session.renew.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	inner := w.f.foreign
	if req.URL.Host == w.host {
		inner = w.f.registry
	}
	resp, err := inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if req.URL.Path != "/v2/" {
		resp.Header.Del("WWW-Authenticate")
	}
	if after := retryAfter(resp.Header, w.f.now()); after > 0 {
		w.after.Store(int64(after))
	}
	return resp, nil
}

// isLoopback tells whether a host or host:port is this machine.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tlsConfig reads a directory as docker reads those in certs.d: *.crt are
// authorities, trusted beside the system's; NAME.cert and NAME.key are a client
// certificate.
func tlsConfig(dir string, insecure bool) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure}
	if dir == "" {
		return config, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("certificates: %w", err)
			}
			if !roots.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("certificates: %s has no certificate in it", path)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return nil, fmt.Errorf("client certificate %s: %w", path, err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	config.RootCAs = roots
	return config, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
