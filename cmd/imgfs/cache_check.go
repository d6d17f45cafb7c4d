package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgfs/cache"
	"imgfs/index"
)

func (a *app) cacheCheckCommand() *cobra.Command {
	var f cacheFlags
	var k cacheChecker
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read all that is in the cache, and drop what is damaged",
		Long: `Read all that is in the cache, compare it with its digests, and drop what is damaged, to be fetched or made again: manifests
and configs; indexes, with their frames; and of each layer's bytes the whole, or the spans that are there. Mounts may be
using them meanwhile. If anything was damaged, the exit code is 5.

Some bytes have no digest of their own: parts of spans, and parts of a layer that has no index here. They are checked when they
are read, as all are, and stay, unless --drop-unchecked is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.openCache(&f)
			if err != nil {
				return err
			}
			defer c.Close()
			k.cache, k.found = c, cacheCheck{Damaged: []checkedItem{}, Unchecked: []checkedItem{}}
			if !asJSON {
				k.tell = a.stdout
			}
			if err := k.check(cmd.Context()); err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(k.found)
			} else {
				err = k.found.summary(a.stdout)
			}
			if err == nil && len(k.found.Damaged) > 0 {
				err = errDamagedCache
			}
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&k.all, "drop-unchecked", false, "drop what can't be checked, too")
	addJSON(cmd, &asJSON)
	return cmd
}

// errDamagedCache tells that a check found damage.
var errDamagedCache = errors.New("what was damaged in the cache has been dropped")

// A cacheCheck is what a check found, as JSON.
type cacheCheck struct {
	Checked   int64         `json:"checked"` // bytes that are what they should be
	Damaged   []checkedItem `json:"damaged"` // dropped
	Unchecked []checkedItem `json:"unchecked"`
}

// A checkedItem is something in the cache, or a part of it.
type checkedItem struct {
	Kind   string        `json:"kind"`
	Digest digest.Digest `json:"digest"`
	Offset int64         `json:"offset"` // of a part of a blob
	Bytes  int64         `json:"bytes"`
	Why    string        `json:"why"`
}

func newCheckedItem(i cache.Item, why string) checkedItem {
	return checkedItem{Kind: kindName(i.Kind), Digest: i.Digest, Bytes: i.Size, Why: why}
}

// summary says it in a line.
func (c *cacheCheck) summary(w io.Writer) error {
	var unchecked int64
	for _, i := range c.Unchecked {
		unchecked += i.Bytes
	}
	_, err := fmt.Fprintf(w, "%s are as they should be; damaged: %d; %s could not be checked\n",
		humanBytes(c.Checked), len(c.Damaged), humanBytes(unchecked))
	return err
}

// A cacheChecker checks a cache, several layers at a time.
type cacheChecker struct {
	cache *cache.Cache
	all   bool      // what can't be checked goes as well
	tell  io.Writer // where damage is told at once; nil: nowhere

	mu    sync.Mutex // protects the following
	found cacheCheck
}

func (k *cacheChecker) check(ctx context.Context) error {
	items, err := k.cache.List()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	layers := map[string]layerItems{} // by digest
	for _, i := range items {
		switch i.Kind {
		case cache.Documents:
			g.Go(func() error { return k.checkDocument(ctx, i) })
		case cache.Indexes, cache.Frames, cache.Blobs:
			d := i.Digest.String()
			if layers[d] == nil {
				layers[d] = layerItems{}
			}
			layers[d][i.Kind] = i
		}
	}
	for _, d := range sortedKeys(layers) {
		g.Go(func() error { return k.checkLayer(ctx, layers[d]) })
	}
	return g.Wait()
}

// layerItems are what there is of a layer.
type layerItems map[cache.Kind]cache.Item

func (k *cacheChecker) right(n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found.Checked += n
}

func (k *cacheChecker) damaged(i checkedItem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found.Damaged = append(k.found.Damaged, i)
	if k.tell != nil {
		fmt.Fprintf(k.tell, "%s %s: %s: dropped\n", i.Kind, i.Digest, printable(i.Why))
	}
}

func (k *cacheChecker) unchecked(i checkedItem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found.Unchecked = append(k.found.Unchecked, i)
}

// ifThere is nil for the error of what others have removed meanwhile.
func ifThere(err error) error {
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

func (k *cacheChecker) checkDocument(ctx context.Context, i cache.Item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := k.cache.Document(i.Digest)
	if errors.Is(err, cache.ErrDamaged) {
		k.damaged(newCheckedItem(i, "it has another digest"))
	}
	k.right(int64(len(b)))
	return ifThere(err)
}

func (k *cacheChecker) checkLayer(ctx context.Context, items layerItems) error {
	var of *cache.Known
	if _, ok := items[cache.Indexes]; ok {
		x, err := k.checkIndex(ctx, items)
		if err != nil {
			return err
		}
		if x != nil {
			of = &cache.Known{Blob: x.Blob(), Spans: spansOf(x)}
		}
	}
	if i, ok := items[cache.Frames]; ok {
		k.unchecked(newCheckedItem(i, "there is no index that needs them"))
		if k.all {
			if _, err := k.cache.Remove(cache.Selection{Kinds: []cache.Kind{cache.Frames}, Digest: i.Digest}); ifThere(err) != nil {
				return err
			}
		}
	}
	if i, ok := items[cache.Blobs]; ok {
		return k.checkBlob(ctx, i, of)
	}
	return nil
}

func spansOf(x *index.Index) iter.Seq[cache.Span] {
	return func(yield func(cache.Span) bool) {
		for s := range x.Spans() {
			if !yield(cache.Span(s)) {
				return
			}
		}
	}
}

// checkIndex reads an index and its frames, which are left in items if they are none of its. It returns nil for an index of no
// use.
func (k *cacheChecker) checkIndex(ctx context.Context, items layerItems) (x *index.Index, err error) {
	for again := true; again && err == nil; {
		x, again, err = k.checkIndexOnce(ctx, items)
	}
	return x, err
}

// checkIndexOnce is checkIndex. It is to be done again when another index has come in the place of a damaged one.
func (k *cacheChecker) checkIndexOnce(ctx context.Context, items layerItems) (_ *index.Index, again bool, err error) {
	i := items[cache.Indexes]
	f, err := k.cache.Look(cache.Indexes, i.Digest)
	if err != nil {
		return nil, false, ifThere(err)
	}
	x := &indexed{file: f}
	defer x.close()
	switch why := x.check(ctx, k.cache, i.Digest); {
	case why == nil:
		k.right(x.size + x.index.FramesSize())
		if x.frames != nil {
			delete(items, cache.Frames)
		}
		return x.index, false, nil
	case errors.Is(why, index.ErrStale):
		k.unchecked(newCheckedItem(i, why.Error()))
		if k.all {
			_, err = k.cache.DropIndex(ctx, i.Digest, f)
		}
		return nil, false, err
	case errors.Is(why, index.ErrDamaged), errors.Is(why, unix.EIO):
		dropped, err := k.cache.DropIndex(ctx, i.Digest, f)
		if dropped {
			delete(items, cache.Frames)
			k.damaged(newCheckedItem(i, why.Error()))
		}
		return nil, !dropped, err
	default:
		return nil, false, why
	}
}

func (k *cacheChecker) checkBlob(ctx context.Context, i cache.Item, of *cache.Known) error {
	found, err := k.cache.CheckBlob(ctx, i.Digest, of, k.all)
	if errors.Is(err, cache.ErrDamaged) {
		k.damaged(newCheckedItem(i, err.Error()))
		return nil
	}
	k.right(found.Right)
	for _, p := range found.Wrong {
		item := newCheckedItem(i, fmt.Sprintf("%d bytes from %d on are not those of the layer", p.Size, p.Off))
		item.Offset, item.Bytes = p.Off, p.Size
		k.damaged(item)
	}
	if found.Unchecked > 0 {
		item := newCheckedItem(i, "parts of spans")
		if of == nil {
			item.Why = "there is no index"
		}
		item.Bytes = found.Unchecked
		k.unchecked(item)
	}
	return ifThere(err)
}
