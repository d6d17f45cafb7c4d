package fetcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say how images are found and fetched. The zero value is good for
// anonymous pulls from public registries, and for what is in files.
type Options struct {
	// Platform is os/arch[/variant]; "" means the host's.
	Platform string
	// Creds are USER:PASSWORD, for every registry asked, but not for mirrors.
	Creds string
	// Authfile is a credentials file in docker's or podman's format. It has to exist.
	Authfile string
	// MakeAuthfile lets Authfile be absent: Login makes it.
	MakeAuthfile bool
	// CertDir holds *.crt (authorities) and NAME.cert with NAME.key (client
	// certificates), as a directory of docker's certs.d does; "" means that of
	// the registry in docker's or podman's certs.d.
	CertDir string
	// RegistriesConf is a file of containers-registries.conf(5), version 2, with
	// mirrors, locations and blocks; "" means CONTAINERS_REGISTRIES_CONF, or
	// podman's places.
	RegistriesConf string
	// HostsDir has a directory with a hosts.toml of containerd's for each
	// registry that needs one; "" means containerd's places. It counts for what
	// RegistriesConf says nothing of.
	HostsDir string
	// TLSVerify, set to false, accepts any certificate, and plain HTTP. nil means true.
	TLSVerify *bool
	// AllowForeign has layers fetched from the URLs that a manifest gives for
	// them, where it does. Nobody there is sent credentials.
	AllowForeign bool
	// Offline forbids the network: what is not in Store is an error.
	Offline bool
	// Store keeps documents and what tags named; nil keeps nothing.
	Store Store
	// OpenTar opens a tar for reading at random: a root file system, and
	// archives that are compressed. It stays open for whoever gave this. nil
	// means that there are no such sources.
	OpenTar func(context.Context, TarFile) (Tar, error)
	// Digest returns the digest of a file that is in an archive, and whose
	// blob it does not close. nil means that it is computed each time.
	Digest func(context.Context, TarFile) (digest.Digest, error)
	// UserAgent is sent with every request; "" means "imgfs".
	UserAgent string
	// Log is told of retries and oddities, never of secrets; nil discards.
	Log *slog.Logger
}

// A Store keeps manifests, configs and what tags named the last time they
// were resolved. References are written as Reference.String does. Methods are
// called concurrently; an error of one that puts fails nothing but is logged.
type Store interface {
	// Document returns a document; an error wrapping fs.ErrNotExist when it is
	// absent, and ErrMismatch when it is known not to be what it should be.
	Document(d digest.Digest) ([]byte, error)
	PutDocument(d digest.Digest, b []byte) error
	// TagDigest returns what PutTag was told last of a reference; an error
	// wrapping fs.ErrNotExist when it was told nothing.
	TagDigest(ref string) (digest.Digest, error)
	PutTag(ref string, d digest.Digest, mediaType string) error
	// BlobSize returns the size in bytes of a layer's blob; an error wrapping
	// fs.ErrNotExist when it is not known.
	BlobSize(d digest.Digest) (int64, error)
}

// An Image is what a reference resolves to for one platform. Everything in it
// has been checked against its digest, and against what names it. (Not so
// where it comes from Walk, which tells what is wrong.)
type Image struct {
	Ref            Reference
	Digest         digest.Digest // what the reference names: an index or the manifest itself
	ManifestDigest digest.Digest
	MediaType      string // of the manifest
	Manifest       []byte // byte for byte; of schema 1 without signatures, which are not part of what has the digest
	Config         []byte // byte for byte; of schema 1, and a tar, one that has been made
	ConfigDigest   digest.Digest
	Platform       v1.Platform
	Layers         []Layer // bottom first
	// Names are those that the image has where it is, in full: docker.io/library/alpine:3.20. Only registries, Docker's archives
	// and layouts that containerd or Docker have written give such.
	Names []string
	// Made says that Manifest was made of what is there, which has none: in Docker's archives, and for a tar.
	Made bool
	// Artifact says that it is no image: its config and its blobs may be anything. Only Walk comes to such.
	Artifact bool

	src source
}

// A Layer is one blob of an image.
type Layer struct {
	Digest    digest.Digest
	MediaType string
	Size      int64         // bytes of the blob
	DiffID    digest.Digest // digest of the tar inside; "" where it is not known (schema 1)
	URLs      []string      // where a foreign layer's blob is, outside of its registry
}

// Stats count what went over the network.
type Stats struct {
	Requests int64 // requests that were answered, pings, tokens and redirects included
	Bytes    int64 // bytes of their bodies that were read
	Retries  int64 // requests that were repeated after a fault
}

// A Fetcher resolves references and opens blobs. It is safe for concurrent use.
type Fetcher struct {
	opts     Options
	log      *slog.Logger
	platform v1.Platform
	insecure bool // TLSVerify is false
	traffic  traffic

	authFiles []authFile // where credentials are looked for
	paths     paths

	// Replaced by tests, before the first use.
	timeout time.Duration // how long a request is waited for without progress; see retrier
	stall   time.Duration // how long one attempt may be silent
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)

	// mu protects the following.
	mu         sync.Mutex
	endpoints  map[string]*endpoint
	sessions   map[sessionKey]*session
	registries []registryConf // nil before they are read
}

// New returns a Fetcher; nil means the zero Options. It reads CertDir, looks
// for Authfile, and does nothing else yet. Relative paths, in the options and
// in the environment, are those of now, whatever the directory is later.
// Errors wrap ErrOptions.
func New(o *Options) (*Fetcher, error) {
	f := &Fetcher{
		timeout: 30 * time.Second, stall: 10 * time.Second, now: time.Now, sleep: sleep,
		dial:      (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		endpoints: map[string]*endpoint{}, sessions: map[sessionKey]*session{},
	}
	if o != nil {
		f.opts = *o
	}
	f.log = f.opts.Log
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.opts.UserAgent == "" {
		f.opts.UserAgent = "imgfs"
	}
	f.insecure = f.opts.TLSVerify != nil && !*f.opts.TLSVerify
	if err := f.prepare(); err != nil {
		if !errors.Is(err, ErrOptions) {
			err = fmt.Errorf("%w: %w", ErrOptions, err)
		}
		return nil, err
	}
	return f, nil
}

// prepare makes of the options what is needed of them.
func (f *Fetcher) prepare() (err error) {
	if f.platform, err = parsePlatform(f.opts.Platform); err != nil {
		return err
	}
	if f.opts.Creds != "" {
		if user, password, _ := strings.Cut(f.opts.Creds, ":"); user == "" || password == "" {
			return errorf(ErrOptions, "credentials have to be USER:PASSWORD")
		}
	}
	if f.opts.Authfile != "" && !f.opts.MakeAuthfile {
		if _, err := os.Stat(f.opts.Authfile); err != nil {
			return fmt.Errorf("credentials file: %w", err)
		}
	}
	if f.authFiles, err = authFiles(f.opts.Authfile); err != nil {
		return err
	}
	if f.paths, err = findPaths(&f.opts, "/etc"); err != nil {
		return err
	}
	if f.opts.CertDir == "" {
		return nil
	}
	files, err := f.certs("", false)
	if err == nil {
		_, err = files.load()
	}
	return err
}

// Resolve finds the image that ref names for the platform of the options,
// and checks its documents. A tag is resolved once, here; what Store has is
// not fetched. Errors wrap ErrNotFound, ErrUnauthorized, ErrMismatch,
// ErrMalformed, ErrOffline, or errors.ErrUnsupported, for artifacts among others.
func (f *Fetcher) Resolve(ctx context.Context, ref Reference) (*Image, error) {
	r, err := f.resolver(ctx, ref)
	if err != nil {
		return nil, err
	}
	return r.resolve(ctx)
}

func (f *Fetcher) resolver(ctx context.Context, ref Reference) (*resolver, error) {
	ref, src, err := f.source(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &resolver{
		ref:      ref,
		src:      src,
		want:     f.platform,
		choices:  choices(f.platform),
		explicit: f.opts.Platform != "",
		fetches:  maxDocuments,
	}, nil
}

// Blob opens a layer's blob of an image that Resolve has returned. From a
// registry this makes no request yet; from a file it opens that, and compares
// its size.
func (f *Fetcher) Blob(_ context.Context, im *Image, l Layer) (*Blob, error) {
	return im.src.blob(l)
}

// Stats returns what has gone over the network so far.
func (f *Fetcher) Stats() Stats {
	return Stats{
		Requests: f.traffic.requests.Load(),
		Bytes:    f.traffic.bytes.Load(),
		Retries:  f.traffic.retries.Load(),
	}
}

// A source is one image in one place.
type source interface {
	// roots returns what the reference names: one document, or several that
	// are to be taken as an index. Where what it names is known, and is not
	// what it should be, there is an error as well.
	roots(ctx context.Context) ([]v1.Descriptor, error)
	// manifest and config return documents. One that does not match its digest
	// comes with an error.
	manifest(ctx context.Context, d digest.Digest) ([]byte, error)
	config(ctx context.Context, d digest.Digest) ([]byte, error)
	blob(l Layer) (*Blob, error)
}
