package fetcher

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation is where containerd writes the whole name of an image, of
// which AnnotationRefName then is only the tag.
const nameAnnotation = "io.containerd.image.name"

// A layout is an image in an OCI image layout (image-spec, image-layout.md), in a directory or in an archive.
type layout struct {
	ref    Reference
	files  folder
	listed []v1.Descriptor // what the index lists, once it has been read
}

func (l *layout) roots(context.Context) ([]v1.Descriptor, error) {
	if err := l.checkVersion(); err != nil {
		return nil, err
	}
	if l.ref.digest != "" {
		return []v1.Descriptor{{Digest: l.ref.digest}}, nil
	}
	var err error
	if l.listed, err = l.entries(); err != nil {
		return nil, err
	}
	return l.pick(l.listed)
}

// names returns the whole names of an image.
func (l *layout) names(root digest.Digest) []string {
	var all []string
	for _, e := range l.listed {
		if r, err := parseDocker(e.Annotations[nameAnnotation]); err == nil && e.Digest == root {
			all = append(all, r.Name())
		}
	}
	return all
}

// entries returns what the index lists.
func (l *layout) entries() ([]v1.Descriptor, error) {
	b, err := readFile(l.files, v1.ImageIndexFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, errorf(ErrMalformed, "%s of %s is not valid: %s", v1.ImageIndexFile, l.files.location(), printable(err.Error()))
	}
	return index.Manifests, nil
}

// CheckLayout returns an error if a directory is not an OCI image layout of version 1.
func CheckLayout(dir string) error { return (&layout{files: directory(dir)}).checkVersion() }

func (l *layout) checkVersion() error {
	b, err := readFile(l.files, v1.ImageLayoutFile, maxLayoutFile)
	if errors.Is(err, ErrNotFound) {
		return errorf(ErrNotFound, "%v: it is not an OCI image layout", err)
	}
	if err != nil {
		return err
	}
	var version v1.ImageLayout
	if err := json.Unmarshal(b, &version); err != nil || !strings.HasPrefix(version.Version, "1.") {
		return errorf(ErrMalformed, "%s is not an OCI image layout of version 1", l.files.location())
	}
	return nil
}

// pick returns the entries that the tag of the reference names, and all without a tag, each digest once. They have to be one
// image: several entries of one name are taken as an index, and several names of one digest as what they are.
func (l *layout) pick(entries []v1.Descriptor) ([]v1.Descriptor, error) {
	var named, picked []v1.Descriptor
	distinct := map[digest.Digest]bool{}
	for _, e := range entries {
		if l.ref.tag != "" && !l.named(e) {
			continue
		}
		named = append(named, e)
		if !distinct[e.Digest] {
			distinct[e.Digest] = true
			picked = append(picked, e)
		}
	}
	switch {
	case len(entries) == 0:
		return nil, errorf(ErrNotFound, "%s holds no image", l.files.location())
	case len(picked) == 0:
		return nil, errorf(ErrNotFound, "%s has no tag %q; it has %s", l.files.location(), l.ref.tag, listed(names(entries)))
	}
	if len(names(picked)) > 1 {
		return nil, errorf(ErrReference, "%s holds several images; say which: %s", l.files.location(), listed(names(named)))
	}
	return picked, nil
}

// names returns the different names of entries, in their order.
func names(entries []v1.Descriptor) []string {
	var names []string
	distinct := map[string]bool{}
	for _, e := range entries {
		name := cmp.Or(e.Annotations[nameAnnotation], e.Annotations[v1.AnnotationRefName])
		if !distinct[name] {
			distinct[name] = true
			names = append(names, name)
		}
	}
	return names
}

// named tells whether an entry has the tag of the reference. Where it has a whole name as well, that may be the tag,
// as it is written there, or in any other of the ways that Docker takes.
func (l *layout) named(e v1.Descriptor) bool {
	if l.ref.tag == e.Annotations[v1.AnnotationRefName] {
		return true
	}
	name := e.Annotations[nameAnnotation]
	return name != "" && (l.ref.tag == name || sameName(l.ref.tag, name))
}

func (l *layout) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	return l.document("manifest", d, maxManifest)
}

func (l *layout) config(_ context.Context, d digest.Digest) ([]byte, error) {
	return l.document("config", d, maxConfig)
}

func (l *layout) document(what string, d digest.Digest, limit int64) ([]byte, error) {
	b, err := readFile(l.files, blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	return b, verify(what+" of "+l.ref.Name(), d, b)
}

func (l *layout) blob(layer Layer) (*Blob, error) {
	if err := layer.Digest.Validate(); err != nil {
		return nil, errorf(ErrMalformed, "layer of %s has the digest %q: %v", l.ref.Name(), printable(layer.Digest.String()), err)
	}
	return readBlobFile(l.files, blobPath(layer.Digest), l.ref, layer)
}

func blobPath(d digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// maxListed is how many names a message lists.
const maxListed = 20

// listed returns names as a message lists them.
func listed(names []string) string {
	var quoted []string
	for _, name := range names[:min(len(names), maxListed)] {
		quoted = append(quoted, fmt.Sprintf("%q", printable(name)))
	}
	if len(names) > maxListed {
		quoted = append(quoted, "…")
	}
	return strings.Join(quoted, ", ")
}
