package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

func TestBlobsKeepTheContractOfReaderAt(t *testing.T) {
	content := noise(5000)
	refs := places(t, imageOf(content, nil).Bundle())
	for place, ref := range refs {
		f, _ := newFetcher(t, Options{})
		b := openBlob(t, f, ref, 0)
		if b.Local() != strings.HasPrefix(place, "layout") || b.Size() != int64(len(content)) {
			t.Errorf("%s: local %v, size %d", place, b.Local(), b.Size())
		}
		if err := iotest.TestReader(io.NewSectionReader(b, 0, b.Size()), content); err != nil {
			t.Errorf("%s: %v", place, err)
		}
		for _, test := range []struct {
			off  int64
			len  int
			want int
			err  error
		}{
			{0, 5000, 5000, nil}, {4999, 1, 1, nil}, {4990, 20, 10, io.EOF}, {5000, 1, 0, io.EOF}, {1 << 62, 1, 0, io.EOF},
			{-1, 1, 0, fs.ErrInvalid}, {7, 0, 0, nil}, {0, 6000, 5000, io.EOF},
		} {
			p := make([]byte, test.len)
			n, err := b.ReadAt(p, test.off)
			if n != test.want || !errors.Is(err, test.err) || n > 0 && !bytes.Equal(p[:n], content[test.off:][:n]) {
				t.Errorf("%s: %d bytes at %d: %d, %v", place, test.len, test.off, n, err)
			}
		}
		stream, err := b.Open(t.Context(), 0, b.Size())
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(stream, content); err != nil {
			t.Errorf("%s: stream: %v", place, err)
		}
		for _, test := range []struct {
			off, n int64
			err    error
		}{
			{0, 1, nil}, {10, 4990, nil}, {4999, 1, nil}, {5000, 0, nil}, {7, 0, nil}, {2000, 1000, nil},
			{-1, 1, fs.ErrInvalid}, {0, -1, fs.ErrInvalid}, {5001, 0, fs.ErrInvalid}, {1, 5000, fs.ErrInvalid}, {1, 1<<63 - 1, fs.ErrInvalid},
		} {
			got, err := readStream(t.Context(), b, test.off, test.off+test.n)
			if !errors.Is(err, test.err) || err == nil && !bytes.Equal(got, content[test.off:][:test.n]) {
				t.Errorf("%s: a stream of %d bytes at %d: %d bytes, %v", place, test.n, test.off, len(got), err)
			}
		}
		if empty := openBlob(t, f, ref, 1); empty.Size() != 0 {
			t.Errorf("%s: the empty layer has %d bytes", place, empty.Size())
		} else if n, err := empty.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
			t.Errorf("%s: the empty layer gives %d, %v", place, n, err)
		}
		b.Close()
		if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: a read after Close: %v", place, err)
		}
	}
}

// operations are ways to read a blob. Each returns how far it got, and why no further.
var operations = map[string]func(ctx context.Context, b *Blob) ([]byte, error){
	"a range in the middle": func(_ context.Context, b *Blob) ([]byte, error) { return readRange(b, 1000, 3000) },
	"all in one range":      func(_ context.Context, b *Blob) ([]byte, error) { return readRange(b, 0, b.Size()) },
	"many ranges":           manyRanges,
	"the stream": func(ctx context.Context, b *Blob) ([]byte, error) {
		return readStream(ctx, b, 0, b.Size())
	},
	"a part of the stream": func(ctx context.Context, b *Blob) ([]byte, error) { return readStream(ctx, b, 1000, 3000) },
}

func readStream(ctx context.Context, b *Blob, lo, hi int64) ([]byte, error) {
	r, err := b.Open(ctx, lo, hi-lo)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func readRange(b *Blob, lo, hi int64) ([]byte, error) {
	p := make([]byte, hi-lo)
	n, err := b.ReadAt(p, lo)
	return p[:n], err
}

func manyRanges(_ context.Context, b *Blob) ([]byte, error) {
	var all []byte
	for off := int64(0); off < b.Size(); off += 900 {
		p, err := readRange(b, off, min(off+900, b.Size()))
		all = append(all, p...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func wanted(operation string, content []byte) []byte {
	if isPart(operation) {
		return content[1000:3000]
	}
	return content
}

// isPart tells whether an operation reads bytes 1000 to 3000 alone.
func isPart(operation string) bool {
	return operation == "a range in the middle" || operation == "a part of the stream"
}

// An outcome is what a fault makes of the operations.
type outcome struct {
	always error            // all end with it; nil: all give the right bytes
	but    map[string]error // exceptions
}

func (o outcome) of(operation string) error {
	if err, ok := o.but[operation]; ok {
		return err
	}
	return o.always
}

var errAny = errors.New("any error")

func TestFaultsGiveTheRightBytesOrAnError(t *testing.T) {
	const forever, once, twice = 0, 1, 2
	blobs := func(k testimage.Kind, times int) testimage.Fault {
		return testimage.Fault{On: testimage.Blobs, Kind: k, Times: times, After: 500}
	}
	refuse := func(on testimage.Part, status, times int, after string) testimage.Fault {
		return testimage.Fault{On: on, Kind: testimage.Refuse, Status: status, Times: times, RetryAfter: after}
	}
	right := outcome{}
	noRanges := outcome{errors.ErrUnsupported, map[string]error{"all in one range": nil, "the stream": nil}}
	tests := []struct {
		name  string
		fault testimage.Fault
		want  outcome
	}{
		{"200 for ranges", blobs(testimage.IgnoreRange, forever), noRanges},
		{"a Content-Range that is another, twice", blobs(testimage.WrongRange, twice), right},
		{"a Content-Range that is another", blobs(testimage.WrongRange, forever), outcome{errAny, map[string]error{"the stream": nil}}},
		{"another total, once", blobs(testimage.WrongTotal, once), right},
		{"another total", blobs(testimage.WrongTotal, forever), outcome{errAny, map[string]error{"the stream": nil}}},
		{"ranges shorter than asked for", blobs(testimage.ShortRange, forever), outcome{}},
		{"a body that ends early, twice", blobs(testimage.Cut, twice), right},
		{"bodies that end early", blobs(testimage.Cut, forever), right}, // 500 bytes more each time
		{"bodies that end at once", testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut}, outcome{always: errAny}},
		{"a stall", blobs(testimage.Stall, once), right},
		{"503, thrice", refuse(testimage.Blobs, 503, 3, ""), right},
		{"503", refuse(testimage.Blobs, 503, forever, ""), outcome{always: errAny}},
		{"500, once", refuse(testimage.Blobs, 500, once, ""), right},
		{"429 with seconds, once", refuse(testimage.Blobs, 429, once, "5"), right},
		{"429 with an hour", refuse(testimage.Blobs, 429, forever, "3600"), outcome{always: errAny}},
		{"404", refuse(testimage.Blobs, 404, forever, ""), outcome{always: ErrNotFound}},
		{"401, once", refuse(testimage.Blobs, 401, once, ""), right},
		{"403", refuse(testimage.Blobs, 403, forever, ""), outcome{always: ErrUnauthorized}},
		{"416", refuse(testimage.Blobs, 416, forever, ""), outcome{always: errors.ErrUnsupported}},
		{"501", refuse(testimage.Blobs, 501, forever, ""), outcome{always: errors.ErrUnsupported}},
		{"418", refuse(testimage.Blobs, 418, forever, ""), outcome{always: errAny}},
		{"503 for tokens, twice", refuse(testimage.Tokens, 503, twice, ""), right},
		{"401 for tokens", refuse(testimage.Tokens, 401, forever, ""), outcome{always: ErrUnauthorized}},
		{"503 for pings, once", refuse(testimage.Pings, 503, once, ""), right},
		{"404 for pings", refuse(testimage.Pings, 404, forever, ""), outcome{always: errAny}},
	}
	content := noise(4096)
	for _, redirect := range []int{0, http.StatusTemporaryRedirect, http.StatusFound} {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(content).Bundle())
		r.RedirectBlobs(redirect)
		r.RequireBearer("", "")
		for _, test := range tests {
			for operation, read := range operations {
				t.Run(fmt.Sprintf("%s/%s/redirect %d", test.name, operation, redirect), func(t *testing.T) {
					defer r.Heal()
					f, _ := newFetcher(t, Options{})
					if test.fault.Kind == testimage.Stall {
						f.stall = 100 * time.Millisecond
					}
					b := openBlob(t, f, r.Host()+"/a:t", 0)
					r.ExpireTokens()
					r.Inject(test.fault)
					got, err := read(t.Context(), b)
					want := wanted(operation, content)
					if !bytes.HasPrefix(want, got) {
						t.Fatalf("other bytes than those of the blob (%v)", err)
					}
					switch kind := test.want.of(operation); {
					case kind == nil && (err != nil || len(got) != len(want)):
						t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
					case kind == errAny && err == nil, kind != errAny && !errors.Is(err, kind):
						t.Errorf("%d bytes, %v; want %v", len(got), err, kind)
					}
				})
			}
		}
	}
}

func TestCorruptBytesAreForTheReaderToFind(t *testing.T) {
	content := noise(4096)
	r := startRegistry(t)
	r.Push("a", "t", imageOf(content).Bundle())
	f, _ := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Corrupt, Times: 1, After: 3})
	p, err := readRange(b, 10, 20)
	if err != nil || bytes.Equal(p, content[10:20]) {
		t.Fatalf("the fault did not strike (%v)", err)
	}
	if p, err := readRange(b, 10, 20); err != nil || !bytes.Equal(p, content[10:20]) {
		t.Errorf("what was got once is got again: %v", err)
	}
}

func TestRetriesKeepToTheDeadlineAndToRetryAfter(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(100)).Bundle())
	f, c := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)

	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 429, RetryAfter: "7", Times: 1})
	if _, err := readRange(b, 0, 10); err != nil || c.total() != 7*time.Second {
		t.Errorf("Retry-After of 7 s: waited %v (%v)", c.total(), err)
	}
	date := c.now().Add(9 * time.Second).UTC().Format(http.TimeFormat)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 503, RetryAfter: date, Times: 1})
	if _, err := readRange(b, 0, 10); err != nil || c.total() != 16*time.Second {
		t.Errorf("Retry-After of a date in 9 s: waited %v (%v)", c.total()-7*time.Second, err)
	}
	c.slept = nil
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 503})
	_, err := readRange(b, 0, 10)
	if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable") || !regexp.MustCompile(`after \d+ attempts in [23]\ds`).MatchString(err.Error()) {
		t.Errorf("503 for ever: %v", err)
	}
	if c.total() < 20*time.Second || c.total() > 30*time.Second {
		t.Errorf("503 for ever: waited %v", c.total())
	}
	for i, d := range c.slept {
		if d > 8*time.Second || i > 0 && d == c.slept[i-1] {
			t.Errorf("pauses are not jittered: %v", c.slept)
		}
	}
	r.Heal()
	c.slept = nil
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Refuse, Status: 429, RetryAfter: "31"})
	if _, err := readRange(b, 0, 10); err == nil || c.total() != 0 || !strings.Contains(err.Error(), "asks for a pause of 31s") {
		t.Errorf("a Retry-After that is past the deadline: waited %v (%v)", c.total(), err)
	}
	if got := f.Stats(); got.Retries < 5 || got.Requests == 0 || got.Bytes == 0 {
		t.Errorf("stats: %+v", got)
	}
}

func TestARegistryThatIsDownIsAnErrorAfterTheDeadline(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(4096)).Bundle())
	f, c := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Close()
	for operation, read := range operations {
		c.slept = nil
		if got, err := read(t.Context(), b); err == nil || len(got) > 0 || c.total() < 20*time.Second {
			t.Errorf("%s: %d bytes, waited %v, %v", operation, len(got), c.total(), err)
		}
	}
	if _, err := f.Resolve(t.Context(), parse(t, r.Host()+"/a:t")); err == nil || !strings.Contains(err.Error(), r.Host()) {
		t.Errorf("resolve: %v", err)
	}
}

func TestWhatArrivedBeforeAFaultIsNotFetchedAgain(t *testing.T) {
	content := noise(4096)
	for operation, read := range operations {
		r := startRegistry(t)
		r.Push("a", "t", imageOf(content).Bundle())
		f, _ := newFetcher(t, Options{})
		b := openBlob(t, f, r.Host()+"/a:t", 0)
		before := f.Stats().Bytes
		r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, Times: 5, After: 300})
		got, err := read(t.Context(), b)
		if err != nil {
			t.Errorf("%s: %v", operation, err)
		}
		if n := f.Stats().Bytes - before; n != int64(len(got)) {
			t.Errorf("%s: %d bytes fetched for %d", operation, n, len(got))
		}
	}
}

func TestAStreamWithoutRangesStartsAgainAndSkips(t *testing.T) {
	content := noise(4096)
	r := startRegistry(t)
	r.Push("a", "t", imageOf(content).Bundle())
	f, _ := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, Times: 1, After: 3000})
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.IgnoreRange})
	if got, err := operations["the stream"](t.Context(), b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAPartOfAStreamGoesOnWithoutRanges(t *testing.T) {
	content := noise(4096)
	r := startRegistry(t)
	r.Push("a", "t", imageOf(content).Bundle())
	f, _ := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, Times: 1, After: 700})
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.IgnoreRange})
	if got, err := readStream(t.Context(), b, 1000, 3000); err != nil || !bytes.Equal(got, content[1000:3000]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	r.ForgetRequests()
	for range 3 {
		if _, err := readStream(t.Context(), b, 1000, 3000); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a part of another one: %v", err)
		}
	}
	if n := len(r.Requests(nil)); n != 1 {
		t.Errorf("%d requests for what is not to be had", n)
	}
}

func TestShortRangesOfAStreamAreNoFaults(t *testing.T) {
	content := noise(4096)
	r := startRegistry(t)
	r.Push("a", "t", imageOf(content).Bundle())
	f, c := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.ShortRange, After: 300})
	got, err := readStream(t.Context(), b, 1, 4096)
	if err != nil || !bytes.Equal(got, content[1:]) || c.total() > 0 || f.Stats().Retries > 0 {
		t.Errorf("%d bytes, %v; waited %v, retried %d times", len(got), err, c.total(), f.Stats().Retries)
	}
}

func TestTheContextEndsAStream(t *testing.T) {
	content := noise(1 << 20)
	r := startRegistry(t)
	b := imageOf(content).Bundle()
	r.Push("a", "t", b)
	dir := t.TempDir()
	if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: b}); err != nil {
		t.Fatal(err)
	}
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, After: 1000})
	for _, ref := range []string{r.Host() + "/a@" + b.Root.Digest.String(), "oci:" + dir} {
		store := newMemory()
		for d, content := range b.Blobs {
			store.docs[d] = content
		}
		f, _ := newFetcher(t, Options{Store: store})
		blob := openBlob(t, f, ref, 0)
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := blob.Open(ctx, 0, blob.Size())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if n, err := io.Copy(io.Discard, stream); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: after the context has ended the stream gives %d bytes and %v", ref, n, err)
		}
		stream.Close()
	}
}

func TestABlobOfAnotherSizeThanTheManifestSays(t *testing.T) {
	content := noise(4096)
	d := digest.FromBytes(content)
	for name, other := range map[string][]byte{"shorter": content[:4000], "longer": append(bytes.Clone(content), 1)} {
		r := startRegistry(t)
		b := imageOf(content).Bundle()
		r.Push("a", "t", b)
		r.Replace("a", d, other)
		f, _ := newFetcher(t, Options{})
		blob := openBlob(t, f, r.Host()+"/a:t", 0)
		if got, err := operations["the stream"](t.Context(), blob); !errors.Is(err, ErrMismatch) || len(got) != 0 {
			t.Errorf("%s: the stream gives %d bytes and %v", name, len(got), err)
		}
		if _, err := readRange(blob, 100, 200); err == nil {
			t.Errorf("%s: a range of it is served", name)
		}
		dir := t.TempDir()
		b.Blobs[d] = other
		if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: b}); err != nil {
			t.Fatal(err)
		}
		im := resolve(t, f, "oci:"+dir)
		_, err := f.Blob(t.Context(), im, im.Layers[0])
		var e *MismatchError
		if !errors.As(err, &e) || e.Expected != "4096" || e.Found != fmt.Sprint(len(other)) {
			t.Errorf("%s, layout: %v", name, err)
		}
	}
}

func TestOfflineBlobsAreNotFetched(t *testing.T) {
	r := startRegistry(t)
	b := imageOf(noise(10)).Bundle()
	r.Push("a", "t", b)
	store := newMemory()
	online, _ := newFetcher(t, Options{Store: store})
	resolve(t, online, r.Host()+"/a:t")
	r.ForgetRequests()
	offline, _ := newFetcher(t, Options{Store: store, Offline: true})
	blob := openBlob(t, offline, r.Host()+"/a:t", 0)
	for operation, read := range operations {
		if isPart(operation) {
			continue // of a larger blob
		}
		if _, err := read(t.Context(), blob); !errors.Is(err, ErrOffline) {
			t.Errorf("%s: %v", operation, err)
		}
	}
	if n := len(r.Requests(nil)); n != 0 {
		t.Errorf("%d requests offline", n)
	}
}

func TestTokensThatExpireMidReadAreRenewed(t *testing.T) {
	content := noise(1 << 20)
	r := startRegistry(t)
	r.Push("a", "t", imageOf(content).Bundle())
	r.RequireBearer("", "")
	f, _ := newFetcher(t, Options{})
	b := openBlob(t, f, r.Host()+"/a:t", 0)
	stream, err := b.Open(t.Context(), 0, b.Size())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	r.ExpireTokens()
	r.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Cut, Times: 2, After: 1000})
	if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for off := int64(0); off < 4; off++ {
		r.ExpireTokens()
		if p, err := readRange(b, off, off+100); err != nil || !bytes.Equal(p, content[off:off+100]) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

func TestLayoutFilesThatAreRefused(t *testing.T) {
	content := []byte("layer")
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, content, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a symlink out of the layout": func(path string) error { return os.Symlink(secret, path) },
		"a FIFO":                      mkfifo,
		"a directory":                 func(path string) error { return os.Mkdir(path, 0o755) },
		"nothing":                     func(string) error { return nil },
	} {
		dir := t.TempDir()
		if err := testimage.WriteLayout(dir, testimage.Tagged{Bundle: imageOf(content).Bundle()}); err != nil {
			t.Fatal(err)
		}
		path := testimage.BlobPath(dir, digest.FromBytes(content))
		if err := errors.Join(os.Remove(path), put(path)); err != nil {
			t.Fatal(err)
		}
		f, _ := newFetcher(t, Options{})
		im := resolve(t, f, "oci:"+dir)
		if _, err := f.Blob(t.Context(), im, im.Layers[0]); err == nil || name == "nothing" && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
