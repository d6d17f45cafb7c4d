package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/cache"
	"imgfs/fetcher"
)

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show and clear the cache",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return usageError{errors.New("cache: want ls or rm")} },
	}
	cmd.AddCommand(a.cacheListCommand(), a.cacheRemoveCommand())
	return cmd
}

func (a *app) openCache(f *cacheFlags) (*cache.Cache, error) {
	dir, err := f.path()
	if err != nil {
		return nil, err
	}
	return cache.Open(dir, &cache.Options{Log: a.log})
}

// A cacheItem is one thing in the cache, as JSON.
type cacheItem struct {
	Kind   string        `json:"kind"` // document, ref, index, frames or blob
	Name   string        `json:"name,omitempty"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`   // bytes, of a blob when it is whole
	Cached int64         `json:"cached"` // bytes of it that are here
	Disk   int64         `json:"disk"`   // bytes it takes on disk
	InUse  bool          `json:"in_use"` // by a live mount
	Time   time.Time     `json:"time"`   // of its last change
}

func newCacheItem(i cache.Item) cacheItem {
	return cacheItem{kindName(i.Kind), i.Name, i.Digest, i.Size, i.Cached, i.Disk, i.InUse, i.Time}
}

// kindName is a kind in the singular.
func kindName(k cache.Kind) string {
	return map[cache.Kind]string{
		cache.Documents: "document", cache.Refs: "ref", cache.Indexes: "index", cache.Frames: "frames", cache.Blobs: "blob",
	}[k]
}

func (a *app) cacheListCommand() *cobra.Command {
	var f cacheFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what is in the cache",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.openCache(&f)
			if err != nil {
				return err
			}
			defer c.Close()
			found, err := c.List()
			if err != nil {
				return err
			}
			items := make([]cacheItem, len(found))
			for i := range found {
				items[i] = newCacheItem(found[i])
			}
			if asJSON {
				return a.printJSON(items)
			}
			return a.printCache(items)
		},
	}
	f.add(cmd.Flags())
	addJSON(cmd, &asJSON)
	return cmd
}

func (a *app) printCache(items []cacheItem) error {
	t := a.newTable("KIND", "DIGEST", "SIZE", "CACHED", "DISK", "AGE", "NAME")
	var disk int64
	for _, i := range items {
		name := i.Name
		if i.InUse {
			name = "(mounted)"
		}
		t.row(i.Kind, i.Digest.String(), humanBytes(i.Size), humanBytes(i.Cached), humanBytes(i.Disk), age(i.Time), name)
		disk += i.Disk
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s on disk\n", humanBytes(disk))
	return err
}

func (a *app) cacheRemoveCommand() *cobra.Command {
	var f cacheFlags
	var blobs, indexes, all bool
	cmd := &cobra.Command{
		Use:   "rm [flags] [DIGEST|REF]…",
		Short: "Remove things from the cache",
		Long: `Remove things from the cache: all of one kind (--blobs, --indexes), everything (--all),
or what belongs to digests, images of registries and tar files by their path (what is read in place leaves nothing
but indexes: of its layers, and of an archive that is compressed). What a live mount uses of blobs, indexes and frames stays, and is named.

Frames are the content of zstd layers that can't be entered, recompressed so that they can. They are part of what an
index needs, and go with it.`,
		Example: `  imgfs cache rm --blobs            # layers stay indexed, their bytes are fetched again on demand
  imgfs cache rm debian:12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !blobs && !indexes && !all {
				return usageError{errors.New("cache rm: say what: a digest, a reference, --blobs, --indexes or --all")}
			}
			if all && (len(args) > 0 || blobs || indexes) {
				return usageError{errors.New("cache rm: --all stands alone")}
			}
			var kinds []cache.Kind
			if blobs {
				kinds = append(kinds, cache.Blobs)
			}
			if indexes {
				kinds = append(kinds, cache.Indexes, cache.Frames)
			}
			return a.removeFromCache(&f, kinds, args)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&blobs, "blobs", false, "the layers' bytes only")
	cmd.Flags().BoolVar(&indexes, "indexes", false, "the layers' indexes and frames only")
	cmd.Flags().BoolVar(&all, "all", false, "everything")
	return cmd
}

func (a *app) removeFromCache(f *cacheFlags, kinds []cache.Kind, args []string) error {
	selections, err := cacheSelections(kinds, args)
	if err != nil {
		return err
	}
	c, err := a.openCache(f)
	if err != nil {
		return err
	}
	defer c.Close()
	var freed int64
	defer func() { fmt.Fprintf(a.stderr, "%s freed\n", humanBytes(freed)) }()
	inUse := 0
	for _, sel := range selections {
		r, err := c.Remove(sel)
		for _, i := range r.Removed {
			freed += i.Disk
		}
		for _, i := range r.InUse {
			inUse++
			fmt.Fprintf(a.stderr, "imgfs: %s %s is in use, it stays\n", kindName(i.Kind), i.Digest)
		}
		if errors.Is(err, iofs.ErrNotExist) {
			return notFoundError{err}
		}
		if err != nil {
			return err
		}
	}
	if inUse > 0 {
		return fmt.Errorf("%d of the things to remove are in use", inUse)
	}
	return nil
}

// cacheSelections is what the arguments of rm select: digests, references, or all there is of some kinds.
func cacheSelections(kinds []cache.Kind, args []string) ([]cache.Selection, error) {
	if len(args) == 0 {
		return []cache.Selection{{Kinds: kinds}}, nil
	}
	var all []cache.Selection
	for _, arg := range args {
		if d, err := digest.Parse(arg); err == nil {
			all = append(all, cache.Selection{Kinds: kinds, Digest: d})
			continue
		}
		if strings.HasPrefix(arg, digest.Canonical.String()+":") {
			return nil, usageError{fmt.Errorf("%s is not a digest: sha256 has 64 hexadecimal digits", arg)}
		}
		ref, err := fetcher.ParseReference(arg)
		if err != nil {
			return nil, err
		}
		all = append(all, cache.Selection{Kinds: kinds, Ref: ref.String()})
	}
	return all, nil
}
