package fetcher

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"imgfs/internal/testimage"
)

func TestAHundredReadersRenewOnce(t *testing.T) {
	content := noise(100 << 10)
	for redirect, turn := range redirects {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(content).Bundle())
		turn(r)
		r.RequireBearer("me", "secret")
		f, _ := newFetcher(t, Options{Creds: "me:secret"})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		if _, err := readRange(b, 0, 1); err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			r.ForgetRequests()
			r.ExpireTokens()
			r.ExpireURLs()
			var wg sync.WaitGroup
			for i := range int64(100) {
				wg.Go(func() {
					lo, hi := i<<10, (i+1)<<10
					if p, err := readRange(b, lo, hi); err != nil || !bytes.Equal(p, content[lo:hi]) {
						t.Errorf("reader %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			tokens := r.Requests(func(q testimage.Request) bool { return q.Path == "/token" })
			if len(tokens) != 1 {
				t.Errorf("%s, round %d: %d tokens were asked for", redirect, round, len(tokens))
			}
			asked := r.Requests(askedWhere)
			if redirect != "none" && len(asked) != 2 { // one is refused, and repeated with the new token
				t.Errorf("%s, round %d: the registry was asked %d times where the blob is", redirect, round, len(asked))
			}
		}
	}
}

// redirects are the places that a registry may send readers of blobs to.
var redirects = map[string]func(*testimage.Registry){
	"none":          func(*testimage.Registry) {},
	"storage":       func(r *testimage.Registry) { r.RedirectBlobs(http.StatusTemporaryRedirect) },
	"the same host": func(r *testimage.Registry) { r.RedirectBlobsWithin(http.StatusTemporaryRedirect) },
}

// askedWhere keeps the requests that ask the registry for a blob, or where it is.
func askedWhere(q testimage.Request) bool {
	return q.Server == "registry" && strings.Contains(q.Path, "/blobs/")
}

func TestARedirectIsRemembered(t *testing.T) {
	content := noise(4096)
	for redirect, turn := range redirects {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(content).Bundle())
		turn(r)
		f, _ := newFetcher(t, Options{})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		r.ForgetRequests()
		if _, err := manyRanges(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if asked := r.Requests(askedWhere); redirect != "none" && len(asked) != 1 {
			t.Errorf("%s: the registry was asked %d times", redirect, len(asked))
		}
	}
}

func TestAnExpiredRedirectIsRenewedWithTheSameToken(t *testing.T) {
	content := noise(4096)
	for redirect, turn := range redirects {
		for _, status := range []int{400, 401, 403, 404, 410} {
			if redirect == "none" {
				continue
			}
			r := startRegistry(t)
			r.Push("a", "t", imageOf(content).Bundle())
			turn(r)
			r.RequireBearer("", "")
			f, c := newFetcher(t, Options{})
			b := openBlob(t, f, r.Host()+"/a:t", 0)
			if _, err := readRange(b, 0, 10); err != nil {
				t.Fatal(err)
			}
			r.ForgetRequests()
			r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: status, Times: 1})
			if p, err := readRange(b, 10, 20); err != nil || !bytes.Equal(p, content[10:20]) || c.total() != 0 {
				t.Errorf("%s, %d: %v", redirect, status, err)
			}
			asked := r.Requests(askedWhere)
			tokens := r.Requests(func(q testimage.Request) bool { return q.Path == "/token" })
			if len(asked) != 1 || len(tokens) != 0 {
				t.Errorf("%s, %d: the registry was asked %d times, and for %d tokens", redirect, status, len(asked), len(tokens))
			}
		}
	}
}

func TestAPlaceThatAnswersWithAnErrorIsForgotten(t *testing.T) {
	for redirect, turn := range redirects {
		if redirect == "none" {
			continue
		}
		r := startRegistry(t)
		r.Push("a", "t", imageOf(noise(4096)).Bundle())
		turn(r)
		f, _ := newFetcher(t, Options{})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		for round := range 3 {
			if _, err := readRange(b, 0, 10); err != nil {
				t.Errorf("%s, round %d: %v", redirect, round, err)
			}
			r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 418, Times: 1})
			r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 503, Times: 1})
			r.ForgetRequests()
			if _, err := readRange(b, 0, 10); err != nil {
				t.Errorf("%s, round %d, after errors: %v", redirect, round, err)
			}
			if asked := r.Requests(askedWhere); len(asked) != 2 { // once after each error
				t.Errorf("%s, round %d: the registry was asked %d times", redirect, round, len(asked))
			}
		}
	}
}

func TestRedirectsToPlainHTTPAreRefused(t *testing.T) {
	b := oddBlob(t, []byte("0123456789"), func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, "http://storage.invalid/x?canary", http.StatusTemporaryRedirect)
	})
	for operation, read := range operations {
		if isPart(operation) {
			continue // of a larger blob
		}
		_, err := read(t.Context(), b)
		if !errors.Is(err, errPlainHTTP) || !strings.Contains(err.Error(), "storage.invalid") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", operation, err)
		}
	}
}
