package main

import (
	"errors"

	"github.com/spf13/cobra"

	"imgfs/cache"
)

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show, bound, check and clear the cache",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("cache: want ls, du, rm, gc or check")}
		},
	}
	cmd.AddCommand(a.cacheListCommand(), a.cacheUsageCommand(), a.cacheRemoveCommand(), a.cacheCollectCommand(), a.cacheCheckCommand())
	return cmd
}

func (a *app) openCache(f *cacheFlags) (*cache.Cache, error) {
	dir, err := f.path()
	if err != nil {
		return nil, err
	}
	limits, err := f.limits()
	if err != nil {
		return nil, err
	}
	return cache.Open(dir, &cache.Options{Log: a.log, Limits: limits})
}

// kindName is a kind in the singular.
func kindName(k cache.Kind) string {
	return map[cache.Kind]string{
		cache.Documents: "document", cache.Refs: "ref", cache.Indexes: "index", cache.Frames: "frames", cache.Blobs: "blob",
	}[k]
}
