package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"imgfs/fs"
	"imgfs/layers/upper"
)

func (a *app) psCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps [flags] [DIR…]",
		Short: "List this user's mounts and what they fetched",
		Long: `List the mounts of this user's runtime directory ($XDG_RUNTIME_DIR/imgfs, /run/imgfs for root), and dead mounts.
FETCHED is what came over the network, and how much of the compressed image that is; HITS how many of the pieces of
layers that were asked for had been decoded; MEMORY that of the server; ERRORS the requests that failed;
UPPER the space that changes take, and where they are. LAYERS says how layers are come by:

  lazy       in ranges, as they are read
  cached     all of it is in the cache
  local      from the image's own file, in place
  frames     from the cache, recompressed: a zstd layer of large frames can't be entered
  no ranges  as a whole: the server serves no ranges
  offline    what the cache has and no more

With directories, all there is to tell of the mounts there.`,
		ValidArgsFunction: a.completeMounts,
		RunE: func(_ *cobra.Command, dirs []string) error {
			all, err := a.mountsWithStats()
			if err == nil && len(dirs) > 0 {
				all, err = mountsOf(all, dirs)
			}
			switch {
			case err != nil:
				return err
			case asJSON:
				return a.printJSON(all)
			case len(dirs) > 0:
				return a.printMountsInFull(all)
			}
			return a.printMounts(all)
		},
	}
	addJSON(cmd, &asJSON)
	return cmd
}

// mountsOf finds those of the mounts that are at the directories.
func mountsOf(all []mountState, dirs []string) ([]mountState, error) {
	var found []mountState
	for _, dir := range dirs {
		path, err := mountpointPath(dir)
		if err != nil {
			return nil, err
		}
		here := slices.DeleteFunc(slices.Clone(all), func(m mountState) bool { return m.Mountpoint != path })
		if len(here) == 0 {
			return nil, notFoundError{fmt.Errorf("%s: no mount of yours is there", dir)}
		}
		found = append(found, here...)
	}
	return found, nil
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

// listMounts lists this user's mounts, and what else of ours in the mount table is dead, in the order of that table: who comes
// later may be inside of, or over, who comes before.
func (a *app) listMounts() ([]mountState, error) {
	all, err := a.allMounts()
	if err != nil {
		return nil, err
	}
	table, err := fs.Mounts()
	if err != nil {
		return nil, err
	}
	place := make(map[string]int)
	for i, t := range table {
		known := func(m mountState) bool { return m.Mountpoint == t.Dir }
		if !slices.ContainsFunc(all, known) && t.Dead() {
			all = append(all, mountState{mountRecord: mountRecord{Mountpoint: t.Dir, Reference: t.Name}})
		}
		place[t.Dir] = i
	}
	for i, m := range all {
		_, all[i].Mounted = place[m.Mountpoint]
	}
	slices.SortStableFunc(all, func(a, b mountState) int { return cmp.Compare(place[a.Mountpoint], place[b.Mountpoint]) })
	return all, nil
}

// completeMounts completes the directories of mounts, for the shell.
func (a *app) completeMounts(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	a.log = slog.New(slog.DiscardHandler)
	all, err := a.listMounts()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var dirs []cobra.Completion
	for _, m := range all {
		dirs = append(dirs, cobra.CompletionWithDesc(m.Mountpoint, m.Reference))
	}
	return dirs, cobra.ShellCompDirectiveNoFileComp
}

// mountsWithStats lists the mounts with their figures.
func (a *app) mountsWithStats() ([]mountState, error) {
	all, err := a.listMounts()
	if err != nil {
		return nil, err
	}
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	var asking sync.WaitGroup
	for i := range all {
		if m := &all[i]; m.Alive {
			asking.Go(func() { m.Stats = askStats(dir, m.ID) }) // one that is stuck does not answer
		}
		if u := all[i].Upper; u != nil {
			if all[i].Written, err = upper.Size(u.Dir); err != nil {
				a.log.Warn("upper directory", "why", err)
			}
		}
	}
	asking.Wait()
	return all, nil
}

func (a *app) printMounts(all []mountState) error {
	t := a.newTable("MOUNTPOINT", "REFERENCE", "PID", "AGE", "FETCHED", "HITS", "MEMORY", "ERRORS", "LAYERS", "UPPER")
	for _, m := range all {
		cells := []string{m.Mountpoint, m.Reference, strconv.Itoa(m.PID), age(m.Started)}
		if trouble := m.trouble(); trouble != "" {
			cells = append(cells, trouble, "", "", "", "")
		} else {
			s := m.Stats
			cells = append(cells, fmt.Sprintf("%s (%s)", humanBytes(s.BytesFetched), percent(s.BytesFetched, s.ImageBytes)),
				percent(s.CacheHits, s.CacheHits+s.CacheMisses), humanBytes(s.ResidentBytes), strconv.FormatInt(s.Errors, 10), s.access())
		}
		if m.Upper != nil {
			cells = append(cells, humanBytes(m.Written)+" in "+m.Upper.Dir)
		}
		t.row(cells...)
	}
	return t.flush()
}

// trouble tells why there are no figures of a mount; "" if there are.
func (m *mountState) trouble() string {
	switch {
	case !m.Alive:
		return "dead: imgfs umount clears it"
	case !m.Mounted:
		return "detached, in use"
	case m.Stats == nil:
		return "no answer"
	}
	return ""
}

// access sums up how the layers are come by.
func (s *mountStats) access() string {
	count := make(map[string]int)
	for _, l := range s.Layers {
		count[string(l.Access)]++
	}
	var parts []string
	for _, a := range sortedKeys(count) {
		parts = append(parts, fmt.Sprintf("%d %s", count[a], a))
	}
	return strings.Join(parts, ", ")
}

// percent is how many hundredths of a whole a part is, "-" where there is no whole.
func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}

func (a *app) printMountsInFull(all []mountState) error {
	for i := range all {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := a.printMountInFull(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printMountInFull(m *mountState) error {
	a.printField("Mountpoint", m.Mountpoint)
	a.printField("Reference", m.Reference)
	a.printField("Digest", m.Digest.String())
	a.printField("Platform", m.Platform)
	if m.PID > 0 {
		a.printField("Server", fmt.Sprintf("process %d since %s", m.PID, m.Started.Local().Format(time.DateTime)))
	}
	a.printField("Log", m.Log)
	if u := m.Upper; u != nil {
		a.printField("Upper", fmt.Sprintf("%s, %s", u.Dir, humanBytes(m.Written)))
	}
	a.printField("State", m.trouble())
	if m.Stats == nil {
		return nil
	}
	s := m.Stats
	a.printField("Fetched", fmt.Sprintf("%s of %s in %d requests, %d of them repeated", humanBytes(s.BytesFetched), humanBytes(s.ImageBytes), s.Requests, s.Retries))
	a.printField("Read", fmt.Sprintf("%s in %d requests of the kernel; %d requests failed", humanBytes(s.BytesRead), s.Reads, s.Errors))
	a.printField("Hits", fmt.Sprintf("%s of %d pieces were decoded already; %s of %d ranges were on disk; %d pieces decoded",
		percent(s.CacheHits, s.CacheHits+s.CacheMisses), s.CacheHits+s.CacheMisses,
		percent(s.BlobHits, s.BlobHits+s.BlobMisses), s.BlobHits+s.BlobMisses, s.SpansDecoded))
	a.printField("Memory", fmt.Sprintf("%s, of it %s of decoded pieces; %d files", humanBytes(s.ResidentBytes), humanBytes(s.MemoryBytes), s.Files))
	fmt.Fprintln(a.stdout)
	t := a.newTable("LAYER", "SIZE", "CACHED", "DECODED", "ACCESS")
	for _, l := range s.Layers {
		t.row(l.Digest.String(), humanBytes(l.Size), humanBytes(l.Cached), strconv.FormatInt(l.SpansDecoded, 10), string(l.Access))
	}
	return t.flush()
}
