package fetcher

import (
	"context"
	"errors"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Files of a directory that skopeo has written, and what the file that tells its version begins with.
const (
	dirManifestFile = "manifest.json"
	dirVersionFile  = "version"
	dirVersion      = "Directory Transport Version: 1."
)

// A skopeoDir is an image in a directory as skopeo copy dir:DIR writes it: the manifest, and every blob under the hex
// digits of its digest (github.com/containers/image, directory). The manifests of an index, which it has with --all, are
// there under those of theirs.
type skopeoDir struct {
	ref   Reference
	files directory
	root  []byte // the manifest, once it has been read
	id    digest.Digest
}

func (s *skopeoDir) roots(context.Context) ([]v1.Descriptor, error) {
	version, err := readFile(s.files, dirVersionFile, maxLayoutFile)
	if err == nil && !strings.HasPrefix(string(version), dirVersion) {
		return nil, unsupported("%s was written by another version of skopeo: %q", s.files, printable(string(version)))
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	b, err := readFile(s.files, dirManifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	if s.root, err = withoutSignatures(s.ref.Name(), b); err != nil {
		return nil, err
	}
	s.id = digest.FromBytes(s.root)
	return []v1.Descriptor{{Digest: s.id}}, nil
}

func (s *skopeoDir) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	if d == s.id {
		return s.root, nil
	}
	return s.document("manifest", d, d.Encoded()+".manifest.json", maxManifest)
}

func (s *skopeoDir) config(_ context.Context, d digest.Digest) ([]byte, error) {
	return s.document("config", d, d.Encoded(), maxConfig)
}

func (s *skopeoDir) document(what string, d digest.Digest, name string, limit int64) ([]byte, error) {
	b, err := readFile(s.files, name, limit)
	if err != nil {
		return nil, err
	}
	return b, verify(what+" of "+s.ref.Name(), d, b)
}

func (s *skopeoDir) blob(l Layer) (*Blob, error) {
	if err := l.Digest.Validate(); err != nil {
		return nil, errorf(ErrMalformed, "layer of %s has the digest %q: %v", s.ref.Name(), printable(l.Digest.String()), err)
	}
	return readBlobFile(s.files, l.Digest.Encoded(), s.ref, l)
}
