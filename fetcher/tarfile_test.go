package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/internal/testimage"
)

// fileServer serves content under any path, but at /moved a redirect to elsewhere, and at /whole no ranges. It remembers
// the headers of all requests.
func fileServer(t *testing.T, content []byte, elsewhere string) (url string, headers *[]http.Header) {
	t.Helper()
	headers = new([]http.Header)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		*headers = append(*headers, req.Header)
		switch req.URL.Path {
		case "/none":
			http.NotFound(w, req)
		case "/forbidden":
			http.Error(w, "no", http.StatusForbidden)
		case "/moved":
			http.Redirect(w, req, elsewhere+"/x?signature=canary-redirect", http.StatusFound)
		case "/whole":
			w.Write(content)
		default:
			w.Header().Set("ETag", `"v1"`)
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, headers
}

func TestATarAtAURLIsReadByRanges(t *testing.T) {
	content := gzipped(t, testimage.Tar(testimage.File("etc/passwd", "root")))
	other, there := fileServer(t, content, "")
	url, here := fileServer(t, content, other)
	var seen []TarFile
	f, _ := newFetcher(t, Options{
		Creds: "canary-user:canary-password",
		OpenTar: func(ctx context.Context, file TarFile) (Tar, error) {
			seen = append(seen, file)
			return unzip(ctx, file)
		},
	})
	for _, path := range []string{"/x.tar.gz", "/x.tar.gz?signature=canary-query", "/moved", "/whole"} {
		im := resolve(t, f, "tar:"+url+path)
		if l := im.Layers[0]; l.Digest != digest.FromBytes(content) || im.Ref.String() != "tar:"+url+path {
			t.Errorf("%s: %s is %+v", path, im.Ref, l)
		}
		checkLayers(t, f, im, content)
		b, err := f.Blob(t.Context(), im, im.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		p, err := readRange(b, 3, 9)
		if path == "/whole" != errors.Is(err, errors.ErrUnsupported) || err == nil && !bytes.Equal(p, content[3:9]) {
			t.Errorf("%s: a range gives %q (%v)", path, p, err)
		}
	}
	for _, h := range append(*here, *there...) {
		if h.Get("Authorization") != "" {
			t.Errorf("credentials go with a request: %v", h)
		}
	}
	for i, file := range seen {
		if strings.Contains(file.Name, "canary") || (file.Stamp == "") != (i == 3) {
			t.Errorf("%d: %+v", i, file)
		}
	}
	if seen[0].Name == seen[1].Name || seen[0].Stamp != seen[1].Stamp {
		t.Errorf("the names of two files, and their stamps: %+v", seen)
	}
}

func TestURLsThatNameNoTar(t *testing.T) {
	url, _ := fileServer(t, nil, "")
	for _, test := range []struct {
		ref  string
		kind error
	}{
		{"tar:" + url + "/none?canary", ErrNotFound},
		{"tar:" + url + "/forbidden?canary", ErrUnauthorized},
		{"tar:http://files.example/x.tar?canary", ErrReference},
		{"tar:https://canary:canary@files.example/x.tar", ErrReference},
		{"tar:https://files.example/x.tar#canary", ErrReference},
		{"tar:https://?canary", ErrReference},
		{"tar:https://%zz/canary", ErrReference},
	} {
		f, _ := newFetcher(t, Options{OpenTar: unzip})
		ref, err := ParseReference(test.ref)
		if err == nil {
			_, err = f.Resolve(t.Context(), ref)
		}
		if !errors.Is(err, test.kind) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", test.ref, err)
		}
	}
	f, _ := newFetcher(t, Options{OpenTar: unzip, Offline: true})
	if _, err := f.Resolve(t.Context(), parse(t, "tar:"+url+"/x")); !errors.Is(err, ErrOffline) {
		t.Errorf("offline: %v", err)
	}
}

func TestAURLIsWrittenAsItIsRead(t *testing.T) {
	for in, name := range map[string]string{
		"tar:https://files.example/a%20b.tar.gz": "tar:https://files.example/a%20b.tar.gz",
		"tar:https://files.example:8443/x?a=b":   "tar:https://files.example:8443/x?…",
		"tar:http://localhost/x":                 "tar:http://localhost/x",
	} {
		if r := parse(t, in); r.String() != in || r.Name() != name || parse(t, r.String()) != r {
			t.Errorf("%s is %s, and called %s", in, r, r.Name())
		}
		if ref, path := SplitPath(in + ":/etc/passwd"); ref != in || path != "/etc/passwd" {
			t.Errorf("%s with a path is split into %s and %s", in, ref, path)
		}
	}
}

func TestAStampIsAnotherWhenTheFileIs(t *testing.T) {
	if s := urlStamp(1, http.Header{"Etag": {`W/"weak"`}}); s != "" {
		t.Errorf("a weak validator gives %q", s)
	}
	if a, b := urlStamp(1, http.Header{"Etag": {`"a"`}}), urlStamp(2, http.Header{"Etag": {`"a"`}}); a == b {
		t.Errorf("%s for files of two sizes", a)
	}
	path := writeArchive(t, nil)
	file, info, err := openPlain(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if s := fileStamp(info); s != "" {
		t.Errorf("%s is the stamp of a file that has just been written, and may be written again unnoticed", s)
	}
}

func TestAFileThatIsChangedWhileItIsFetchedIsNotMixed(t *testing.T) {
	for told, fails := range map[string]string{"ETag": "has been changed", "Last-Modified": "has been changed", "": "does not tell", "same": ""} {
		content := map[bool][]byte{true: bytes.Repeat([]byte("a"), 1<<16), false: bytes.Repeat([]byte("b"), 1<<16)}
		var isNew atomic.Bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			old, modified := !isNew.Load(), time.Unix(1e9, 0)
			if !old && told != "same" {
				modified = modified.Add(time.Hour)
			}
			switch told {
			case "ETag", "same":
				w.Header().Set("ETag", fmt.Sprintf(`"%v"`, modified.Unix()))
				modified = time.Time{}
			case "":
				modified = time.Time{}
			}
			if req.Header.Get("Range") == "" { // the stream, which breaks half-way: then there is another file
				w.Header().Set("Content-Length", "65536")
				if !modified.IsZero() {
					w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
				}
				w.Write(content[true][:1<<15])
				w.(http.Flusher).Flush()
				isNew.Store(true)
				panic(http.ErrAbortHandler)
			}
			http.ServeContent(w, req, "", modified, bytes.NewReader(content[old || told == "same"]))
		}))
		t.Cleanup(server.Close)
		f, _ := newFetcher(t, Options{OpenTar: func(ctx context.Context, file TarFile) (Tar, error) {
			defer file.Blob.Close()
			r, err := file.Blob.Open(ctx, 0, file.Blob.Size())
			if err != nil {
				return nil, err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(b, content[true]) {
				t.Errorf("%q: of two files came %d and %d bytes", told, bytes.Count(b, []byte("a")), bytes.Count(b, []byte("b")))
			}
			return memoryTar{}, err
		}})
		_, err := f.openTar(t.Context(), parse(t, "tar:"+server.URL+"/x?canary"))
		if fails == "" != (err == nil) || err != nil && (!strings.Contains(err.Error(), fails) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%q: %v", told, err)
		}
	}
}
