package fetcher

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A world is an Internet: every host and port that is connected to is in it.
// Ports below say whether they speak TLS. It remembers who was sent what.
type world struct {
	authority     *x509.Certificate
	key           *ecdsa.PrivateKey
	secure, clear *httptest.Server

	mu    sync.Mutex
	serve http.HandlerFunc
	sent  []sending
	certs map[string]*tls.Certificate // by name
}

// A sending is what was sent to an origin: everything of a request.
type sending struct{ origin, all string }

// plainPorts speak plain HTTP; all others TLS.
var plainPorts = []string{"80", "5000", "5001", "8080"}

func newWorld(t testing.TB) *world {
	w := &world{certs: map[string]*tls.Certificate{}}
	w.authority, w.key = newAuthority(t)
	handler := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		w.record(req)(rw, req)
	})
	w.secure, w.clear = httptest.NewUnstartedServer(handler), httptest.NewUnstartedServer(handler)
	for _, s := range []*httptest.Server{w.secure, w.clear} {
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(s.Close)
	}
	w.secure.Listener = tls.NewListener(w.secure.Listener, &tls.Config{GetCertificate: w.certificate})
	w.secure.Start()
	w.clear.Start()
	return w
}

func newAuthority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// certificate makes a certificate for whatever name a client wants, and for
// all addresses that tests use.
func (w *world) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.certs[hello.ServerName]; c != nil {
		return c, nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if hello.ServerName != "" {
		template.DNSNames = []string{hello.ServerName}
	}
	for _, a := range []string{"127.0.0.1", "::1", "10.0.0.1", "10.0.0.2", "192.168.1.1", "169.254.169.254", "2001:db8::1", "2001:db8::2", "fe80::1", "203.0.113.1"} {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.authority, w.key.Public(), w.key)
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: w.key}
	w.certs[hello.ServerName] = c
	return c, err
}

func (w *world) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	to := w.secure
	for _, plain := range plainPorts {
		if port == plain {
			to = w.clear
		}
	}
	return new(net.Dialer).DialContext(ctx, network, to.Listener.Addr().String())
}

// record remembers a request, with its body and all of its headers, and
// returns who is to answer.
func (w *world) record(req *http.Request) http.HandlerFunc {
	body, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	form, _ := url.QueryUnescape(string(body))
	all := fmt.Sprintf("%s %s %v %s %s", req.Method, req.URL, req.Header, body, form)
	if user, password, ok := req.BasicAuth(); ok {
		all += " basic " + user + ":" + password
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, sending{originText(req), all})
	return w.serve
}

// originText returns the origin of a request that a server sees, with its port.
func originText(req *http.Request) string {
	u := &url.URL{Scheme: "http", Host: req.Host}
	if req.TLS != nil {
		u.Scheme = "https"
	}
	o := originOf(u)
	return o.scheme + "://" + net.JoinHostPort(o.host, o.port)
}

// received returns the origins that were sent a text.
func (w *world) received(text string) map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	origins := map[string]bool{}
	for _, s := range w.sent {
		if strings.Contains(s.all, text) {
			origins[s.origin] = true
		}
	}
	return origins
}

// become makes the world answer otherwise, and forget what it was sent.
func (w *world) become(serve http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.serve, w.sent = serve, nil
}

// fetcher returns a Fetcher that lives in the world, and trusts its authority.
func (w *world) fetcher(t testing.TB, o Options) (*Fetcher, *clock) {
	t.Helper()
	if o.CertDir == "" {
		o.CertDir = t.TempDir()
		writeFile(t, filepath.Join(o.CertDir, "world.crt"), encodePEM("CERTIFICATE", w.authority.Raw), 0o600)
	}
	f, c := newFetcher(t, o)
	f.dial = w.dial
	return f, c
}
