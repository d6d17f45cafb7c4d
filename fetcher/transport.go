package fetcher

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

type traffic struct{ requests, bytes, retries atomic.Int64 }

func (f *Fetcher) newTransport(config *tls.Config, plain bool, dialTimeout time.Duration) http.RoundTripper {
	dial := f.dial
	if dialTimeout > 0 {
		dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return f.dial(ctx, network, addr)
		}
	}
	return &meter{
		userAgent: f.opts.UserAgent,
		plain:     plain,
		traffic:   &f.traffic,
		inner: &http.Transport{
			Proxy:                 proxy,
			DialContext:           dial,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // blobs are compressed, and ranges are of the bytes as stored
			MaxIdleConns:          32,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,

			OnProxyConnectResponse: checkProxy,
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

// checkProxy refuses an answer of a proxy that is no connection, in our own words: it has been sent a password, and could write that.
func checkProxy(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w %d %s", errTunnel, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}

var errTunnel = errors.New("the proxy answers")

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
		if req.Body != nil {
			req.Body.Close()
		}
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
