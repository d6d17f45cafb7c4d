package fetcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation is where containerd writes the whole name of an image, of
// which AnnotationRefName then is only the tag.
const nameAnnotation = "io.containerd.image.name"

// A layout is an image in an OCI image layout (image-spec, image-layout.md).
// Files are opened below its directory: a symbolic link that leads out of it
// is refused, and so is all that is not a regular file.
type layout struct {
	ref Reference
}

func (l *layout) roots(context.Context) ([]v1.Descriptor, error) {
	if err := l.checkVersion(); err != nil {
		return nil, err
	}
	if l.ref.digest != "" {
		return []v1.Descriptor{{Digest: l.ref.digest}}, nil
	}
	b, err := l.read(v1.ImageIndexFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, errorf(ErrMalformed, "%s of %s is not valid: %s", v1.ImageIndexFile, l.ref.dir, printable(err.Error()))
	}
	return l.pick(index.Manifests)
}

func (l *layout) checkVersion() error {
	b, err := l.read(v1.ImageLayoutFile, maxLayoutFile)
	if err != nil {
		return err
	}
	var version v1.ImageLayout
	if err := json.Unmarshal(b, &version); err != nil || !strings.HasPrefix(version.Version, "1.") {
		return errorf(ErrMalformed, "%s is not an OCI image layout of version 1", l.ref.dir)
	}
	return nil
}

// pick returns the entries that have the tag of the reference. Without a tag
// all entries have to have the same.
func (l *layout) pick(entries []v1.Descriptor) ([]v1.Descriptor, error) {
	var picked []v1.Descriptor
	var names []string
	distinct := map[string]bool{}
	for _, e := range entries {
		tag := e.Annotations[v1.AnnotationRefName]
		if !distinct[tag] {
			distinct[tag] = true
			names = append(names, fmt.Sprintf("%q", tag))
		}
		if l.ref.tag == "" || l.ref.tag == tag || l.ref.tag == e.Annotations[nameAnnotation] {
			picked = append(picked, e)
		}
	}
	const most = 20
	if len(names) > most {
		names = append(names[:most], "…")
	}
	have := strings.Join(names, ", ")
	switch {
	case len(entries) == 0:
		return nil, errorf(ErrNotFound, "%s holds no image", l.ref.dir)
	case len(picked) == 0:
		return nil, errorf(ErrNotFound, "%s has no tag %q; it has %s", l.ref.dir, l.ref.tag, have)
	case l.ref.tag == "" && len(distinct) > 1:
		return nil, errorf(ErrReference, "%s holds several images; say which: %s", l.ref.dir, have)
	}
	return picked, nil
}

func (l *layout) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	return l.document("manifest", d, maxManifest)
}

func (l *layout) config(_ context.Context, d digest.Digest) ([]byte, error) {
	return l.document("config", d, maxConfig)
}

func (l *layout) document(what string, d digest.Digest, limit int64) ([]byte, error) {
	b, err := l.read(blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	return b, verify(what+" of "+l.ref.Name(), d, b)
}

func (l *layout) blob(layer Layer) (*Blob, error) {
	if err := layer.Digest.Validate(); err != nil {
		return nil, errorf(ErrMalformed, "layer of %s has the digest %q: %v", l.ref.Name(), printable(layer.Digest.String()), err)
	}
	file, size, err := l.open(blobPath(layer.Digest))
	if err != nil {
		return nil, err
	}
	if size != layer.Size {
		file.Close()
		return nil, &MismatchError{
			What:     fmt.Sprintf("size of layer %s of %s", layer.Digest, l.ref.Name()),
			Expected: fmt.Sprint(layer.Size), Found: fmt.Sprint(size),
		}
	}
	return &Blob{impl: &fileBlob{file: file, size: size}}, nil
}

func blobPath(d digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// read returns the content of a file of at most limit bytes.
func (l *layout) read(name string, limit int64) ([]byte, error) {
	file, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > limit {
		return nil, tooLarge(fmt.Sprintf("%s in %s", name, l.ref.dir), limit)
	}
	b, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, l.ref.dir, err)
	}
	return b, nil
}

// open opens a regular file of the layout. A FIFO in its place does not block.
func (l *layout) open(name string) (file *os.File, size int64, err error) {
	root, err := os.OpenRoot(l.ref.dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, 0, errorf(ErrNotFound, "%s is not an OCI image layout: there is no such directory", l.ref.dir)
	}
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	file, err = root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) && name == v1.ImageLayoutFile:
		return nil, 0, errorf(ErrNotFound, "%s is not an OCI image layout: it has no file %s", l.ref.dir, name)
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, errorf(ErrNotFound, "%s has no file %s", l.ref.dir, name)
	case err != nil:
		return nil, 0, fmt.Errorf("%s: %w", l.ref.dir, err)
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errorf(ErrMalformed, "%s in %s is not a regular file", name, l.ref.dir)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, fi.Size(), nil
}

func tooLarge(what string, limit int64) error {
	amount, unit := limit>>20, "MiB"
	if amount == 0 {
		amount, unit = limit>>10, "KiB"
	}
	return errorf(ErrMalformed, "%s is larger than %d %s, and is refused", what, amount, unit)
}
