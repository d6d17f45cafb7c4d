package main

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/cache"
)

// A cacheItem is one thing in the cache, as JSON.
type cacheItem struct {
	Kind   string        `json:"kind"` // document, ref, index, frames or blob
	Name   string        `json:"name,omitempty"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`          // bytes, of a blob when it is whole
	Cached int64         `json:"cached"`        // bytes of it that are here
	Disk   int64         `json:"disk"`          // bytes it takes on disk
	InUse  bool          `json:"in_use"`        // by a live mount
	Time   time.Time     `json:"time"`          // of its last change
	Used   time.Time     `json:"used,omitzero"` // the last time, of an index, frames and a blob
}

func newCacheItem(i cache.Item) cacheItem {
	return cacheItem{kindName(i.Kind), i.Name, i.Digest, i.Size, i.Cached, i.Disk, i.InUse, i.Time, i.Used}
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
	t := a.newTable("KIND", "DIGEST", "SIZE", "CACHED", "DISK", "AGE", "USED", "NAME")
	var disk int64
	for _, i := range items {
		name := i.Name
		if i.InUse {
			name = "(mounted)"
		}
		t.row(i.Kind, i.Digest.String(), humanBytes(i.Size), humanBytes(i.Cached), humanBytes(i.Disk), age(i.Time), age(i.Used), name)
		disk += i.Disk
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s on disk\n", humanBytes(disk))
	return err
}
