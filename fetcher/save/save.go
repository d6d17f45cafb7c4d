// Package save writes images to files: to OCI image layouts, in directories and
// archives, to archives for docker load, and to directories of skopeo's.
//
// # What is written
//
// Manifests, configs and layers go where the format has a place for them, byte
// for byte, so that digests stay what they are. An archive of Docker's has no
// place for manifests, and one image alone. Its layers are as they were, too:
// docker load, podman load, skopeo and package fetcher take compressed ones. But
// docker load takes zstd from version 23 on only; of such a layer the archive
// has the tar. A layer's name there is that of its content, so that whoever
// reads it back knows the digest.
//
// # When it is there
//
// Nothing is there under its name before it is whole, and compared with its
// digest. A file is written under a name that begins with .imgfs-, synced and
// renamed. An archive, and a directory of skopeo's, leave nothing behind when
// they fail. A layout is one that holds no image yet as long as its index.json
// does not name the new one; what blobs it has by then are whole, and the next
// attempt goes on with them. Of what goes to a pipe nothing can be taken back:
// if a layer turns out to be wrong, its last bytes are missing, and so is the end.
package save

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imgfs/fetcher"
)

// Write writes a bundle to a destination that is no registry. An archive goes
// to stdout, and may be cut short there on an error, if its path is
// fetcher.Stdout.
//
// A layout that is there already gets the image in addition: one that has the
// same tag is replaced, blobs that are there stay, and without a tag there may
// be no other image. Of other destinations nothing may be there but an empty
// directory or file. That is an error that wraps fs.ErrExist; others wrap what
// reading the bundle returns, or fetcher.ErrReference.
func Write(ctx context.Context, to fetcher.Destination, b *fetcher.Bundle, stdout io.Writer) error {
	switch to.Transport {
	case "oci":
		return writeLayout(ctx, to, b)
	case "oci-archive":
		return writeArchive(to.Path, stdout, func(t target) error { return addLayout(ctx, t, b, to.Tag) })
	case "docker-archive":
		return writeArchive(to.Path, stdout, func(t target) error { return addDocker(ctx, t, b, cmp.Or(to.Tag, b.From.Tagged())) })
	case "dir":
		return writeSkopeo(ctx, to, b)
	}
	return fmt.Errorf("%w: %s is not a kind of files", fetcher.ErrReference, to.Transport)
}

// A target is what files are added to: a directory or an archive.
type target interface {
	// holds tells whether a file is there that is what d says.
	holds(ctx context.Context, name string, d v1.Descriptor) bool
	// add adds a file of size bytes, whole or not at all. After an error it may be called again for the same name.
	add(name string, size int64, r io.Reader) error
}

// addBlobs adds all blobs of a bundle under names that are made of their descriptors, a number of layers at once.
func addBlobs(ctx context.Context, t target, b *fetcher.Bundle, atOnce int, name func(v1.Descriptor) string) error {
	for _, c := range b.Configs {
		if err := addDocument(ctx, t, name(c.Descriptor), c); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, l := range b.Wanted() {
		g.Go(func() error {
			if t.holds(ctx, name(l), l) {
				return nil
			}
			return b.ReadLayer(ctx, l, func(r io.Reader) error { return t.add(name(l), l.Size, r) })
		})
	}
	return g.Wait()
}

func addDocument(ctx context.Context, t target, name string, doc fetcher.Text) error {
	if t.holds(ctx, name, doc.Descriptor) {
		return nil
	}
	return t.add(name, doc.Size, bytes.NewReader(doc.Content))
}

func addFile(t target, name string, content []byte) error {
	return t.add(name, int64(len(content)), bytes.NewReader(content))
}

// blobName returns where a layout, and an archive of Docker's since version 25, has a blob.
func blobName(d digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}
