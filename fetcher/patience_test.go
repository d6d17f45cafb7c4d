package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgfs/internal/testimage"
)

func TestCloseEndsReadsThatAreUnderWay(t *testing.T) {
	content := noise(4096)
	for operation, read := range operations {
		for _, headers := range []bool{false, true} { // the server falls silent before or after the headers
			arrived := make(chan struct{}, 1)
			b := oddBlob(t, content, func(w http.ResponseWriter, req *http.Request) {
				if headers {
					http.ServeContent(&silent{w}, req, "", time.Time{}, bytes.NewReader(content))
				}
				arrived <- struct{}{}
				<-req.Context().Done()
			})
			failed := make(chan error)
			go func() {
				_, err := read(t.Context(), b)
				failed <- err
			}()
			<-arrived
			b.Close()
			if err := <-failed; !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s, headers %v: %v", operation, headers, err)
			}
		}
	}
}

// silent sends headers, and nothing of the body.
type silent struct{ http.ResponseWriter }

func (s *silent) WriteHeader(status int) {
	s.ResponseWriter.WriteHeader(status)
	http.NewResponseController(s.ResponseWriter).Flush()
}

func (s *silent) Write(p []byte) (int, error) { return len(p), nil }

func TestCloseEndsReadsThatWaitForAToken(t *testing.T) {
	arrived := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		<-req.Context().Done()
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	f, _ := newFetcher(t, Options{})
	f.stall, f.timeout = time.Hour, time.Hour
	b, err := f.Blob(t.Context(), &Image{src: sourceOf(t, f, parse(t, server.Listener.Addr().String()+"/a"))}, Layer{Digest: sum, Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := readRange(b, 0, 10)
		failed <- err
	}()
	<-arrived
	b.Close()
	if err := <-failed; !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestSilenceCostsTheSameWhateverTheLength(t *testing.T) {
	for _, size := range []int{10, 64 << 20} {
		c := &clock{time: time.Unix(1e9, 0)}
		b := oddBlob(t, make([]byte, size), func(http.ResponseWriter, *http.Request) {
			c.sleep(context.Background(), 9*time.Second)
			panic(http.ErrAbortHandler)
		})
		f := b.impl.(*remoteBlob).src.f
		f.now, f.sleep = c.now, c.sleep
		for operation, read := range map[string]func() error{
			"a range":    func() error { _, err := readRange(b, 0, b.Size()); return err },
			"the stream": func() error { _, err := b.Open(t.Context(), 0, b.Size()); return err },
		} {
			c.slept = nil
			if err := read(); err == nil || c.total() < 27*time.Second || c.total() > 39*time.Second {
				t.Errorf("%s of %d bytes: waited %v, %v", operation, size, c.total(), err)
			}
		}
	}
}

func TestSilenceIsAnErrorThatSaysWhereAndOfWhat(t *testing.T) {
	for redirect, turn := range redirects {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(noise(100)).Bundle())
		turn(r)
		f, _ := newFetcher(t, Options{})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		f.stall, f.timeout = 100*time.Millisecond, 500*time.Millisecond
		host := r.Host()
		if redirect == "storage" {
			host = r.StorageHost()
		}
		r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall})
		r.Inject(testimage.Fault{On: testimage.Manifests, Kind: testimage.Stall})
		layer := b.impl.(*remoteBlob).layer.Digest
		_, ofRange := readRange(b, 0, 10)
		_, ofStream := operations["the stream"](t.Context(), b)
		_, ofTag := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
		for want, err := range map[string]error{
			fmt.Sprintf("bytes 0-9: layer %s of %s/a:t: %s: the server has gone silent", layer, r.Host(), host): ofRange,
			fmt.Sprintf("layer %s of %s/a:t: %s: the server has gone silent", layer, r.Host(), host):            ofStream,
			fmt.Sprintf("%s/a:t: %s: the server has gone silent", r.Host(), r.Host()):                           ofTag,
		} {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v does not begin with %s", err, want)
			}
		}
	}
}

// trickle answers with a body that comes byte by byte.
func trickle(header http.Header, status int, size int64) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for key := range header {
			w.Header().Set(key, header.Get(key))
		}
		w.WriteHeader(status)
		flush := http.NewResponseController(w).Flush
		for range size {
			if _, err := w.Write([]byte{' '}); err != nil || flush() != nil {
				return
			}
		}
	}
}

// impatient gives f a clock that goes on by a second whenever it is looked at: each wait lasts that long, and brings little from a trickle.
func impatient(f *Fetcher, c *clock) *Fetcher {
	f.sleep = c.sleep
	f.now = func() time.Time {
		c.sleep(context.Background(), time.Second)
		return c.now()
	}
	return f
}

func TestATrickleIsNotWaitedForWithoutEnd(t *testing.T) {
	const size = 1 << 20
	ranged := http.Header{"Content-Range": {fmt.Sprintf("bytes 0-%d/%d", size-1, size)}}
	for name, read := range map[string]func() error{
		"a range": func() error {
			b := oddBlob(t, make([]byte, size), trickle(ranged, http.StatusPartialContent, size))
			impatient(b.impl.(*remoteBlob).src.f, &clock{})
			_, err := readRange(b, 0, size)
			return err
		},
		"a stream": func() error {
			b := oddBlob(t, make([]byte, size), trickle(nil, http.StatusOK, size))
			impatient(b.impl.(*remoteBlob).src.f, &clock{})
			_, err := operations["the stream"](t.Context(), b)
			return err
		},
		"a document": func() error {
			f, c := newFetcher(t, Options{})
			ref := parse(t, oddRegistry(t, trickle(nil, http.StatusOK, size))+"/a")
			_, err := impatient(f, c).Resolve(t.Context(), ref)
			return err
		},
	} {
		if err := read(); !errors.Is(err, errStalled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBytesEarnPatience(t *testing.T) {
	f, _ := newFetcher(t, Options{})
	r := f.retrier("x")
	r.spend(20 * time.Second)
	if r.earn(5 * slowest); r.left != 15*time.Second {
		t.Errorf("5 s earned beside 10: %v", r.left)
	}
	if r.earn(1 << 30); r.left != f.timeout {
		t.Errorf("much earned: %v", r.left)
	}
}

// TestAPortThatRefusesIsNotWaitedForAtACommandLine has a registry that is gone: readers of a mount wait for it all the same.
func TestAPortThatRefusesIsNotWaitedForAtACommandLine(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	f, c := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Close()
	for what, test := range map[string]struct {
		ask         func() error
		least, most time.Duration
	}{
		"a tag":   {func() error { _, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t")); return err }, time.Second, 3 * time.Second},
		"a login": {func() error { _, err := f.Login(t.Context(), r.Host(), "user", "password"); return err }, time.Second, 3 * time.Second},
		"tags":    {func() error { _, err := f.Tags(t.Context(), parse(t, r.Host()+"/a")); return err }, time.Second, 3 * time.Second},
		"a read":  {func() error { _, err := readRange(b, 0, 10); return err }, 20 * time.Second, 30 * time.Second},
	} {
		c.slept = nil
		if err := test.ask(); !errors.Is(err, syscall.ECONNREFUSED) || c.total() < test.least || c.total() > test.most {
			t.Errorf("%s: waited %v, %v", what, c.total(), err)
		}
	}
}

func TestRetryAfterOfTheHandshakeIsHonoured(t *testing.T) {
	for _, part := range []testimage.Part{testimage.Pings, testimage.Tokens} {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(noise(10)).Bundle())
		r.RequireBearer("", "")
		for _, test := range []struct {
			after string
			want  time.Duration
		}{{"7", 7 * time.Second}, {"31", 0}} {
			f, c := newFetcher(t, Options{})
			r.Inject(testimage.Fault{On: part, Kind: testimage.Refuse, Status: 429, RetryAfter: test.after, Times: 1})
			_, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t"))
			if c.total() != test.want {
				t.Errorf("part %d, Retry-After of %s s: waited %v", part, test.after, c.total())
			}
			if (err == nil) != (test.want > 0) || err != nil && !strings.Contains(err.Error(), "asks for a pause of 31s") {
				t.Errorf("part %d, Retry-After of %s s: %v", part, test.after, err)
			}
		}
	}
}

func TestAServerThatBreaksAtTheSamePlaceMakesNoProgress(t *testing.T) {
	content := noise(1 << 20)
	var mu sync.Mutex
	requests := 0
	b := oddBlob(t, content, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		requests++
		mu.Unlock()
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:len(content)-1]) // no ranges, and never the last byte
	})
	got, err := operations["the stream"](t.Context(), b)
	if err == nil || !bytes.HasPrefix(content, got) || requests < 3 {
		t.Errorf("%d bytes, %d requests, %v", len(got), requests, err)
	}
}
