package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"imgfs/fetcher"
	"imgfs/index"
)

// A verification is the check of what one reference leads to.
type verification struct {
	session *session
	fast    bool // only what is in the cache is looked at
	silent  bool // lines are not printed as they come
	nodes   []verifyNode
	layers  map[layerKey]*layerNodes // those that have been checked
}

// A layerKey is a layer as images name it.
type layerKey struct {
	digest, diffID digest.Digest
	size           int64
}

func keyOf(l fetcher.Layer) layerKey { return layerKey{l.Digest, l.DiffID, l.Size} }

// layerNodes are what there is to say of a layer: of its blob, and of the tar in it.
type layerNodes struct{ blob, tar verifyNode }

func newLayerNodes(l fetcher.Layer) *layerNodes {
	return &layerNodes{
		verifyNode{Node: "layer", Digest: l.Digest, MediaType: l.MediaType, Size: l.Size},
		verifyNode{Node: "diff ID", Digest: l.DiffID, Size: -1},
	}
}

func (v *verification) say(n verifyNode) error {
	v.nodes = append(v.nodes, n)
	if v.silent {
		return nil
	}
	_, err := io.WriteString(v.session.app.stdout, n.line())
	return err
}

// Document says what there is to say of a document.
func (v *verification) Document(d fetcher.Document) error {
	n := verifyNode{Node: d.Kind, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}
	if d.Platform != nil {
		n.Platform = platformString(*d.Platform)
	}
	n.judge(d.Err)
	switch {
	case d.Made && d.Err == nil:
		n.skip("made up: the image has none")
	case v.fast && errors.Is(d.Err, fetcher.ErrOffline):
		n.skip("not in the cache")
	}
	return v.say(n)
}

// Image checks the layers of an image, and says what there is to say of them.
func (v *verification) Image(ctx context.Context, im *fetcher.Image) error {
	if !im.Artifact {
		for _, n := range countNodes(im) {
			if err := v.say(n); err != nil {
				return err
			}
		}
	}
	if err := v.checkLayers(ctx, im); err != nil {
		return err
	}
	for i, l := range im.Layers {
		n := *v.layers[keyOf(l)]
		n.blob.Layer, n.tar.Layer = i+1, i+1
		if im.Artifact {
			n.blob.Node = "blob"
		}
		if err := v.say(n.blob); err != nil {
			return err
		}
		if im.Artifact {
			continue // there need be no tar in it
		}
		if err := v.say(n.tar); err != nil {
			return err
		}
	}
	return nil
}

// schema1 is the media type of manifests of Docker's schema 1.
const schema1 = "application/vnd.docker.distribution.manifest.v1+json"

// countNodes compares the number of layers with what the config says of it.
func countNodes(im *fetcher.Image) []verifyNode {
	ids, history := verifyNode{Node: "diff IDs", Size: -1}, verifyNode{Node: "history", Size: -1}
	config, err := parseConfig(im)
	if err != nil {
		ids.skip("the config cannot be read")
		history.skip("the config cannot be read")
		return []verifyNode{ids, history}
	}
	if ids.count("number of diff IDs", len(config.RootFS.DiffIDs), im); im.MediaType == schema1 {
		ids.skip("a manifest of schema 1 has none")
	}
	steps := 0
	for _, h := range config.History {
		if !h.EmptyLayer {
			steps++
		}
	}
	if history.count("number of steps in the history that made layers", steps, im); len(config.History) == 0 {
		history.skip("the config has none")
	}
	return []verifyNode{ids, history}
}

// count judges a node by a number, which has to be that of the layers.
func (n *verifyNode) count(what string, found int, im *fetcher.Image) {
	if layers := len(im.Layers); found != layers {
		n.judge(&fetcher.MismatchError{What: what, Expected: fmt.Sprintf("%d, one for each layer", layers), Found: fmt.Sprint(found)})
		return
	}
	n.judge(nil)
	n.Note = fmt.Sprintf("%d, one for each layer", found)
}

// checkLayers checks the layers of an image that have not been checked yet, side by side.
func (v *verification) checkLayers(ctx context.Context, im *fetcher.Image) error {
	check := v.session.readLayer
	if v.fast {
		check = v.session.lookAtLayer
	}
	p := v.session.app.newProgress("reading")
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, l := range im.Layers {
		if v.layers[keyOf(l)] != nil {
			continue
		}
		n := newLayerNodes(l)
		v.layers[keyOf(l)] = n
		g.Go(func() error {
			check(ctx, im, i, n, p)
			return nil
		})
	}
	_ = g.Wait()
	p.wait()
	return ctx.Err()
}

// readLayer reads layer i of an image from where it is; that of a mirror that is not what it should be once more from the next.
func (s *session) readLayer(ctx context.Context, im *fetcher.Image, i int, n *layerNodes, p *progress) {
	l := im.Layers[i]
	blob, err := s.fetch.Blob(ctx, im, l)
	if err != nil {
		n.compare(l, index.Sums{}, err)
		return
	}
	defer blob.Close()
	bar := p.start(layerLabel(im, i), l.Size)
	defer bar.done()
	for {
		sums, err := digestBlob(ctx, blob, l, bar)
		if sums.Blob == l.Digest || !blob.Doubt() {
			n.compare(l, sums, err)
			return
		}
	}
}

func digestBlob(ctx context.Context, blob *fetcher.Blob, l fetcher.Layer, bar *bar) (index.Sums, error) {
	r, err := blob.Open(ctx, 0, l.Size)
	if err != nil {
		return index.Sums{}, err
	}
	defer r.Close()
	return index.Digest(bar.reader(until(ctx, r), nothingCached), index.Want{Blob: l.Digest, DiffID: l.DiffID})
}

// compare judges a layer by what index.Digest says of it.
func (n *layerNodes) compare(l fetcher.Layer, sums index.Sums, err error) {
	switch {
	case sums.Blob == "":
		n.blob.judge(err)
		n.tar.skip("the layer could not be read")
	case sums.Blob != l.Digest:
		n.blob.judge(&index.MismatchError{Blob: l.Digest, What: "digest", Expected: l.Digest.String(), Found: sums.Blob.String()})
		n.tar.skip("the layer is another one")
	case err != nil:
		n.blob.judge(nil)
		n.tar.judge(err)
	default:
		n.blob.judge(nil)
		n.compareTar(l, sums.DiffID, sums.TarSize)
	}
}

// compareTar judges the tar of a layer by its digest.
func (n *layerNodes) compareTar(l fetcher.Layer, found digest.Digest, size int64) {
	n.tar.Size = size
	switch l.DiffID {
	case "":
		n.tar.Digest = found
		n.tar.skip("the image says none for it")
	case found:
		n.tar.judge(nil)
	default:
		n.tar.judge(&index.MismatchError{Blob: l.Digest, What: "diff ID", Expected: l.DiffID.String(), Found: found.String()})
	}
}
