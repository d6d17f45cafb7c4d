package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/cache"
	"imgfs/fetcher"
)

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
