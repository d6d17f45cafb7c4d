package fetcher

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"imgfs/internal/testimage"
)

func TestTagsAreListedHoweverManyThereAre(t *testing.T) {
	for _, n := range []int{0, 1, tagsAtOnce, tagsAtOnce + 1, 3*tagsAtOnce + 7} {
		r := startRegistry(t)
		bundle := imageOf(noise(10)).Bundle()
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf("v%05d", i))
			r.Push("team/a", want[i], bundle)
		}
		r.Push("team/a", "", bundle)
		r.RequireBearer("me", "canary")
		r.Inject(testimage.Fault{On: testimage.Manifests, Kind: testimage.Refuse, Status: 503, Times: 1})
		f, _ := newFetcher(t, Options{Creds: "me:canary"})
		got, err := f.Tags(t.Context(), parse(t, r.Host()+"/team/a"))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %d tags, %d are listed, %v", n, len(got), err)
		}
	}
}

func TestTagsOfWhatIsNotThere(t *testing.T) {
	r := startRegistry(t)
	f, _ := newFetcher(t, Options{})
	if _, err := f.Tags(t.Context(), parse(t, r.Host()+"/a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("no repository: %v", err)
	}
	if _, err := f.Tags(t.Context(), parse(t, "oci:"+t.TempDir())); !errors.Is(err, ErrReference) {
		t.Errorf("a layout: %v", err)
	}
	f, _ = newFetcher(t, Options{Offline: true})
	if _, err := f.Tags(t.Context(), parse(t, r.Host()+"/a")); !errors.Is(err, ErrOffline) {
		t.Errorf("offline: %v", err)
	}
}

func TestListsOfTagsThatMakeNoSense(t *testing.T) {
	evil := startRegistry(t)
	for name, serve := range map[string]http.HandlerFunc{
		"no JSON":        func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no tag":         func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"tags":["a","\u001b[2J"]}`) },
		"too large":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxTagPage+1)) },
		"the same again": linked(`{"tags":["a"]}`, `<?n=1000>; rel=next`),
		"nothing, for ever": func(w http.ResponseWriter, req *http.Request) {
			linked(`{"tags":[]}`, fmt.Sprintf(`<?last=%s1>; rel="next"`, req.URL.Query().Get("last")))(w, req)
		},
		"another server": linked(`{"tags":["a"]}`, fmt.Sprintf(`<http://%s/v2/a/tags/list>; rel="next"`, evil.Host())),
		"another scheme": linked(`{"tags":["a"]}`, `<file:///etc/passwd>; rel="next"`),
		"no URL":         linked(`{"tags":["a"]}`, `<::>; rel="next"`),
	} {
		host := oddRegistry(t, serve)
		f, _ := newFetcher(t, Options{})
		if got, err := f.Tags(t.Context(), parse(t, host+"/a")); !errors.Is(err, ErrMalformed) || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if n := asked(evil, ""); n > 0 {
		t.Errorf("another server was asked %d times", n)
	}
}

// linked answers with a body and a header Link.
func linked(body, link string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", link)
		fmt.Fprint(w, body)
	}
}

func TestTheNextPageIsFoundAmongLinks(t *testing.T) {
	for link, want := range map[string]string{
		`</v2/a?n=1>; rel="next"`: "/v2/a?n=1", `</x>; rel=prev, </y?a=1,2>; title="z"; rel=NEXT`: "/y?a=1,2",
		`</x>; rel="prev"`: "", `</x>`: "", `/x; rel="next"`: "", `</x; rel="next"`: "", ``: "",
	} {
		if got := nextLink(http.Header{"Link": {link}}); got != want {
			t.Errorf("%s: %q, want %q", link, got, want)
		}
	}
}
