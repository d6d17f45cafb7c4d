package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) cacheCollectCommand() *cobra.Command {
	var f cacheFlags
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what was used least recently, until the cache is within its limits",
		Long: `Remove what was used least recently, until the cache is within its limits: --cache-size, and --cache-free. Commands and
mounts that add to the cache do so by themselves.

The bytes of layers go first, by the MiB; they are fetched again on demand. Indexes, with their frames, go after all of
those: each takes a download of its layer to be made anew. What a live mount has open stays, and so do manifests, configs
and what names stand for, which are small. If what is left is over the limits nevertheless, the exit code is 1.`,
		Example: `  imgfs cache gc --cache-size 5GiB
  imgfs cache gc --cache-size 0 --cache-free 10GiB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.collect(cmd.Context(), &f) },
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) collect(ctx context.Context, f *cacheFlags) error {
	c, err := a.openCache(f)
	if err != nil {
		return err
	}
	defer c.Close()
	done, err := c.Collect(ctx)
	fmt.Fprintf(a.stderr, "%s freed; blobs that lost something: %d, indexes that went: %d\n", humanBytes(done.Freed), done.Blobs, done.Indexes)
	if err != nil {
		return err
	}
	if done.Over > 0 {
		return fmt.Errorf("still %s over the limits: what is left in the cache is in use, or is never collected", humanBytes(done.Over))
	}
	return nil
}
