package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

// checkPushed compares what a registry has with what it should have been sent.
func checkPushed(t testing.TB, r *testimage.Registry, repo, tag string, want testimage.Bundle) {
	t.Helper()
	got := r.Pushed(repo, tag)
	if got.Root.Digest != want.Root.Digest || got.Root.MediaType != want.Root.MediaType {
		t.Errorf("%s:%s names the %s %s, want the %s %s", repo, tag, got.Root.MediaType, got.Root.Digest, want.Root.MediaType, want.Root.Digest)
	}
	if !slices.Equal(got.Digests(), want.Digests()) {
		t.Errorf("%s has %v, want %v", repo, got.Digests(), want.Digests())
	}
	if diff := cmp.Diff(want.Types, got.Types); diff != "" {
		t.Errorf("media types in %s: %s", repo, diff)
	}
}

// counts returns how many requests of each method a registry and its storage have had, but for tokens.
func counts(r *testimage.Registry) map[string]int {
	n := map[string]int{}
	for _, q := range r.Requests(nil) {
		if q.Path != "/token" && q.Path != "/v2/" {
			n[q.Method]++
		}
	}
	return n
}

func TestWhatIsPushedIsWhatWasThere(t *testing.T) {
	amd, arm := imageOf(noise(70_000), noise(20), []byte{}), imageOf(noise(70_000), noise(500))
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	docker, sha512 := amd, amd
	docker.Docker, sha512.Algorithm = true, digest.SHA512
	index := testimage.Index(amd.Bundle(), testimage.Attestation(amd.Bundle()), testimage.Index(arm.Bundle()))
	for name, want := range map[string]testimage.Bundle{
		"an image": amd.Bundle(), "an image of Docker's": docker.Bundle(), "an image of SHA-512": sha512.Bundle(),
		"an index": index, "a list of Docker's": testimage.DockerList(docker.Bundle(), arm.Bundle()),
	} {
		for auth, set := range map[string]func(*testimage.Registry){
			"open": func(*testimage.Registry) {}, "basic": func(r *testimage.Registry) { r.RequireBasic("me", "secret") },
			"bearer": func(r *testimage.Registry) { r.RequireBearer("me", "secret") }, "to storage": (*testimage.Registry).UploadToStorage,
			"moved": func(r *testimage.Registry) { r.RedirectUploads(http.StatusTemporaryRedirect) },
		} {
			t.Run(name+"/"+auth, func(t *testing.T) {
				src, dst := startRegistry(t), startRegistry(t)
				src.Push("a/b", "t", want)
				set(dst)
				from, _ := newFetcher(t, Options{})
				b := bundleFrom(t, from, src.Host()+"/a/b:t", true)
				f, _ := newFetcher(t, Options{Creds: "me:secret"})
				pushed, err := f.Push(t.Context(), parse(t, dst.Host()+"/c/d:new"), b)
				if err != nil {
					t.Fatal(err)
				}
				if blobs := len(want.Blobs) - len(want.Types); pushed.Uploaded != blobs || pushed.Present+pushed.Mounted > 0 || pushed.Name != dst.Host()+"/c/d@"+want.Root.Digest.String() {
					t.Errorf("%+v, and there are %d blobs", *pushed, blobs)
				}
				checkPushed(t, dst, "c/d", "new", want)
				dst.ForgetRequests()
				pushed, err = f.Push(t.Context(), parse(t, dst.Host()+"/c/d:new"), b)
				if n := counts(dst); err != nil || pushed.Uploaded+pushed.Mounted > 0 || n["PUT"]+n["POST"] > 0 {
					t.Errorf("a second time: %+v, %v, %v", pushed, n, err)
				}
			})
		}
	}
}

func TestAnImageIsPushedWithoutItsIndex(t *testing.T) {
	r := startRegistry(t)
	amd, arm := imageOf(noise(10)), imageOf(noise(20))
	arm.Platform = v1.Platform{OS: "linux", Architecture: "arm64"}
	r.Push("a", "t", testimage.Index(amd.Bundle(), arm.Bundle()))
	f, _ := newFetcher(t, Options{Platform: "linux/arm64"})
	if _, err := f.Push(t.Context(), parse(t, r.Host()+"/b:t"), bundleFrom(t, f, r.Host()+"/a:t", false)); err != nil {
		t.Fatal(err)
	}
	checkPushed(t, r, "b", "t", arm.Bundle())
}

func TestBlobsOfTheSameRegistryAreMounted(t *testing.T) {
	r := startRegistry(t)
	r.RequireBearer("me", "secret")
	want := imageOf(noise(100), noise(200)).Bundle()
	r.Push("a/b", "t", want)
	f, _ := newFetcher(t, Options{Creds: "me:secret"})
	b := bundleFrom(t, f, r.Host()+"/a/b:t", false)
	pushed, err := f.Push(t.Context(), parse(t, r.Host()+"/c:t"), b)
	if err != nil || pushed.Mounted != 3 || pushed.Uploaded+pushed.Present > 0 {
		t.Errorf("%+v, %v", pushed, err)
	}
	checkPushed(t, r, "c", "t", want)
	asked := func(q testimage.Request) bool {
		return q.Path == "/token" && strings.Contains(q.Query, "c%3Apull%2Cpush") && strings.Contains(q.Query, "a%2Fb%3Apull")
	}
	if len(r.Requests(asked)) != 1 {
		t.Errorf("no token was asked for both repositories: %v", r.Requests(func(q testimage.Request) bool { return q.Path == "/token" }))
	}
	r.RefuseMounts()
	if pushed, err = f.Push(t.Context(), parse(t, r.Host()+"/d:t"), b); err != nil || pushed.Uploaded != 3 || pushed.Mounted+pushed.Present > 0 {
		t.Errorf("where nothing is mounted: %+v, %v", pushed, err)
	}
	checkPushed(t, r, "d", "t", want)
	if pushed, err = f.Push(t.Context(), parse(t, r.Host()+"/a/b:other"), b); err != nil || pushed.Present != 3 || pushed.Uploaded+pushed.Mounted > 0 {
		t.Errorf("in the same repository: %+v, %v", pushed, err)
	}
	checkPushed(t, r, "a/b", "other", want)
}

// A token server may give no token at all where it would not give all that is asked for.
func TestWithoutATokenForBothRepositoriesNothingIsMounted(t *testing.T) {
	c := pushCanary(newWorld(t), "https://reg.example:443")
	c.odd = func(rw http.ResponseWriter, req *http.Request, _ string) bool {
		if req.URL.Path == "/token" && strings.Contains(req.URL.RawQuery, "private") {
			rw.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	if err := c.push(t, "reg.example", "a password", "reg.example/private:t", Options{}); err != nil || !c.complete() {
		t.Error(err)
	}
}

func TestFaultsOfAPushAreTriedAgain(t *testing.T) {
	want := imageOf(noise(300_000), noise(200)).Bundle()
	for name, fault := range map[string]testimage.Fault{
		"a refused upload":         {On: testimage.Uploads, Kind: testimage.Refuse, Status: 503, Times: 3},
		"too many requests":        {On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 429, RetryAfter: "2", Times: 2},
		"a forgotten upload":       {On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 404, Times: 2},
		"a token that has expired": {On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 401, Times: 1},
		"a broken connection":      {On: testimage.UploadBodies, Kind: testimage.Cut, After: 100, Times: 3},
		"a refused manifest":       {On: testimage.Manifests, Kind: testimage.Refuse, Status: 500, Times: 3},
		"a blob that is asked for": {On: testimage.Blobs, Kind: testimage.Refuse, Status: 502, Times: 3},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := startRegistry(t), startRegistry(t)
			src.Push("a", "t", want)
			f, _ := newFetcher(t, Options{})
			b := bundleFrom(t, f, src.Host()+"/a:t", false)
			dst.Inject(fault)
			if _, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b); err != nil {
				t.Fatal(err)
			}
			checkPushed(t, dst, "a", "t", want)
			if hits := dst.Hits(fault.Kind); hits != fault.Times {
				t.Errorf("%d requests were struck, want %d", hits, fault.Times)
			}
		})
	}
}

func TestAPushThatCannotBeEndsWithAReason(t *testing.T) {
	want := imageOf(noise(300_000)).Bundle()
	for name, test := range map[string]struct {
		fault testimage.Fault
		kind  error
		say   string
	}{
		"refused":             {testimage.Fault{On: testimage.Uploads, Kind: testimage.Refuse, Status: 403}, ErrUnauthorized, "refuses access"},
		"refused for a blob":  {testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 403}, ErrUnauthorized, "refuses access"},
		"too large":           {testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 413}, nil, "413"},
		"no such manifests":   {testimage.Fault{On: testimage.Manifests, Kind: testimage.Refuse, Status: 400}, nil, "400"},
		"never":               {testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 503}, nil, "attempts"},
		"always broken":       {testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Cut, After: 200_000}, nil, "attempts"},
		"forgotten each time": {testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Refuse, Status: 404}, ErrNotFound, "attempts"},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := startRegistry(t), startRegistry(t)
			src.Push("a", "t", want)
			f, clock := newFetcher(t, Options{})
			b := bundleFrom(t, f, src.Host()+"/a:t", false)
			dst.Inject(test.fault)
			_, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b)
			if err == nil || !strings.Contains(err.Error(), test.say) || test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("%v, want one that says %q", err, test.say)
			}
			if root := dst.Pushed("a", "t").Root; root.Digest != "" {
				t.Errorf("the tag names %s", root.Digest)
			}
			if clock.total() > 2*f.timeout { // config and layer are uploaded side by side, each with its own patience
				t.Errorf("%v were waited for", clock.total())
			}
		})
	}
}

func TestARegistryThatTakesNothingMoreIsNotWaitedForWithoutEnd(t *testing.T) {
	src, dst := startRegistry(t), startRegistry(t)
	src.Push("a", "t", imageOf(noise(20<<20)).Bundle()) // more than fits into the buffers of a connection
	f, _ := newFetcher(t, Options{})
	b := bundleFrom(t, f, src.Host()+"/a:t", false)
	f.stall, f.timeout, f.now = 50*time.Millisecond, 200*time.Millisecond, time.Now
	dst.Inject(testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Stall, After: 100})
	_, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b)
	if err == nil || !strings.Contains(err.Error(), "silent") {
		t.Errorf("%v", err)
	}
}

// A registry may think about a large blob for longer than it may be silent otherwise.
func TestARegistryThatThinksIsWaitedFor(t *testing.T) {
	src, dst := startRegistry(t), startRegistry(t)
	want := imageOf(noise(5 * settleRate)).Bundle()
	src.Push("a", "t", want)
	f, _ := newFetcher(t, Options{})
	b := bundleFrom(t, f, src.Host()+"/a:t", false)
	dst.Push("a", "", testimage.Bundle{Blobs: map[digest.Digest][]byte{b.Configs[0].Digest: b.Configs[0].Content}})
	f.stall = 2 * time.Second // a loaded machine may be silent for less
	dst.Inject(testimage.Fault{On: testimage.UploadBodies, Kind: testimage.Stall, After: 1 << 30, Times: 1})
	go func() {
		for dst.Hits(testimage.Stall) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(f.stall + f.stall/2)
		dst.Heal()
	}()
	if _, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b); err != nil {
		t.Fatal(err)
	}
	checkPushed(t, dst, "a", "t", want)
	if n := asked(dst, "/blobs/uploads/"); n != 2 {
		t.Errorf("%d requests for one upload, want a POST and a PUT", n)
	}
}

func TestWrongBytesAreNotPushed(t *testing.T) {
	image := imageOf(noise(300_000))
	want := image.Bundle()
	d := digest.FromBytes(image.Layers[0].Blob)
	for name, content := range map[string][]byte{
		"other ones": append(noise(299_999), 'x'), "too few": noise(299_999), "too many": noise(300_001),
	} {
		t.Run(name, func(t *testing.T) {
			dst, layout := startRegistry(t), t.TempDir()
			if err := testimage.WriteLayout(layout, testimage.Tagged{Bundle: want}); err != nil {
				t.Fatal(err)
			}
			f, _ := newFetcher(t, Options{})
			b := bundleFrom(t, f, "oci:"+layout, false)
			b.Open = func(context.Context, v1.Descriptor) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(content)), nil
			}
			_, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b)
			if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), d.String()) {
				t.Errorf("%v", err)
			}
			if _, ok := dst.Pushed("a", "t").Blobs[d]; ok {
				t.Error("the registry has got it")
			}
			uploads := func(q testimage.Request) bool {
				return q.Method == http.MethodPut && strings.Contains(q.Query, d.Encoded())
			}
			if n := len(dst.Requests(uploads)); n > 1 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

func TestAMirrorThatServesWrongBytesIsDoubted(t *testing.T) {
	for by := range mirroredBy {
		m, dst := startMirrored(t, by, 1, Options{}), startRegistry(t)
		b := bundleFrom(t, m.fetcher, m.ref(), false)
		m.mirrors[0].Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Corrupt, After: 400})
		if _, err := m.fetcher.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b); err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		checkPushed(t, dst, "a", "t", m.bundle)
		if n := asked(m.origin, "/blobs/"); n != 1 {
			t.Errorf("%s: the registry was asked for %d blobs", by, n)
		}
	}
}

func TestMirrorsAreNeverPushedTo(t *testing.T) {
	for by := range mirroredBy {
		m, src := startMirrored(t, by, 2, Options{}), startRegistry(t)
		want := imageOf(noise(77)).Bundle()
		src.Push("b", "t", want)
		b := bundleFrom(t, m.fetcher, src.Host()+"/b:t", false)
		if _, err := m.fetcher.Push(t.Context(), parse(t, m.origin.Host()+"/b:t"), b); err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		checkPushed(t, m.origin, "b", "t", want)
		for i, mirror := range m.mirrors {
			if n := asked(mirror, ""); n > 0 {
				t.Errorf("%s: mirror %d was asked %d times", by, i, n)
			}
		}
		m.origin.Close()
		if _, err := m.fetcher.Push(t.Context(), parse(t, m.origin.Host()+"/b:u"), b); err == nil || asked(m.mirrors[0], "") > 0 {
			t.Errorf("%s: without the registry: %v", by, err)
		}
	}
}

func TestForeignLayersAreNotPushed(t *testing.T) {
	content := noise(500)
	src, dst := startRegistry(t), startRegistry(t)
	src.Push("elsewhere", "", imageOf(content).Bundle())
	url := fmt.Sprintf("http://%s/v2/elsewhere/blobs/%s", src.Host(), digest.FromBytes(content))
	src.Push("a", "t", foreignBundle(content, url))
	f, _ := newFetcher(t, Options{AllowForeign: true})
	b := bundleFrom(t, f, src.Host()+"/a:t", false)
	if _, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	if _, ok := dst.Pushed("a", "t").Blobs[d]; ok {
		t.Error("the foreign layer has been pushed")
	}
	b.Foreign = true
	if _, err := f.Push(t.Context(), parse(t, dst.Host()+"/a:t"), b); err != nil {
		t.Fatal(err)
	}
	if _, ok := dst.Pushed("a", "t").Blobs[d]; !ok {
		t.Error("asked for, the foreign layer has not been pushed")
	}
}

func TestPushesThatAreRefused(t *testing.T) {
	r := startRegistry(t)
	r.Push("a", "t", imageOf(noise(10)).Bundle())
	f, _ := newFetcher(t, Options{})
	b := bundleFrom(t, f, r.Host()+"/a:t", false)
	other := digest.FromString("other")
	if _, err := f.Push(t.Context(), parse(t, fmt.Sprintf("%s/b@%s", r.Host(), other)), b); !errors.Is(err, ErrMismatch) {
		t.Errorf("to another digest: %v", err)
	}
	if _, err := f.Push(t.Context(), parse(t, "oci:"+t.TempDir()), b); !errors.Is(err, ErrReference) {
		t.Errorf("to a layout: %v", err)
	}
	offline, _ := newFetcher(t, Options{Offline: true})
	if _, err := offline.Push(t.Context(), parse(t, r.Host()+"/b:t"), b); !errors.Is(err, ErrOffline) {
		t.Errorf("offline: %v", err)
	}
	if _, err := f.Push(t.Context(), parse(t, fmt.Sprintf("%s/b@%s", r.Host(), b.Root().Digest)), b); err != nil {
		t.Errorf("to its digest: %v", err)
	}
	if got := r.Pushed("b", ""); got.Blobs[b.Root().Digest] == nil {
		t.Error("a manifest without a tag is not there")
	}
}

// What a configuration says of pulls is not for pushes: they go to the registry that the name has, or nowhere.
func TestConfigurationsLeadNoPushElsewhere(t *testing.T) {
	want := imageOf(noise(50)).Bundle()
	for name, test := range map[string]struct {
		registries, hosts string // with ORIGIN and OTHER
		works             bool
	}{
		"moved":                {"[[registry]]\nprefix='ORIGIN/a'\nlocation='OTHER/a'\n", "", true},
		"moved within":         {"[[registry]]\nprefix='ORIGIN/a'\nlocation='ORIGIN/elsewhere'\n", "", true},
		"blocked":              {"[[registry]]\nprefix='ORIGIN/a'\nlocation='ORIGIN/a'\nblocked=true\n", "", false},
		"another server":       {"", "server='http://OTHER'\n", true},
		"hosts that may":       {"", "server='http://ORIGIN'\n[host.'http://OTHER']\ncapabilities=['pull','resolve','push']\n", true},
		"a server that may":    {"", "server='http://ORIGIN'\ncapabilities=['pull','push']\n", true},
		"a server that mayn't": {"", "server='http://ORIGIN'\ncapabilities=['pull','resolve']\n", false},
	} {
		origin, other, src := startRegistry(t), startRegistry(t), startRegistry(t)
		src.Push("s", "t", want)
		replace := strings.NewReplacer("ORIGIN", origin.Host(), "OTHER", other.Host()).Replace
		o := Options{RegistriesConf: filepath.Join(t.TempDir(), "registries.conf"), HostsDir: t.TempDir()}
		writeFile(t, o.RegistriesConf, replace(test.registries), 0o600)
		if test.hosts != "" {
			writeFile(t, filepath.Join(o.HostsDir, origin.Host(), "hosts.toml"), replace(test.hosts), 0o600)
		}
		f, _ := newFetcher(t, o)
		b := bundleFrom(t, f, src.Host()+"/s:t", false)
		if _, err := f.Push(t.Context(), parse(t, origin.Host()+"/a:t"), b); (err == nil) != test.works {
			t.Errorf("%s: %v", name, err)
		}
		if test.works {
			checkPushed(t, origin, "a", "t", want)
		}
		if n := asked(other, ""); n > 0 {
			t.Errorf("%s: another registry was asked %d times", name, n)
		}
	}
}
