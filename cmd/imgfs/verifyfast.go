package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
)

// lookAtLayer checks what the cache has of layer i of an image: its index, and by that its blob, of which what is damaged is
// dropped.
func (s *session) lookAtLayer(ctx context.Context, im *fetcher.Image, i int, n *layerNodes, _ *progress) {
	l := im.Layers[i]
	x, err := s.lookAtIndex(ctx, l)
	if x != nil {
		defer x.close()
	}
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		n.tar.skip("the layer is not indexed")
	case errors.Is(err, index.ErrStale):
		n.tar.skip(err.Error())
	case err != nil:
		n.tar.judge(err)
	default:
		n.compareTar(l, x.index.DiffID(), x.index.TarSize())
	}
	s.lookAtBlob(ctx, im, l, x, &n.blob)
}

// lookAtIndex reads all of the index of a layer, and its frames. Where it is of no use, there is an error and nothing else.
func (s *session) lookAtIndex(ctx context.Context, l fetcher.Layer) (*indexed, error) {
	f, err := s.cache.OpenIndex(l.Digest)
	if err != nil {
		return nil, err
	}
	x := &indexed{file: f}
	err = x.check(ctx, s.cache, l.Digest)
	if err == nil && x.index.Blob() != l.Digest {
		err = &index.MismatchError{Blob: l.Digest, What: "layer of its index", Expected: l.Digest.String(), Found: x.index.Blob().String()}
	}
	if err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// lookAtBlob checks what the cache has of the blob of a layer.
func (s *session) lookAtBlob(ctx context.Context, im *fetcher.Image, l fetcher.Layer, x *indexed, n *verifyNode) {
	if b, err := s.fetch.Blob(ctx, im, l); err != nil {
		n.judge(err)
		return
	} else if b.Close(); b.Local() {
		n.skip("it is read in place")
		return
	}
	var of *cache.Known
	if x != nil {
		of = &cache.Known{Blob: x.index.Blob(), Spans: spansOf(x.index)}
		if x.index.Size() != l.Size {
			n.judge(&index.MismatchError{Blob: l.Digest, What: "size", Expected: fmt.Sprint(l.Size), Found: fmt.Sprint(x.index.Size())})
			return
		}
	}
	switch found, err := s.cache.CheckBlob(ctx, l.Digest, of, false); {
	case errors.Is(err, iofs.ErrNotExist):
		n.skip("not in the cache")
	case err != nil:
		n.judge(err)
	case len(found.Wrong) > 0:
		first := found.Wrong[0]
		n.judge(fmt.Errorf("%w: %d bytes from %d on in the cache are not the layer's, and have been dropped", index.ErrCorrupt, first.Size, first.Off))
	case found.Right == 0:
		n.skip(fmt.Sprintf("%s of it are in the cache, and nothing tells what they should be", humanBytes(found.Unchecked)))
	default:
		n.judge(nil)
		n.Note = humanBytes(found.Right) + " of it are in the cache"
	}
}
