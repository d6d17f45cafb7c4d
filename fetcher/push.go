package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// maxUploads is how many blobs are pushed at once.
const maxUploads = 4

// Pushed is what a push has come to, and counts what became of configs and layers.
type Pushed struct {
	Name     string // of what is there: NAME@DIGEST
	Present  int    // that the repository had
	Mounted  int    // that came from another repository of the registry
	Uploaded int
}

// Push writes a bundle to the repository of ref, by the OCI distribution
// specification, and lets the tag of ref, if it has one, name it. If ref has a
// digest it has to be that of the bundle's root. Blobs and manifests that are
// there are left alone. Nothing refers to what is not there: blobs come first,
// then manifests, an index after what it refers to, and at last the tag.
//
// The registry is the one that ref names, whatever mirrors a configuration has
// for it. Errors wrap what Resolve's do, and those of reading the bundle.
func (f *Fetcher) Push(ctx context.Context, ref Reference, b *Bundle) (*Pushed, error) {
	root := b.Root()
	switch {
	case ref.transport != "docker":
		return nil, errorf(ErrReference, "%s is not in a registry", ref.Name())
	case f.opts.Offline:
		return nil, errorf(ErrOffline, "%s: offline nothing can be pushed", ref.Name())
	case ref.digest != "" && ref.digest != root.Digest:
		return nil, &MismatchError{What: "digest of what is pushed to " + ref.Name(), Expected: ref.digest.String(), Found: root.Digest.String()}
	}
	s, err := f.pushSession(ctx, ref, b.From)
	if err != nil {
		return nil, err
	}
	p := &pusher{f: f, at: s, ref: ref, bundle: b}
	pushed, err := p.blobs(ctx)
	if err != nil {
		return nil, err
	}
	for _, doc := range b.Manifests {
		if err := p.manifest(ctx, doc, doc.Digest.String()); err != nil {
			return nil, err
		}
	}
	if ref.tag != "" {
		err = p.manifest(ctx, root, ref.tag)
	}
	return pushed, err
}

// pushSession returns a session that may write to the repository of ref and, if what comes there is from another repository
// of that registry, read that.
func (f *Fetcher) pushSession(ctx context.Context, ref, from Reference) (*session, error) {
	e, err := f.registryEndpoint(ref)
	if err != nil {
		return nil, err
	}
	if e.pullOnly {
		return nil, errorf(ErrOptions, "%s: by the configuration of its registry nothing may be pushed there", ref.Name())
	}
	domain, path, _ := strings.Cut(ref.repository, "/")
	s := &session{endpoint: e, repo: path, push: true}
	host, other, _ := strings.Cut(from.repository, "/")
	if apiHost(host) != apiHost(domain) || other == path {
		return s, nil
	}
	s.from = other
	if _, _, err := s.authenticated(ctx); errors.Is(err, ErrUnauthorized) {
		f.log.Info("nothing is mounted from the other repository: no token is to be had for both", "from", from.Name(), "error", err)
		s.from = ""
	}
	return s, nil
}

// A pusher is one Push under way.
type pusher struct {
	f      *Fetcher
	at     *session
	ref    Reference
	bundle *Bundle
}

// blobs pushes configs and layers, several at once.
func (p *pusher) blobs(ctx context.Context) (*Pushed, error) {
	var uploads []*upload
	for _, c := range p.bundle.Configs {
		uploads = append(uploads, p.upload("config", c.Descriptor, func(_ context.Context, read func(io.Reader) error) error {
			return read(bytes.NewReader(c.Content))
		}))
	}
	for _, l := range p.bundle.Wanted() {
		uploads = append(uploads, p.upload("layer", l, func(ctx context.Context, read func(io.Reader) error) error {
			return p.bundle.ReadLayer(ctx, l, read)
		}))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxUploads)
	for _, u := range uploads {
		g.Go(func() error { return u.run(ctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	there := p.ref
	there.tag, there.digest = "", p.bundle.Root().Digest
	pushed := &Pushed{Name: there.Name()}
	for _, u := range uploads {
		switch u.became {
		case present:
			pushed.Present++
		case mounted:
			pushed.Mounted++
		case uploaded:
			pushed.Uploaded++
		}
	}
	return pushed, nil
}

func (p *pusher) upload(kind string, d v1.Descriptor, read func(context.Context, func(io.Reader) error) error) *upload {
	what := fmt.Sprintf("%s %s to %s", kind, d.Digest, p.ref.Name())
	return &upload{session: p.at, what: what, blob: d, read: read, retry: p.f.retrier(what)}
}

// manifest has a tag or a digest name a manifest.
func (p *pusher) manifest(ctx context.Context, doc Text, which string) error {
	retry := p.f.retrier(fmt.Sprintf("manifest %s to %s", doc.Digest, p.ref.Name()))
	for {
		err := p.at.putManifest(ctx, retry, doc, which)
		if err == nil {
			return nil
		}
		if err = retry.again(ctx, err); err != nil {
			return err
		}
	}
}

// putManifest makes one attempt to write a manifest, unless it is there.
func (s *session) putManifest(ctx context.Context, retry *retrier, doc Text, which string) error {
	d, err := s.tagDigest(ctx, retry, which)
	if err != nil || d == doc.Digest {
		return err
	}
	w := retry.watch(ctx)
	defer w.stop()
	resp, _, err := s.follow(w.ctx, s.url("manifests", which), request{
		method: http.MethodPut, header: http.Header{"Content-Type": {doc.MediaType}}, what: retry.what,
		body: func() io.ReadCloser { return io.NopCloser(bytes.NewReader(doc.Content)) }, length: doc.Size,
	})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return s.answerError(resp, retry.what)
	}
	discard(resp)
	return checkStored(retry.what, doc.Descriptor, resp.Header)
}

// checkStored compares what a registry says that it has stored with what it was sent.
func checkStored(what string, d v1.Descriptor, h http.Header) error {
	if said := contentDigest(h); said != "" && said.Algorithm() == d.Digest.Algorithm() && said != d.Digest {
		return &MismatchError{What: what + ", as the registry has stored it,", Expected: d.Digest.String(), Found: said.String()}
	}
	return nil
}
