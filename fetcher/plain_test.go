package fetcher

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"

	"imgfs/internal/testimage"
)

// insecurely returns options that allow plain HTTP, and that verify nothing.
func insecurely() Options {
	no := false
	return Options{TLSVerify: &no, Creds: "user:password"}
}

// TestPlainHTTPIsSpokenWhereNobodySpeaksTLS has a registry that speaks TLS on port 443, as long as it can be reached, and
// plain HTTP on port 80.
func TestPlainHTTPIsSpokenWhereNobodySpeaksTLS(t *testing.T) {
	w := newWorld(t)
	w.become(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "", http.StatusNotFound) })
	const plain = "http://reg.example:80"
	for name, test := range map[string]struct {
		err   error // of a connection to port 443
		plain bool
	}{
		"it answers": {nil, false}, "nobody listens": {syscall.ECONNREFUSED, true}, "it hangs up": {syscall.ECONNRESET, true},
		"there is no way": {syscall.EHOSTUNREACH, false}, "no name server": {&net.DNSError{IsTemporary: true}, false},
		"silence": {context.DeadlineExceeded, false},
	} {
		f, _ := w.fetcher(t, insecurely())
		f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "reg.example:443" && test.err != nil {
				return nil, &net.OpError{Op: "dial", Err: test.err}
			}
			return w.dial(ctx, network, addr)
		}
		w.become(w.serve)
		if _, err := f.Resolve(t.Context(), parse(t, "reg.example/a:t")); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := w.received("")[plain]; got != test.plain {
			t.Errorf("%s: plain HTTP is spoken: %v, want %v", name, got, test.plain)
		}
	}
}

// TestWhoHasSpokenTLSIsNotSpokenToInClear has a registry whose port 443 refuses connections after a while.
func TestWhoHasSpokenTLSIsNotSpokenToInClear(t *testing.T) {
	w := newWorld(t)
	w.become(func(rw http.ResponseWriter, req *http.Request) {
		if _, _, ok := req.BasicAuth(); !ok {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			rw.WriteHeader(http.StatusUnauthorized)
		}
	})
	f, _ := w.fetcher(t, insecurely())
	var down atomic.Bool
	f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "reg.example:443" && down.Load() {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return w.dial(ctx, network, addr)
	}
	for _, name := range []string{"reg.example/a:t", "reg.example/b:t"} { // what they get is no manifest, with credentials
		if _, err := f.Resolve(t.Context(), parse(t, name)); err == nil {
			t.Errorf("%s: no error", name)
		}
		down.Store(true)
		w.secure.CloseClientConnections()
	}
	if got := w.received("password"); len(got) != 1 || !got["https://reg.example:443"] {
		t.Errorf("the password was sent to %v", got)
	}
}

// TestARegistryThatFailsToSpeakTLSForAMomentIsAskedAgain hangs up on the first connection, and refuses plain HTTP.
func TestARegistryThatFailsToSpeakTLSForAMomentIsAskedAgain(t *testing.T) {
	r := testimage.StartTLSRegistry(nil)
	t.Cleanup(r.Close)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	o := insecurely()
	o.Creds = ""
	f, _ := newFetcher(t, o)
	var connections atomic.Int32
	f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connections.Add(1) == 1 {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNRESET}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	resolve(t, f, r.Host()+"/a:t")
}
