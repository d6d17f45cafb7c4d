package fetcher

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// A TarFile is a tar that is to be indexed: a file, or what is at a URL.
type TarFile struct {
	Name string // its path, or the reference to its URL without what may be secret in it
	// Stamp is another one when the file has been changed; "" where that could not be told. It has the form of a media type.
	Stamp string
	Blob  *Blob // for whoever gets the TarFile to close
}

// openTar opens a tar for reading at random, at a path or at a URL.
func (f *Fetcher) openTar(ctx context.Context, ref Reference) (Tar, error) {
	if f.opts.OpenTar == nil {
		return nil, unsupported("%s: nothing is there to index it with", ref.Name())
	}
	file, err := f.tarFile(ctx, ref)
	if err != nil {
		return nil, err
	}
	t, err := f.opts.OpenTar(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Name(), err)
	}
	return t, nil
}

func (f *Fetcher) tarFile(ctx context.Context, ref Reference) (TarFile, error) {
	if u := ref.url(); u != nil {
		return f.tarAt(ctx, ref, u)
	}
	file, info, err := openPlain(ref.path)
	if err != nil {
		return TarFile{}, err
	}
	return TarFile{ref.path, fileStamp(info), &Blob{impl: &fileBlob{openFile{file, file, info.Size()}}}}, nil
}

// fileStamp returns the stamp of a file. Times of files go by ticks of some milliseconds, so that a change right after
// another one may not show.
func fileStamp(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || time.Since(time.Unix(0, max(st.Mtim.Nano(), st.Ctim.Nano()))) < time.Second {
		return ""
	}
	return fmt.Sprintf("application/x-tar; file=%x-%x-%x-%x-%x", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// parseTar parses FILE or a URL.
func parseTar(s string) (Reference, error) {
	if !isURL(s) {
		return parsePath("tar", s)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Fragment != "" {
		return Reference{}, errorf(ErrReference, "tar: what follows is not the URL of a file")
	}
	if u.User != nil {
		return Reference{}, errorf(ErrReference, "tar:%s://%s%s: a URL with a user in it is not taken", u.Scheme, u.Host, u.EscapedPath())
	}
	return Reference{transport: "tar", path: u.String()}, nil
}

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// url returns the URL of a tar; nil for all other references.
func (r Reference) url() *url.URL {
	if r.transport != "tar" || !isURL(r.path) {
		return nil
	}
	u, err := url.Parse(r.path)
	if err != nil {
		return nil
	}
	return u
}

// publicURL returns a URL without its query, in which there may be a signature.
func publicURL(u *url.URL) string {
	s := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		s += "?…"
	}
	return s
}

// tarAt finds what is at a URL.
func (f *Fetcher) tarAt(ctx context.Context, ref Reference, u *url.URL) (TarFile, error) {
	src, err := f.fileSource(ref, u)
	if err != nil {
		return TarFile{}, err
	}
	if f.opts.Offline {
		return TarFile{}, errorf(ErrOffline, "%s: offline nothing tells what is there now", ref.Name())
	}
	size, header, err := src.blobSize(ctx, ref.Name(), "")
	if err != nil {
		return TarFile{}, err
	}
	blob := newRemoteBlob(src, src.route, Layer{Size: size})
	blob.what, blob.stand = ref.Name(), header
	name := ref.Name()
	if u.RawQuery != "" {
		name += digest.FromString(u.RawQuery).Encoded()
	}
	return TarFile{name, urlStamp(size, header), &Blob{impl: blob}}, nil
}

// urlStamp returns the stamp of what a server has, if it gives a strong validator (RFC 9110, section 8.8).
func urlStamp(size int64, h http.Header) string {
	tag := h.Get("ETag")
	if tag == "" || strings.HasPrefix(tag, "W/") {
		return ""
	}
	return fmt.Sprintf("application/x-tar; size=%x; etag=%s", size, digest.FromString(tag).Encoded())
}

// validators tell one content of a URL from another (RFC 9110, section 8.8), the better one first.
var validators = []string{"ETag", "Last-Modified"}

// isTold tells whether an answer has a validator.
func isTold(h http.Header) bool {
	return slices.ContainsFunc(validators, func(key string) bool { return h.Get(key) != "" })
}

// isChanged tells whether a later answer is about another content, as far as the server says.
func isChanged(before, now http.Header) bool {
	for _, key := range validators {
		if a, b := before.Get(key), now.Get(key); a != "" && b != "" {
			return a != b
		}
	}
	return isTold(before)
}

// fileSource returns the source of what is at a URL, which is asked for without any credentials.
func (f *Fetcher) fileSource(ref Reference, u *url.URL) (*registrySource, error) {
	if u.Scheme == "http" && !f.insecure && !isLoopback(u.Host) {
		return nil, errorf(ErrReference, "%s is plain HTTP: write https://, or have TLS not verified", ref.Name())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.fileSession(u)
	if err != nil {
		return nil, err
	}
	return &registrySource{f: f, ref: ref, route: route{s}}, nil
}

// fileSession returns the session for what is at a URL. The caller holds f.mu.
func (f *Fetcher) fileSession(u *url.URL) (*session, error) {
	files, err := f.certs(u.Host, false)
	if err != nil {
		return nil, errorf(ErrOptions, "%s: %v", u.Host, err)
	}
	e, err := f.endpoint("file "+u.Scheme+"://"+u.Host, u.Host, endpointConfig{scheme: u.Scheme}, files)
	if err != nil {
		return nil, err
	}
	return &session{endpoint: e, file: u}, nil
}
