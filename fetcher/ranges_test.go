package fetcher

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

func TestAServerWithoutRangesIsNoticedOnce(t *testing.T) {
	content := noise(4096)
	for name, fault := range map[string]testimage.Fault{
		"it ignores them":   {On: testimage.Blobs, Kind: testimage.IgnoreRange},
		"it answers 416":    {On: testimage.Blobs, Kind: testimage.RefuseRange, Status: 416},
		"it answers 501":    {On: testimage.Blobs, Kind: testimage.RefuseRange, Status: 501},
		"its storage does":  {On: testimage.Blobs, Kind: testimage.IgnoreRange},
		"its storage, 501":  {On: testimage.Blobs, Kind: testimage.RefuseRange, Status: 501},
		"only now and then": {On: testimage.Blobs, Kind: testimage.IgnoreRange, Times: 1},
	} {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(content).Bundle())
		if strings.Contains(name, "storage") {
			r.RedirectBlobs(http.StatusTemporaryRedirect)
		}
		var log bytes.Buffer
		f, c := newFetcher(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		if ok, err := b.Ranges(t.Context()); !ok || err != nil {
			t.Errorf("%s: a server with ranges: %v, %v", name, ok, err)
		}
		b = openBlob(t, f, r.Host()+"/a:t", 0)
		r.Inject(fault)
		r.ForgetRequests()
		for range 3 {
			if n, err := b.ReadAt(make([]byte, 10), 5); n > 0 || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
		}
		if ok, err := b.Ranges(t.Context()); ok || err != nil {
			t.Errorf("%s: ranges are there: %v, %v", name, ok, err)
		}
		if n := len(r.Requests(func(q testimage.Request) bool {
			return q.Range != "" && (q.Server == "storage") == strings.Contains(name, "storage")
		})); n != 1 {
			t.Errorf("%s: it was asked %d times for a range", name, n)
		}
		if strings.Count(log.String(), "does not serve ranges") != 1 || c.total() > 0 {
			t.Errorf("%s: waited %v, the log says %s", name, c.total(), &log)
		}
		if got, err := operations["the stream"](t.Context(), b); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the stream has %d bytes, %v", name, len(got), err)
		}
	}
}

func TestAPartThatIsTheWholeIsNoRange(t *testing.T) {
	content := []byte("0123456789")
	b := oddBlob(t, content, chunked(http.StatusPartialContent, fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)), content))
	if _, err := readRange(b, 2, 5); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a range: %v", err)
	}
	if got, err := operations["the stream"](t.Context(), b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the stream: %q, %v", got, err)
	}
}

func TestAMirrorWhoseBytesAreDoubtedIsNotAskedForThem(t *testing.T) {
	for by := range mirroredBy {
		m := startMirrored(t, by, 2, Options{})
		b := openBlob(t, m.fetcher, m.ref(), 0)
		if b.Doubt() {
			t.Errorf("%s: what has not been read is doubted", by)
		}
		for i, r := range m.mirrors {
			r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Corrupt, After: 1})
			if got, err := readRange(b, 0, 10); err != nil || bytes.Equal(got, m.content[:10]) {
				t.Errorf("%s, mirror %d: %v", by, i, err)
			}
			if !b.Doubt() {
				t.Errorf("%s, mirror %d: there is nobody else to ask", by, i)
			}
		}
		if got, err := readRange(b, 0, 10); err != nil || !bytes.Equal(got, m.content[:10]) {
			t.Errorf("%s: %v", by, err)
		}
		if b.Doubt() {
			t.Errorf("%s: the registry is doubted, and is the last", by)
		}
		if strings.Count(m.log.String(), "wrong bytes") != 2 {
			t.Errorf("%s: the log says %s", by, &m.log)
		}
	}
}
