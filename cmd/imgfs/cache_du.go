package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"imgfs/cache"
)

// A cacheUsage is what the cache takes and may take, in bytes, as JSON.
type cacheUsage struct {
	Kinds      []kindUsage `json:"kinds"`
	Unfinished int64       `json:"unfinished"` // what is just being written
	Disk       int64       `json:"disk"`       // all of it
	Limit      int64       `json:"limit"`      // what that may be; 0: anything
	Free       int64       `json:"free"`       // what is left of the file system
	Floor      int64       `json:"floor"`      // what should be left of it
}

type kindUsage struct {
	Kind  string `json:"kind"`
	Items int    `json:"items"`
	Disk  int64  `json:"disk"`
	InUse int64  `json:"in_use"` // by live mounts
}

func newCacheUsage(u cache.Usage) cacheUsage {
	usage := cacheUsage{Unfinished: u.Unfinished, Disk: u.Disk, Limit: u.Limit, Free: u.Free, Floor: u.Floor}
	for _, k := range u.Kinds {
		usage.Kinds = append(usage.Kinds, kindUsage{kindName(k.Kind), k.Items, k.Disk, k.InUse})
	}
	return usage
}

func (a *app) cacheUsageCommand() *cobra.Command {
	var f cacheFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show what the cache takes on disk, and what it may take",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.openCache(&f)
			if err != nil {
				return err
			}
			defer c.Close()
			u, err := c.Usage()
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(newCacheUsage(u))
			}
			return a.printUsage(newCacheUsage(u))
		},
	}
	f.add(cmd.Flags())
	addJSON(cmd, &asJSON)
	return cmd
}

func (a *app) printUsage(u cacheUsage) error {
	t := a.newTable("KIND", "ITEMS", "DISK", "IN USE")
	for _, k := range u.Kinds {
		t.row(k.Kind, strconv.Itoa(k.Items), humanBytes(k.Disk), humanBytes(k.InUse))
	}
	t.row("unfinished", "", humanBytes(u.Unfinished), humanBytes(u.Unfinished))
	if err := t.flush(); err != nil {
		return err
	}
	may := "any amount"
	if u.Limit > 0 {
		may = humanBytes(u.Limit)
	}
	_, err := fmt.Fprintf(a.stdout, "%s on disk, %s allowed; %s free on the file system, %s of it to be left so\n",
		humanBytes(u.Disk), may, humanBytes(u.Free), humanBytes(u.Floor))
	return err
}
