package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A registrySource is an image in a registry, and what of it is in the Store.
type registrySource struct {
	f      *Fetcher
	ref    Reference
	route  route
	root   []byte // the document that the tag named, once it has been resolved
	digest digest.Digest
}

func (s *registrySource) roots(ctx context.Context) ([]v1.Descriptor, error) {
	if d := s.ref.digest; d != "" {
		return []v1.Descriptor{{Digest: d}}, nil
	}
	d, err := s.resolveTag(ctx)
	if d == "" {
		return nil, err
	}
	return []v1.Descriptor{{Digest: d}}, err
}

// names returns the name that a tag is; one by digest is none.
func (s *registrySource) names(digest.Digest) []string {
	if s.ref.digest != "" {
		return nil
	}
	return []string{s.ref.Name()}
}

// resolveTag asks the registry what the tag names; offline, the Store.
func (s *registrySource) resolveTag(ctx context.Context) (digest.Digest, error) {
	if s.f.opts.Offline {
		return s.rememberedTag()
	}
	err := s.try(ctx, s.ref.Name(), true, func(at *session, retry *retrier) error { return s.resolveAt(ctx, at, retry) })
	return s.digest, err
}

func (s *registrySource) resolveAt(ctx context.Context, at *session, retry *retrier) error {
	d, b, err := s.storedRoot(ctx, at, retry)
	stored := b != nil
	if err == nil && !stored {
		d, b, err = s.fetchRoot(ctx, at, retry)
	}
	s.root, s.digest = b, d
	if err != nil {
		return err
	}
	m, err := parseManifest(s.ref.Name(), b)
	if err != nil {
		return err
	}
	if !stored && s.get(d) == nil {
		s.put(d, b)
	}
	s.putTag(d, m.MediaType)
	return nil
}

// storedRoot asks only for the digest of what the tag names, and returns the
// document from the Store; nil where it is not there, or where the answer does
// not tell.
func (s *registrySource) storedRoot(ctx context.Context, at *session, retry *retrier) (digest.Digest, []byte, error) {
	if s.f.opts.Store == nil {
		return "", nil, nil
	}
	d, err := at.tagDigest(ctx, retry, s.ref.tag)
	if err != nil {
		return "", nil, retry.again(ctx, err)
	}
	return d, s.get(d), nil
}

// fetchRoot fetches the document that the tag names.
func (s *registrySource) fetchRoot(ctx context.Context, at *session, retry *retrier) (digest.Digest, []byte, error) {
	b, header, err := at.document(ctx, retry, "manifests", s.ref.tag, maxManifest)
	if err != nil {
		return "", nil, err
	}
	d := digest.FromBytes(b)
	if said := contentDigest(header); said != "" {
		d = said
	}
	return d, b, verify("manifest of "+s.ref.Name(), d, b)
}

func (s *registrySource) rememberedTag() (digest.Digest, error) {
	if s.f.opts.Store != nil {
		d, err := s.f.opts.Store.TagDigest(s.ref.String())
		if !errors.Is(err, fs.ErrNotExist) {
			return d, err
		}
	}
	return "", errorf(ErrOffline, "%s has not been resolved before, and offline it cannot be", s.ref.Name())
}

func (s *registrySource) manifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	if d == s.digest && s.root != nil {
		return s.root, verify("manifest of "+s.ref.Name(), d, s.root)
	}
	return s.document(ctx, "manifest", "manifests", d, maxManifest)
}

func (s *registrySource) config(ctx context.Context, d digest.Digest) ([]byte, error) {
	return s.document(ctx, "config", "blobs", d, maxConfig)
}

// document returns a document from the Store, or from the registry and then
// to the Store. One that is wrong comes with an error.
func (s *registrySource) document(ctx context.Context, what, kind string, d digest.Digest, limit int64) ([]byte, error) {
	b, err := s.stored(d)
	if b != nil {
		return b, nil
	}
	whole := fmt.Sprintf("%s %s of %s", what, d, s.ref.Name())
	if s.f.opts.Offline {
		if errors.Is(err, ErrMismatch) {
			return nil, fmt.Errorf("%s: %w", whole, err)
		}
		return nil, errorf(ErrOffline, "%s is not in the cache, and offline it cannot be fetched", whole)
	}
	err = s.try(ctx, whole, false, func(at *session, retry *retrier) (err error) {
		if b, _, err = at.document(ctx, retry, kind, d.String(), limit); err != nil {
			return err
		}
		return verify(whole, d, b)
	})
	if err != nil {
		return b, err
	}
	s.put(d, b)
	return b, nil
}

// get returns a document that is in the Store and is what its digest says.
func (s *registrySource) get(d digest.Digest) []byte {
	b, _ := s.stored(d)
	return b
}

// stored is get, and tells why there is none: an ErrMismatch where it was not what it should be.
func (s *registrySource) stored(d digest.Digest) ([]byte, error) {
	if s.f.opts.Store == nil || d == "" {
		return nil, fs.ErrNotExist
	}
	b, err := s.f.opts.Store.Document(d)
	if err == nil {
		err = verify("what is stored", d, b)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// put keeps a document. That it could not be kept fails nothing.
func (s *registrySource) put(d digest.Digest, b []byte) {
	if s.f.opts.Store == nil {
		return
	}
	if err := s.f.opts.Store.PutDocument(d, b); err != nil {
		s.f.log.Warn("a document could not be kept", "digest", d, "error", err)
	}
}

// putTag keeps what the tag names, where that has changed.
func (s *registrySource) putTag(d digest.Digest, mediaType string) {
	store := s.f.opts.Store
	if store == nil {
		return
	}
	if old, err := store.TagDigest(s.ref.String()); err == nil && old == d {
		return
	}
	if err := store.PutTag(s.ref.String(), d, mediaType); err != nil {
		s.f.log.Warn("what a tag names could not be kept", "image", s.ref.Name(), "error", err)
	}
}

func (s *registrySource) blob(l Layer) (*Blob, error) {
	if err := l.Digest.Validate(); err != nil || l.Size < 0 {
		return nil, errorf(ErrMalformed, "layer %q of %s has no valid digest and size", printable(l.Digest.String()), s.ref.Name())
	}
	if len(l.URLs) == 0 {
		return &Blob{impl: newRemoteBlob(s, s.route, l)}, nil
	}
	r, err := s.f.foreignRoute(l.URLs, s.route)
	if err != nil {
		return nil, err
	}
	b := newRemoteBlob(s, r, l)
	if !s.f.opts.AllowForeign {
		b.what = "foreign " + b.what + " (its bytes are outside of the registry; to fetch them there is not allowed)"
	}
	return &Blob{impl: b}, nil
}

// tagDigest asks what a tag names. It is "" where the answer does not say.
func (s *session) tagDigest(ctx context.Context, retry *retrier, tag string) (digest.Digest, error) {
	w := retry.watch(ctx)
	defer w.stop()
	resp, _, err := s.follow(w.ctx, s.url("manifests", tag), request{method: http.MethodHead, header: manifestHeader(), what: retry.what})
	if err != nil {
		return "", err
	}
	if resp.StatusCode == http.StatusOK {
		resp.Body.Close()
		return contentDigest(resp.Header), nil
	}
	var t *transient
	if err := s.answerError(resp, retry.what); errors.As(err, &t) {
		return "", err
	}
	return "", nil
}

// contentDigest returns the digest that a registry says a document has; "" where it does not.
func contentDigest(h http.Header) digest.Digest {
	d := digest.Digest(h.Get("Docker-Content-Digest"))
	if d.Validate() != nil {
		return ""
	}
	return d
}

func manifestHeader() http.Header { return http.Header{"Accept": {acceptManifests}} }

// document fetches a document of at most limit bytes.
func (s *session) document(ctx context.Context, retry *retrier, kind, which string, limit int64) ([]byte, http.Header, error) {
	q := request{header: http.Header{}, what: retry.what}
	if kind == "manifests" {
		q.header = manifestHeader()
	}
	for {
		b, h, err := s.documentOnce(ctx, retry, s.url(kind, which), q, limit)
		if err == nil && kind == "manifests" {
			b, err = withoutSignatures(retry.what, b)
		}
		if err == nil {
			return b, h, nil
		}
		if err := retry.again(ctx, err); err != nil {
			return nil, nil, err
		}
	}
}

func (s *session) documentOnce(ctx context.Context, retry *retrier, u *url.URL, q request, limit int64) ([]byte, http.Header, error) {
	w := retry.watch(ctx)
	defer w.stop()
	resp, _, err := s.follow(w.ctx, u, q)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, s.answerError(resp, q.what)
	}
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, nil, tooLarge(q.what, limit)
	}
	b, err := io.ReadAll(io.LimitReader(w.reader(resp, q.what), limit+1))
	if err != nil {
		return nil, nil, connectionError(ctx, q.what, resp.Request.URL.Host, err)
	}
	if int64(len(b)) > limit {
		return nil, nil, tooLarge(q.what, limit)
	}
	return b, resp.Header, nil
}
