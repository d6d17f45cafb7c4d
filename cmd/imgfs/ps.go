package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) psCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List this user's mounts and what they fetched",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := allMounts()
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

func allMounts() ([]mountState, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	return mounts(dir)
}

func (a *app) printMounts(all []mountState) error {
	t := a.newTable("MOUNTPOINT", "REFERENCE", "PID", "AGE", "FETCHED", "REQUESTS", "SPANS", "HITS")
	for _, m := range all {
		cells := []string{m.Mountpoint, m.Reference, strconv.Itoa(m.PID), age(m.Started)}
		switch {
		case !m.Alive:
			cells = append(cells, "dead: imgfs umount clears it")
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
