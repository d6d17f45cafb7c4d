package fetcher

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// oddRegistry returns the host of a registry that answers all but pings as serve does.
func oddRegistry(t testing.TB, serve http.HandlerFunc) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/v2/" {
			serve(w, req)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// oddBlob returns a blob of content in an oddRegistry.
func oddBlob(t testing.TB, content []byte, serve http.HandlerFunc) *Blob {
	t.Helper()
	f, _ := newFetcher(t, Options{})
	ref := parse(t, oddRegistry(t, serve)+"/a")
	bundle := imageOf(content).Bundle()
	im := &Image{src: sourceOf(t, f, ref), Ref: ref, Layers: []Layer{{Digest: bundle.Digests()[0], Size: int64(len(content))}}}
	b, err := f.Blob(t.Context(), im, im.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// chunked answers without a Content-Length.
func chunked(status int, contentRange string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(status)
		http.NewResponseController(w).Flush()
		w.Write(body)
	}
}

func TestAnswersWithoutALength(t *testing.T) {
	content := []byte("0123456789")
	for _, test := range []struct {
		name   string
		serve  http.HandlerFunc
		ranged bool // bytes 2 to 4 are served
		stream error
	}{
		{"the range", chunked(206, "bytes 2-4/10", content[2:5]), true, errAny},
		{"the range, of an unknown total", chunked(206, "bytes 2-4/*", content[2:5]), true, errAny},
		{"less than the range", chunked(206, "bytes 2-4/10", content[2:4]), false, errAny},
		{"no Content-Range", chunked(206, "", content[2:5]), false, errAny},
		{"a Content-Range of other units", chunked(206, "items 2-4/10", content[2:5]), false, errAny},
		{"a Content-Range that is huge", chunked(206, "bytes 2-9999999999999999999/10", content[2:5]), false, errAny},
		{"a Content-Range past what was asked for", chunked(206, "bytes 2-6/10", content[2:7]), false, errAny},
		{"a Content-Range that ends before it begins", chunked(206, "bytes 2-1/10", nil), false, errAny},
		{"several ranges", chunked(206, "", []byte("--x\r\nContent-Range: bytes 2-4/10\r\n\r\n234\r\n--x--")), false, errAny},
		{"the whole", chunked(200, "", content), false, nil},
		{"more than the whole", chunked(200, "", append(content[:10:10], 'x')), false, ErrMismatch},
		{"less than the whole", chunked(200, "", content[:9]), false, errAny},
		{"no content", chunked(204, "", nil), false, errAny},
		{"a redirect to nowhere", chunked(307, "", nil), false, errAny},
	} {
		b := oddBlob(t, content, test.serve)
		p, err := readRange(b, 2, 5)
		if test.ranged && (err != nil || string(p) != "234") || !test.ranged && err == nil {
			t.Errorf("%s: a range gives %q, %v", test.name, p, err)
		}
		got, err := operations["the stream"](t.Context(), b)
		if !bytes.HasPrefix(content, got) {
			t.Errorf("%s: the stream gives %q", test.name, got)
		}
		switch {
		case test.stream == nil && (err != nil || len(got) != len(content)),
			test.stream == errAny && err == nil,
			test.stream == ErrMismatch && !errors.Is(err, ErrMismatch):
			t.Errorf("%s: the stream gives %q, %v", test.name, got, err)
		}
	}
}

func TestAManifestWithoutALengthIsBoundedToo(t *testing.T) {
	endless := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for req.URL.Path != "/v2/" {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	server := httptest.NewServer(endless)
	defer server.Close()
	f, _ := newFetcher(t, Options{})
	if _, err := f.Resolve(t.Context(), parse(t, server.Listener.Addr().String()+"/a")); !errors.Is(err, ErrMalformed) {
		t.Errorf("an endless manifest: %v", err)
	}
	if n := f.Stats().Bytes; n > maxManifest+1<<20 {
		t.Errorf("%d bytes of it were read", n)
	}
}

func TestPlatformsHaveSeveralSpellings(t *testing.T) {
	for in, want := range map[string]string{
		"linux/x86_64": "linux/amd64", "Linux/AMD64/v1": "linux/amd64", "linux/aarch64/8": "linux/arm64",
		"linux/armhf": "linux/arm/v7", "linux/armel": "linux/arm/v6", "linux/arm": "linux/arm/v7", "linux/arm/5": "linux/arm/v5",
		"linux/i686": "linux/386", "linux/riscv64": "linux/riscv64",
	} {
		p, err := parsePlatform(in)
		if err != nil || platformString(normal(p)) != want {
			t.Errorf("%s is %s (%v), want %s", in, platformString(normal(p)), err, want)
		}
	}
	for _, in := range []string{"linux", "linux/", "/amd64", "linux/arm/v7/x", "/"} {
		if _, err := New(&Options{Platform: in}); !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestSleepEndsWithTheContext(t *testing.T) {
	if err := sleep(t.Context(), time.Microsecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	if err := sleep(ctx, time.Hour); err != io.ErrClosedPipe {
		t.Error(err)
	}
}
