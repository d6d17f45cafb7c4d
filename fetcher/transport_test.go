package fetcher

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgfs/internal/testimage"
)

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// clientCertificate returns a certificate and its key, as PEM, and a pool that vouches for it.
func clientCertificate(t testing.TB) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	cert = encodePEM("CERTIFICATE", der)
	pool.AppendCertsFromPEM([]byte(cert))
	return cert, encodePEM("PRIVATE KEY", keyDER), pool
}

func TestTLSIsVerified(t *testing.T) {
	no := false
	cert, key, clients := clientCertificate(t)
	for _, test := range []struct {
		name    string
		clients *x509.CertPool
		files   []string // in CertDir
		verify  *bool
		ok      bool
	}{
		{"an authority nobody knows", nil, nil, nil, false},
		{"an authority nobody knows, and nobody asks", nil, nil, &no, true},
		{"the authority in the directory", nil, []string{"ca.crt"}, nil, true},
		{"a client certificate is wanted", clients, []string{"ca.crt"}, nil, false},
		{"a client certificate is wanted, and shown", clients, []string{"ca.crt", "client.cert", "client.key"}, nil, true},
	} {
		r := testimage.StartTLSRegistry(test.clients)
		t.Cleanup(r.Close)
		content := noise(1000)
		r.Push("a", "t", imageOf(content).Bundle())
		r.RedirectBlobs(http.StatusTemporaryRedirect)
		r.RequireBearer("", "")
		dir := t.TempDir()
		pems := map[string]string{
			"ca.crt": encodePEM("CERTIFICATE", r.Certificate().Raw), "client.cert": cert, "client.key": key,
		}
		for _, name := range test.files {
			writeFile(t, filepath.Join(dir, name), pems[name], 0o600)
		}
		f, _ := newFetcher(t, Options{CertDir: dir, TLSVerify: test.verify})
		im, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), "certificate") {
				t.Errorf("%s: the error says nothing of certificates: %v", test.name, err)
			}
			continue
		}
		b, err := f.Blob(t.Context(), im, im.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		if p, err := readRange(b, 10, 20); err != nil || !bytes.Equal(p, content[10:20]) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestCertificateDirectoriesThatCannotBeUsed(t *testing.T) {
	cert, _, _ := clientCertificate(t)
	for name, files := range map[string]map[string]string{
		"no PEM":                {"ca.crt": "x"},
		"certificate, no key":   {"client.cert": cert},
		"key of something else": {"client.cert": cert, "client.key": cert},
	} {
		dir := t.TempDir()
		for file, content := range files {
			writeFile(t, filepath.Join(dir, file), content, 0o600)
		}
		if _, err := New(&Options{CertDir: dir}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		} else if !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v is no ErrOptions", name, err)
		}
	}
	_, err := New(&Options{CertDir: filepath.Join(t.TempDir(), "missing")})
	if !errors.Is(err, os.ErrNotExist) || !errors.Is(err, ErrOptions) {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestRedirectsNeverCarryCredentials(t *testing.T) {
	const canary = "canary-password"
	content := noise(4096)
	for _, mode := range []string{"basic", "bearer"} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			r := startRegistry(t)
			r.Push("a", "t", imageOf(content).Bundle())
			r.RedirectBlobs(status)
			if mode == "basic" {
				r.RequireBasic("me", canary)
			} else {
				r.RequireBearer("me", canary)
			}
			var log bytes.Buffer
			f, _ := newFetcher(t, Options{Creds: "me:" + canary, Log: slog.New(slog.NewTextHandler(&log, nil))})
			b := openBlob(t, f, r.Host()+"/a:t", 0)
			for operation, read := range operations {
				r.ExpireURLs()
				r.ExpireTokens()
				if got, err := read(t.Context(), b); err != nil || !bytes.Equal(got, wanted(operation, content)) {
					t.Errorf("%s, %d, %s: %v", mode, status, operation, err)
				}
			}
			r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 503})
			_, err := readRange(b, 0, 10)
			leaks(t, &log, err, canary, "signature", "sig-", "token-")
			stored := r.Requests(func(q testimage.Request) bool { return q.Server == "storage" })
			if len(stored) == 0 {
				t.Errorf("%s, %d: nobody came to the storage", mode, status)
			}
			for _, q := range stored {
				if q.Authorization != "" {
					t.Errorf("%s, %d: the storage was sent %q", mode, status, q.Authorization)
				}
			}
		}
	}
}

// elsewhere is a server that redirects to where it is told, and remembers what it was sent.
type elsewhere struct {
	*httptest.Server
	mu     sync.Mutex
	target string
	auth   []string
}

func startElsewhere(t testing.TB) *elsewhere {
	e := &elsewhere{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.auth = append(e.auth, req.Header.Get("Authorization"))
		w.Header().Set("Location", e.target)
		w.Header().Set("WWW-Authenticate", `Basic realm="give me more"`)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	t.Cleanup(e.Close)
	return e
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	content := []byte("layer")
	for _, target := range []string{"", "self", "file:///etc/passwd", "http://", "::", "ftp://127.0.0.1/x", "http://user:canary@127.0.0.1:1/x?canary"} {
		e := startElsewhere(t)
		e.target = target
		if target == "self" {
			e.target = e.URL
		}
		front := startElsewhere(t)
		front.target = e.URL
		r := startRegistry(t)
		b := imageOf(content).Bundle()
		r.Push("a", "t", b)
		f, _ := newFetcher(t, Options{})
		f.timeout = time.Second
		ref := parse(t, r.Host()+"/a:t")
		im, err := f.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := f.Blob(t.Context(), im, im.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		remote := blob.impl.(*remoteBlob)
		remote.found(place{session: remote.pick(), url: parseURL(t, front.URL)})
		r.Remove("a", im.Layers[0].Digest)
		_, err = readRange(blob, 0, 5)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", target, err)
		}
		for _, auth := range append(e.auth, front.auth...) {
			if auth != "" {
				t.Errorf("%q: Authorization %q was sent", target, auth)
			}
		}
	}
}

func TestPlainHTTPIsForLoopback(t *testing.T) {
	f, _ := newFetcher(t, Options{})
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9:5000": true, "localhost": true, "localhost:1": true, "[::1]:5000": true, "[::1]": true,
		"10.0.0.1:5000": false, "example.com": false, "localhost.example.com:80": false, "[::2]:5": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("%s is loopback: %v", host, got)
		}
		if want {
			continue
		}
		e := f.newEndpoint(host, endpointConfig{}, &tls.Config{})
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/", nil)
		if _, err := e.own.RoundTrip(req); !errors.Is(err, errPlainHTTP) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestRequestsSayWhoWeAre(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	r.RequireBearer("", "")
	r.RedirectBlobs(http.StatusTemporaryRedirect)
	f, _ := newFetcher(t, Options{UserAgent: "imgfs/test"})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	if _, err := readRange(b, 0, 5); err != nil {
		t.Fatal(err)
	}
	all := r.Requests(nil)
	for _, q := range all {
		if q.UserAgent != "imgfs/test" {
			t.Errorf("%s %s is from %q", q.Server, q.Path, q.UserAgent)
		}
	}
	if got := f.Stats().Requests; got < int64(len(all)) {
		t.Errorf("%d requests are counted, %d were made", got, len(all))
	}
}

// The environment's proxies are read once in a process: this one is for them.
const proxyEnv = "IMGFS_TEST_PROXIED"

func TestProxiesOfTheEnvironmentAreUsed(t *testing.T) {
	if host := os.Getenv(proxyEnv); host != "" {
		for what, verify := range map[string]bool{"verified": true, "resolved": false} {
			f, _ := newFetcher(t, Options{TLSVerify: &verify})
			f.timeout = time.Second
			_, err := f.Resolve(t.Context(), parse(t, host+"/a:t"))
			fmt.Printf("%s: %v\n", what, err)
		}
		return
	}
	plain, secure := startRegistry(t), testimage.StartTLSRegistry(nil)
	t.Cleanup(secure.Close)
	for _, r := range []*testimage.Registry{plain, secure} {
		r.Push("a", "t", imageOf(noise(10)).Bundle())
	}
	for name, test := range map[string]struct {
		to          *testimage.Registry
		url, no     string
		connections bool // the proxy is asked for a connection
		resolved    bool
	}{
		"plain HTTP, after TLS":      {plain, "http://me:canary@%s", "", true, true},
		"a connection through it":    {secure, "http://me:canary@%s", "", true, true},
		"not for this host":          {secure, "http://me:canary@%s", "other.test,.invalid", false, false},
		"a proxy that is not there":  {secure, "http://me:canary@127.0.0.1:1", "", false, false},
		"a proxy that is not a URL":  {secure, "http://me:canary@%s:x:y", "", false, false},
		"a proxy that wants another": {secure, "http://me:canary-other@%s", "", false, false},
	} {
		p := startProxy(t, test.to.Host())
		url := test.url
		if strings.Contains(url, "%s") {
			url = fmt.Sprintf(url, p.Listener.Addr())
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestProxiesOfTheEnvironmentAreUsed$", "-test.v")
		cmd.Env = append(os.Environ(), proxyEnv+"=registry.invalid", "HTTP_PROXY="+url, "HTTPS_PROXY="+url, "NO_PROXY="+test.no)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "resolved: <nil>") != test.resolved {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if strings.Contains(string(out), "canary") {
			t.Errorf("%s: the proxy's password is in %s", name, out)
		}
		if connected := p.connections.Load() > 0; connected != test.connections {
			t.Errorf("%s: the proxy made connections: %v", name, connected)
		}
		for _, q := range append(plain.Requests(nil), secure.Requests(nil)...) {
			if q.ProxyAuthorization != "" {
				t.Errorf("%s: the registry was sent the proxy's password", name)
			}
		}
	}
}

func parseBasic(header string) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": {header}}}).BasicAuth()
}

// A testProxy connects whoever has the password to one server, whatever they ask for.
type testProxy struct {
	*httptest.Server
	connections atomic.Int64
}

func startProxy(t testing.TB, to string) *testProxy {
	p := &testProxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:canary")) {
			if client, _, err := w.(http.Hijacker).Hijack(); err == nil { // it tells whoever asks what it was sent
				user, password, _ := parseBasic(req.Header.Get("Proxy-Authorization"))
				fmt.Fprintf(client, "HTTP/1.1 407 not %s %s\r\n\r\n", user, password)
				client.Close()
			}
			return
		}
		if req.Method != http.MethodConnect {
			req.Header.Del("Proxy-Authorization")
			httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to}).ServeHTTP(w, req)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer server.Close()
		p.connections.Add(1)
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		fmt.Fprint(client, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(server, client)
		io.Copy(client, server)
	}))
	t.Cleanup(p.Close)
	return p
}
