package fetcher

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

// memory is a Store.
type memory struct {
	mu   sync.Mutex
	docs map[digest.Digest][]byte
	tags map[string]digest.Digest

	sizes map[digest.Digest]int64
}

func newMemory() *memory {
	return &memory{docs: map[digest.Digest][]byte{}, tags: map[string]digest.Digest{}}
}

func (m *memory) Document(d digest.Digest) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.docs[d]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
}

func (m *memory) PutDocument(d digest.Digest, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.docs[d] = b
	return nil
}

func (m *memory) TagDigest(ref string) (digest.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.tags[ref]; ok {
		return d, nil
	}
	return "", fmt.Errorf("%s: %w", ref, fs.ErrNotExist)
}

func (m *memory) PutTag(ref string, d digest.Digest, _ string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tags[ref] = d
	return nil
}

func (m *memory) BlobSize(d digest.Digest) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size, ok := m.sizes[d]; ok {
		return size, nil
	}
	return 0, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
}

// A clock goes on when somebody sleeps, and only then.
type clock struct {
	mu    sync.Mutex
	time  time.Time
	slept []time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
	c.slept = append(c.slept, d)
	return context.Cause(ctx)
}

func (c *clock) total() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum time.Duration
	for _, d := range c.slept {
		sum += d
	}
	return sum
}

// A lateLog is written to by what may go on after a call has returned, as a handshake does.
type lateLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lateLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lateLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newFetcher returns a Fetcher that finds no credentials of whoever runs the
// test, and a clock that it sleeps by.
func newFetcher(t testing.TB, o Options) (*Fetcher, *clock) {
	t.Helper()
	isolate(t)
	f, err := New(&o)
	if err != nil {
		t.Fatal(err)
	}
	if f.paths, err = findPaths(&o, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	c := &clock{time: time.Unix(1e9, 0)}
	f.now, f.sleep = c.now, c.sleep
	return f, c
}

// isolate hides the credentials of whoever runs the test.
func isolate(t testing.TB) {
	for _, env := range []string{"HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"} {
		t.Setenv(env, t.TempDir())
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
}

func startRegistry(t testing.TB) *testimage.Registry {
	r := testimage.StartRegistry()
	t.Cleanup(r.Close)
	return r
}

// noise returns n bytes that are the same in every run, and unlike their neighbours.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func layerOf(content []byte) testimage.Layer { return testimage.NewLayer(content, content) }

// imageOf returns an image of layers with that content.
func imageOf(contents ...[]byte) testimage.Image {
	var im testimage.Image
	for _, c := range contents {
		im.Layers = append(im.Layers, layerOf(c))
	}
	return im
}

func parse(t testing.TB, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func resolve(t testing.TB, f *Fetcher, s string) *Image {
	t.Helper()
	im, err := f.Resolve(t.Context(), parse(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func sourceOf(t testing.TB, f *Fetcher, ref Reference) source {
	t.Helper()
	_, src, err := f.source(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// openBlob returns layer n of what s names.
func openBlob(t testing.TB, f *Fetcher, s string, n int) *Blob {
	t.Helper()
	im := resolve(t, f, s)
	b, err := f.Blob(t.Context(), im, im.Layers[n])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
