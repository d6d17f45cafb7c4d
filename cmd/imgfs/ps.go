package main

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"imgfs/fs"
)

func (a *app) psCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List this user's mounts and what they fetched",
		Long: `List the mounts of this user's runtime directory ($XDG_RUNTIME_DIR/imgfs, /run/imgfs for root), and dead mounts.
FETCHED is all that came over the network, of the compressed size of the image; REQUESTS how many requests that took;
SPANS the pieces of layers that were decoded; HITS the reads that found their piece decoded.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := a.mountsWithStats()
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(all)
			}
			return a.printMounts(all)
		},
	}
	addJSON(cmd, &asJSON)
	return cmd
}

func addJSON(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "json", false, "print JSON")
}

// allMounts lists this user's mounts.
func (a *app) allMounts() ([]mountState, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	return mounts(dir, a.log)
}

// mountsWithStats lists this user's mounts with their figures, and what else of ours is in the mount table.
func (a *app) mountsWithStats() ([]mountState, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	all, err := mounts(dir, a.log)
	if err != nil {
		return nil, err
	}
	table, err := fs.Mounts()
	if err != nil {
		return nil, err
	}
	for i := range all {
		m := &all[i]
		m.Mounted = slices.ContainsFunc(table, func(t fs.Info) bool { return t.Dir == m.Mountpoint })
		if m.Alive {
			m.Stats = askStats(dir, m.ID)
		}
	}
	for _, t := range table {
		known := func(m mountState) bool { return m.Mountpoint == t.Dir }
		if !slices.ContainsFunc(all, known) && t.Dead() {
			all = append(all, mountState{mountRecord: mountRecord{Mountpoint: t.Dir, Reference: t.Name}, Mounted: true})
		}
	}
	return all, nil
}

func (a *app) printMounts(all []mountState) error {
	t := a.newTable("MOUNTPOINT", "REFERENCE", "PID", "AGE", "FETCHED", "REQUESTS", "SPANS", "HITS")
	for _, m := range all {
		cells := []string{m.Mountpoint, m.Reference, strconv.Itoa(m.PID), age(m.Started)}
		switch {
		case !m.Alive:
			cells = append(cells, "dead: imgfs umount clears it")
		case !m.Mounted:
			cells = append(cells, "detached, in use")
		case m.Stats == nil:
			cells = append(cells, "no answer")
		default:
			s := m.Stats
			cells = append(cells, fmt.Sprintf("%s of %s", humanBytes(s.BytesFetched), humanBytes(s.ImageBytes)),
				strconv.FormatInt(s.Requests, 10), strconv.FormatInt(s.SpansDecoded, 10), strconv.FormatInt(s.CacheHits, 10))
		}
		t.row(cells...)
	}
	return t.flush()
}
