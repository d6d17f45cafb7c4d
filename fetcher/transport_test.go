package fetcher

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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
		blob.impl.(*remoteBlob).found(parseURL(t, front.URL))
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
		w := &wire{f: f, host: host}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/", nil)
		if _, err := w.RoundTrip(req); !errors.Is(err, errPlainHTTP) {
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
	if os.Getenv(proxyEnv) != "" {
		no := false
		f, _ := newFetcher(t, Options{TLSVerify: &no})
		_, err := f.Resolve(t.Context(), parse(t, "registry.invalid/a:t"))
		fmt.Println("resolved:", err)
		return
	}
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxiesOfTheEnvironmentAreUsed$", "-test.v")
	cmd.Env = append(os.Environ(), proxyEnv+"=1", "HTTP_PROXY=http://"+r.Host(), "HTTPS_PROXY=http://"+r.Host(), "NO_PROXY=")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "resolved: <nil>") {
		t.Errorf("through a proxy: %v\n%s", err, out)
	}
}
