package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A registrySource is an image in a registry, and what of it is in the Store.
type registrySource struct {
	f       *Fetcher
	ref     Reference
	session *session
	root    []byte // the document that the tag named, once it has been resolved
	digest  digest.Digest
}

func (s *registrySource) roots(ctx context.Context) ([]v1.Descriptor, error) {
	d := s.ref.digest
	if d == "" {
		var err error
		if d, err = s.resolveTag(ctx); err != nil {
			return nil, err
		}
	}
	return []v1.Descriptor{{Digest: d}}, nil
}

// resolveTag asks the registry what the tag names; offline, the Store.
func (s *registrySource) resolveTag(ctx context.Context) (digest.Digest, error) {
	if s.f.opts.Offline {
		return s.rememberedTag()
	}
	b, header, err := s.session.document(ctx, "manifests", s.ref.tag, maxManifest, s.ref.Name())
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(b)
	if said := digest.Digest(header.Get("Docker-Content-Digest")); said.Validate() == nil {
		if err := verify("manifest of "+s.ref.Name(), said, b); err != nil {
			return "", err
		}
		d = said
	}
	m, err := parseManifest(s.ref.Name(), b)
	if err != nil {
		return "", err
	}
	s.root, s.digest = b, d
	if store := s.f.opts.Store; store != nil {
		s.put(d, b)
		if err := store.PutTag(s.ref.String(), d, m.MediaType); err != nil {
			s.f.log.Warn("what a tag names could not be kept", "image", s.ref.Name(), "error", err)
		}
	}
	return d, nil
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
	if d == s.digest {
		return s.root, nil
	}
	return s.document(ctx, "manifest", "manifests", d, maxManifest)
}

func (s *registrySource) config(ctx context.Context, d digest.Digest) ([]byte, error) {
	return s.document(ctx, "config", "blobs", d, maxConfig)
}

// document returns a document from the Store, or from the registry and then
// to the Store.
func (s *registrySource) document(ctx context.Context, what, kind string, d digest.Digest, limit int64) ([]byte, error) {
	if b := s.get(d); b != nil {
		return b, nil
	}
	whole := fmt.Sprintf("%s %s of %s", what, d, s.ref.Name())
	if s.f.opts.Offline {
		return nil, errorf(ErrOffline, "%s is not in the cache, and offline it cannot be fetched", whole)
	}
	b, _, err := s.session.document(ctx, kind, d.String(), limit, whole)
	if err != nil {
		return nil, err
	}
	if err := verify(whole, d, b); err != nil {
		return nil, err
	}
	s.put(d, b)
	return b, nil
}

// get returns a document that is in the Store and is what its digest says.
func (s *registrySource) get(d digest.Digest) []byte {
	if s.f.opts.Store == nil {
		return nil
	}
	b, err := s.f.opts.Store.Document(d)
	if err == nil && b != nil && verify("", d, b) == nil {
		return b
	}
	return nil
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

func (s *registrySource) blob(l Layer) (*Blob, error) {
	if err := l.Digest.Validate(); err != nil || l.Size < 0 {
		return nil, errorf(ErrMalformed, "layer %q of %s has no valid digest and size", printable(l.Digest.String()), s.ref.Name())
	}
	return &Blob{impl: newRemoteBlob(s, l)}, nil
}

// document fetches a document of at most limit bytes.
func (s *session) document(ctx context.Context, kind, which string, limit int64, what string) ([]byte, http.Header, error) {
	header := http.Header{}
	if kind == "manifests" {
		header.Set("Accept", acceptManifests)
	}
	retry := s.f.retrier(what, s.f.timeout)
	for {
		b, h, err := s.documentOnce(ctx, kind, which, header, limit, what)
		if err == nil {
			return b, h, nil
		}
		if err := retry.again(ctx, err); err != nil {
			return nil, nil, err
		}
	}
}

func (s *session) documentOnce(ctx context.Context, kind, which string, header http.Header, limit int64, what string) ([]byte, http.Header, error) {
	w := s.f.watch(ctx)
	defer w.stop()
	resp, _, err := s.follow(w.ctx, s.url(kind, which), header)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, s.answerError(resp, what)
	}
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, nil, tooLarge(what, limit)
	}
	b, err := io.ReadAll(io.LimitReader(w.reader(resp.Body), limit+1))
	if err != nil {
		return nil, nil, connectionError(ctx, s.host(), err)
	}
	if int64(len(b)) > limit {
		return nil, nil, tooLarge(what, limit)
	}
	return b, resp.Header, nil
}
