package fetcher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

type traffic struct{ requests, bytes, retries atomic.Int64 }

func (f *Fetcher) newTransport(config *tls.Config, plain bool) http.RoundTripper {
	return &meter{
		userAgent: f.opts.UserAgent,
		plain:     plain,
		traffic:   &f.traffic,
		inner: &http.Transport{
			Proxy:                 proxy,
			DialContext:           f.dial,
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

// proxy returns the proxy that the environment names for a request. What is
// wrong with its URL is not told: there may be a password in it.
func proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return nil, errProxy
	}
	return u, nil
}

var errProxy = errors.New("the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY) is not a URL")

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

// tlsConfig reads a directory as docker reads those in certs.d: *.crt are
// authorities, trusted beside the system's; NAME.cert and NAME.key are a client
// certificate.
func tlsConfig(dir string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
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
