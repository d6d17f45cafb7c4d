package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/internal/testimage"
)

// tear puts bytes of the layer into the cache that are not the right ones, as a power failure leaves them.
func (u *userOf) tear(off, n int64) {
	u.t.Helper()
	c, err := cache.Open(u.flags[1], nil)
	if err != nil {
		u.t.Fatal(err)
	}
	defer c.Close()
	b, err := c.Blob(u.layer, int64(len(u.bundle.Blobs[u.layer])), zeros{})
	if err == nil {
		err = errors.Join(b.Fetch(off, n), b.Close())
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

// zeros is where a blob comes from that is none.
type zeros struct{ cache.Source }

func (zeros) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestACachedPartThatIsTornMakesNoImageUnreadable(t *testing.T) {
	for name, part := range map[string][2]int64{"the beginning": {0, 2 << 20}, "the middle": {1000, 2 << 20}, "a byte": {1 << 20, 1}, "all": {0, 1 << 40}} {
		u := newUser(t)
		u.tear(part[0], part[1])
		log := u.cat(name)
		if n := strings.Count(log, "fetched anew"); n != 1 && name != "a byte" { // which is fetched once more with its neighbours
			t.Errorf("%s: the log says %s", name, log)
		}
		u.registry.ForgetRequests()
		u.cat(name)
		if n := u.layerRequests(u.registry); n != 0 {
			t.Errorf("%s: the layer was asked for %d times, and is in the cache", name, n)
		}
	}
}

func TestALayerThatIsWrongIsFetchedOnceMoreIfTheCacheMayBeToBlame(t *testing.T) {
	for torn, want := range map[bool]int{false: 1, true: 2} { // requests
		u := newUser(t)
		u.registry.Replace("team/a", u.layer, make([]byte, len(u.bundle.Blobs[u.layer])))
		if torn {
			u.tear(0, 2<<20)
		}
		if code := run(append([]string{"ls", u.ref()}, u.flags...), io.Discard, io.Discard); code != exitVerification {
			t.Errorf("torn %v: exit code %d", torn, code)
		}
		if n := u.layerRequests(u.registry); n != want {
			t.Errorf("torn %v: the layer was asked for %d times", torn, n)
		}
		for _, kind := range []string{"blobs", "indexes"} {
			if left, err := os.ReadDir(filepath.Join(u.flags[1], kind)); len(left) > 0 || err != nil {
				t.Errorf("torn %v: %s are left: %v, %v", torn, kind, left, err)
			}
		}
	}
}

// A tarServer has a tar at a URL, and may come to a halt.
type tarServer struct {
	*httptest.Server
	tar []byte

	mu     sync.Mutex // protects the following
	etag   string
	halt   int // bytes; 0: nowhere
	ranges []string
}

func newTarServer(t *testing.T) *tarServer {
	noise := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	s := &tarServer{tar: testimage.Tar(testimage.File("noise", string(noise)), testimage.File("etc/motd", "hello"))}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tarServer) ref() string { return "tar:" + s.URL + "/rootfs.tar" }

// become changes what the server does from now on.
func (s *tarServer) become(etag string, halt int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.etag, s.halt, s.ranges = etag, halt, nil
}

func (s *tarServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ranges)
}

func (s *tarServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	s.ranges = append(s.ranges, req.Header.Get("Range"))
	etag, halt := s.etag, s.halt
	s.mu.Unlock()
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	if halt == 0 || req.Header.Get("Range") != "" {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(s.tar))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(s.tar)))
	w.Write(s.tar[:halt])
	w.(http.Flusher).Flush()
	<-req.Context().Done()
}

// interrupt begins to look at an image, and ends that when some of it has been fetched. Before it does, it calls meanwhile. It
// returns how much is kept.
func interrupt(t *testing.T, ref, cacheDir string, meanwhile func()) (kept int64) {
	t.Helper()
	a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	session, err := a.newSession(&imageFlags{cacheFlags: cacheFlags{dir: cacheDir}, memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer session.close()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := session.open(ctx, ref)
		failed <- err
	}()
	for cached(t, session.cache) < 1<<20 {
		time.Sleep(time.Millisecond)
	}
	meanwhile()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	return cached(t, session.cache)
}

// cached is how much there is of all blobs.
func cached(t *testing.T, c *cache.Cache) (n int64) {
	t.Helper()
	items, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if it.Kind == cache.Blobs {
			n += it.Cached
		}
	}
	return n
}

func TestATarAtAURLGoesOnWhereItWasIfItIsTheSameStill(t *testing.T) {
	for name, change := range map[string]struct {
		before, after string // ETags
		goesOn        bool
	}{
		"the same":                     {`"v1"`, `"v1"`, true},
		"another":                      {`"v1"`, `"v2"`, false},
		"one that may be the same":     {`W/"v1"`, `W/"v1"`, false},
		"one of which nothing is told": {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("IMGFS_CACHE_DIR", dir)
			s := newTarServer(t)
			s.become(change.before, 3<<20)
			kept := interrupt(t, s.ref(), dir, func() {})
			s.become(change.after, 0)
			if got := output(t, "cat", s.ref()+":/etc/motd"); got != "hello" {
				t.Errorf("got %q", got)
			}
			want := []string{"bytes=0-0", ""} // the size, and all of it
			if change.goesOn {
				want[1] = fmt.Sprintf("bytes=%d-%d", kept, len(s.tar)-1)
			}
			if got := s.asked(); !slices.Equal(got, want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
			blob := filepath.Join(dir, "blobs", "sha256-"+digest.FromBytes(s.tar).Encoded())
			if _, err := os.Stat(blob); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhoWaitsForAnotherThatIsInterruptedFetchesTheRest(t *testing.T) {
	u := newUser(t)
	u.run("config", u.ref())
	u.registry.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, Times: 1, After: 2 << 20})
	done := make(chan struct{})
	interrupt(t, u.ref(), u.flags[1], func() {
		r, w := io.Pipe()
		go func() {
			defer close(done)
			if code := run(append([]string{"ls", u.ref()}, u.flags...), io.Discard, w); code != exitOK {
				t.Errorf("exit code %d", code)
			}
		}()
		lines := bufio.NewReader(r)
		if line, err := lines.ReadString('\n'); !strings.Contains(line, "waiting for another imgfs") {
			t.Errorf("it says %q (%v)", line, err)
		}
		go io.Copy(io.Discard, lines)
	})
	<-done
	asked := u.registry.Requests(func(q testimage.Request) bool { return strings.HasSuffix(q.Path, u.layer.String()) })
	if len(asked) != 2 || asked[0].Range != "" || !strings.HasSuffix(asked[1].Range, fmt.Sprintf("-%d", len(u.bundle.Blobs[u.layer])-1)) {
		t.Errorf("the layer was asked for %+v", asked)
	}
}

// The size of a part's blob is what an image has claimed, of which nothing may have come true.
func TestAPartOfABlobTellsNoSize(t *testing.T) {
	u := newUser(t)
	size := int64(len(u.bundle.Blobs[u.layer]))
	c, err := cache.Open(u.flags[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u.tear(0, size-1)
	if _, err := (store{c}).BlobSize(u.layer); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a part: %v", err)
	}
	u.tear(0, size)
	if n, err := (store{c}).BlobSize(u.layer); n != size || err != nil {
		t.Errorf("of a whole blob: %d, %v", n, err)
	}
}
