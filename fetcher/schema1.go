package fetcher

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A schema1 is what is wanted of a manifest of Docker's schema 1. It has no config, but in the history, and the newest
// comes first (github.com/distribution/distribution, docs/spec/deprecated-schema-v1.md).
type schema1 struct {
	Architecture string
	FSLayers     []struct{ BlobSum digest.Digest }
	History      []struct{ V1Compatibility string }

	steps []v1Step // of History
}

// A v1Step is an image of Docker's before 1.10, of which each layer was one: what is wanted of it here.
type v1Step struct {
	ID              string     `json:"id"`
	Parent          string     `json:"parent"`
	Created         *time.Time `json:"created"`
	Author          string     `json:"author"`
	Comment         string     `json:"comment"`
	ThrowAway       bool       `json:"throwaway"`
	ContainerConfig struct {
		Cmd []string
	} `json:"container_config"`
}

// parseSchema1 parses a manifest of schema 1, without signatures. It refuses what Docker refuses, and what Docker mends,
// it mends (github.com/moby/moby, distribution/pull_v2.go, fixManifestLayers): of steps in a row that are the same one,
// the oldest is left.
func parseSchema1(what string, b []byte) (*manifest, error) {
	var s schema1
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errorf(ErrMalformed, "manifest of %s is not valid: %s", what, printable(err.Error()))
	}
	if len(s.FSLayers) == 0 || len(s.FSLayers) != len(s.History) {
		return nil, errorf(ErrMalformed, "manifest of %s has %d layers and %d steps of history", what, len(s.FSLayers), len(s.History))
	}
	s.steps = make([]v1Step, len(s.History))
	for i, h := range s.History {
		if err := json.Unmarshal([]byte(h.V1Compatibility), &s.steps[i]); err != nil {
			return nil, errorf(ErrMalformed, "history of %s is not valid: %s", what, printable(err.Error()))
		}
	}
	if err := s.dropRepeated(what); err != nil {
		return nil, err
	}
	m := &manifest{SchemaVersion: 1, MediaType: dockerSchema1, Layers: []v1.Descriptor{}, schema1: &s}
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.FSLayers[i].BlobSum.Validate(); err != nil {
			return nil, errorf(ErrMalformed, "layer of %s has the digest %q: %v", what, printable(s.FSLayers[i].BlobSum.String()), err)
		}
		if !s.steps[i].ThrowAway {
			m.Layers = append(m.Layers, v1.Descriptor{MediaType: dockerLayers[gzip], Digest: s.FSLayers[i].BlobSum, Size: -1})
		}
	}
	return m, nil
}

// dropRepeated drops steps that are the one before them, and checks that each of the others is the parent of the next.
func (s *schema1) dropRepeated(what string) error {
	n := 0
	for i := range s.steps {
		older := v1Step{}
		if i+1 < len(s.steps) {
			older = s.steps[i+1]
			if s.steps[i].ID == older.ID {
				continue
			}
		}
		if s.steps[i].Parent != older.ID {
			return errorf(ErrMalformed, "history of %s is broken: the parent of %q is %q, and not %q",
				what, printable(s.steps[i].ID), printable(s.steps[i].Parent), printable(older.ID))
		}
		s.steps[n], s.FSLayers[n], s.History[n] = s.steps[i], s.FSLayers[i], s.History[i]
		n++
	}
	s.steps, s.FSLayers, s.History = s.steps[:n], s.FSLayers[:n], s.History[:n]
	return nil
}

// config makes the config of the image, as Docker and skopeo do (github.com/moby/moby, image/v1, MakeConfigFromV1Config;
// github.com/containers/image, manifest, Schema1.ToSchema2Config): the newest step is the config, but for the fields
// that were its own, and all of them are the history. In a manifest nothing tells the diff IDs, so there are none.
func (s *schema1) config(diffIDs ...digest.Digest) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s.History[0].V1Compatibility), &c); err != nil {
		return nil, err
	}
	if c == nil { // null is JSON as well
		return nil, errors.New("the newest step is no object")
	}
	for _, key := range []string{"id", "parent", "parent_id", "layer_id", "throwaway", "Size"} {
		delete(c, key)
	}
	history := []v1.History{}
	for i := len(s.steps) - 1; i >= 0; i-- {
		h := s.steps[i]
		history = append(history, v1.History{
			Created: h.Created, CreatedBy: strings.Join(h.ContainerConfig.Cmd, " "), Author: h.Author, Comment: h.Comment, EmptyLayer: h.ThrowAway,
		})
	}
	fields := map[string]any{"history": history, "rootfs": map[string]string{"type": "layers"}}
	if len(diffIDs) > 0 {
		fields["rootfs"] = v1.RootFS{Type: "layers", DiffIDs: diffIDs}
	}
	if c["os"] == nil {
		fields["os"] = "linux"
	}
	if c["architecture"] == nil {
		fields["architecture"] = cmp.Or(s.Architecture, "amd64")
	}
	for key, value := range fields {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		c[key] = b
	}
	return json.Marshal(c)
}

// withoutSignatures returns the payload of a signed manifest of schema 1, which is what its digest is of, and other
// manifests as they are. The signatures are not looked at: they are by anybody's key, so they prove nothing. The form is
// that of a JSON web signature in the document that it signs: how much of the document is signed, and what comes after
// that, is in the protected header (github.com/docker/libtrust, ParsePrettySignature).
func withoutSignatures(what string, b []byte) ([]byte, error) {
	var doc struct {
		SchemaVersion int
		Signatures    []struct{ Protected string }
	}
	if json.Unmarshal(b, &doc) != nil || doc.SchemaVersion != 1 || len(doc.Signatures) == 0 {
		return b, nil
	}
	var payload []byte
	for _, s := range doc.Signatures {
		p, err := signedPart(b, s.Protected)
		if err != nil || payload != nil && !bytes.Equal(p, payload) {
			return nil, errorf(ErrMalformed, "manifest of %s is signed in a way that makes no sense", what)
		}
		payload = p
	}
	return payload, nil
}

var errNoJWS = errors.New("not a signature")

func signedPart(b []byte, protected string) ([]byte, error) {
	var header struct {
		FormatLength int
		FormatTail   string
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(protected, "="))
	if err == nil {
		err = json.Unmarshal(raw, &header)
	}
	if err != nil {
		return nil, err
	}
	tail, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header.FormatTail, "="))
	if err != nil || header.FormatLength < 1 || header.FormatLength > len(b) {
		return nil, cmp.Or(err, errNoJWS)
	}
	return append(b[:header.FormatLength:header.FormatLength], tail...), nil
}

// A sizer is a source that tells the sizes of blobs. Schema 1 does not have them.
type sizer interface {
	size(ctx context.Context, d digest.Digest) (int64, error)
}

// maxSizers is how many sizes are asked for at once.
const maxSizers = 4

// convert makes of a manifest of schema 1 what other manifests have: a config, and the sizes of layers.
func (r *resolver) convert(ctx context.Context, c *candidate) (err error) {
	if c.config, err = c.manifest.schema1.config(); err != nil {
		return errorf(ErrMalformed, "history of %s is not valid: %s", r.ref.Name(), printable(err.Error()))
	}
	src, ok := r.src.(sizer)
	if !ok {
		return unsupported("%s has a manifest of schema 1, which is not for this kind of place", r.ref.Name())
	}
	sizes := map[digest.Digest]*int64{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxSizers)
	for _, l := range c.manifest.Layers {
		if sizes[l.Digest] != nil {
			continue
		}
		size := new(int64)
		sizes[l.Digest] = size
		g.Go(func() (err error) {
			*size, err = src.size(ctx, l.Digest)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range c.manifest.Layers {
		c.manifest.Layers[i].Size = *sizes[c.manifest.Layers[i].Digest]
	}
	c.manifest.Config = &v1.Descriptor{MediaType: dockerConfig, Digest: digest.FromBytes(c.config), Size: int64(len(c.config))}
	c.parsed, err = parseConfig(r.ref.Name(), c.config)
	return err
}

// size returns the size of a blob: what the Store knows, or what the registry says when it is asked for the first byte. (To
// a HEAD, some answer without a length, and some redirect to where only GET is signed for.)
func (s *registrySource) size(ctx context.Context, d digest.Digest) (int64, error) {
	if s.f.opts.Store != nil {
		if size, err := s.f.opts.Store.BlobSize(d); !errors.Is(err, fs.ErrNotExist) {
			return size, err
		}
	}
	what := fmt.Sprintf("size of layer %s of %s", d, s.ref.Name())
	if s.f.opts.Offline {
		return 0, errorf(ErrOffline, "%s is not in the cache, and offline it cannot be fetched", what)
	}
	size, _, err := s.blobSize(ctx, what, d)
	return size, err
}

// blobSize asks for the size of a blob as often as it takes.
func (s *registrySource) blobSize(ctx context.Context, what string, d digest.Digest) (size int64, header http.Header, err error) {
	err = s.try(ctx, what, false, func(at *session, retry *retrier) (err error) {
		for {
			if size, header, err = at.blobSize(ctx, retry, d); err == nil {
				return nil
			}
			if err = retry.again(ctx, err); err != nil {
				return err
			}
		}
	})
	return size, header, err
}

// blobSize returns the size of a blob, and the header of the answer that tells it.
func (s *session) blobSize(ctx context.Context, retry *retrier, d digest.Digest) (int64, http.Header, error) {
	w := retry.watch(ctx)
	defer w.stop()
	resp, _, err := s.follow(w.ctx, s.url("blobs", d.String()), request{header: http.Header{"Range": {"bytes=0-0"}}, what: retry.what})
	if err != nil {
		return 0, nil, err
	}
	total := ""
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 {
			total = strconv.FormatInt(resp.ContentLength, 10)
		}
	case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable: // the latter where the blob is empty
		_, total, _ = strings.Cut(resp.Header.Get("Content-Range"), "/")
	default:
		return 0, nil, s.answerError(resp, retry.what)
	}
	resp.Body.Close()
	size, err := strconv.ParseInt(total, 10, 64)
	if err != nil || size < 0 {
		return 0, nil, unsupported("%s: the server does not say it", retry.what)
	}
	return size, resp.Header, nil
}

func (s *skopeoDir) size(_ context.Context, d digest.Digest) (int64, error) {
	file, err := s.files.open(d.Encoded())
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.size, nil
}
