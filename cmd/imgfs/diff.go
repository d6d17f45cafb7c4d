package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imgfs/layers"
	"imgfs/layers/upper"
)

func (a *app) diffCommand() *cobra.Command {
	var f imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff [flags] DIR | REF REF",
		Short: "List what was changed in a mount, or what differs between two images",
		Long: `List what was changed: A (added), C (changed) or D (deleted) and a path, a line each, as docker diff does. DIR is a mount
with an upper directory, or an upper directory, mounted or not; the image is taken from where the mount took it. Of two images, the changes from
the first to the second are listed, by metadata and content, and the exit code is 1 if there are any. A directory that has changes in it is changed
too; of what is deleted, what was in it is not listed. With --json there is also what is different: type, mode, owner,
mtime, device, target, xattrs, content.`,
		Example: `  imgfs diff /mnt
  imgfs diff debian:12.10 debian:12.11`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := a.newChangeList(asJSON)
			var err error
			if len(args) == 2 {
				err = a.diffImages(cmd.Context(), &f, args[0], args[1], list.add)
			} else {
				err = a.diffUpper(cmd.Context(), &f, cmd.Flags(), args[0], list.add)
			}
			if err == nil {
				err = list.end()
			}
			if err == nil && len(args) == 2 && list.n > 0 {
				err = exitError{exitFailed}
			}
			return err
		},
	}
	f.add(cmd.Flags())
	f.addMemory(cmd.Flags())
	addJSON(cmd, &asJSON)
	return cmd
}

// A change is a line of diff's.
type change struct {
	Kind string   `json:"kind"` // A, C or D
	Path string   `json:"path"`
	What []string `json:"what,omitempty"`
}

// A changeList prints changes: as they come, or as JSON at the end.
type changeList struct {
	app    *app
	asJSON bool
	n      int
	all    []change
}

func (a *app) newChangeList(asJSON bool) *changeList {
	return &changeList{app: a, asJSON: asJSON, all: []change{}}
}

func (l *changeList) add(c layers.Change) error {
	l.n++
	if l.asJSON {
		l.all = append(l.all, change{string(c.Kind), c.Path, c.What})
		return nil
	}
	_, err := fmt.Fprintf(l.app.stdout, "%c %s\n", c.Kind, l.app.name(c.Path))
	return err
}

func (l *changeList) end() error {
	if !l.asJSON {
		return nil
	}
	return l.app.printJSON(l.all)
}

// diffImages tells of the changes from one image to another.
func (a *app) diffImages(ctx context.Context, f *imageFlags, from, to string, yield func(layers.Change) error) error {
	s, err := a.newSession(f)
	if err != nil {
		return err
	}
	defer s.close()
	one, err := s.open(ctx, from)
	if err != nil {
		return err
	}
	defer one.close()
	other, err := s.open(ctx, to)
	if err != nil {
		return err
	}
	defer other.close()
	return layers.Diff(one.tree, other.tree, func(l, m int) bool { return one.Layers[l].Digest == other.Layers[m].Digest }, yield)
}

// diffUpper tells of the changes in an upper, given by its directory or by where it is mounted.
func (a *app) diffUpper(ctx context.Context, f *imageFlags, flags *pflag.FlagSet, dir string, yield func(layers.Change) error) error {
	path, platform, err := a.upperAt(dir)
	if err != nil {
		return err
	}
	if platform != "" && !flags.Changed("platform") {
		f.platform = platform
	}
	r, err := upper.ReadRecord(path)
	if err != nil {
		return err
	}
	s, err := a.newSession(f)
	if err != nil {
		return err
	}
	defer s.close()
	im, err := s.resolve(ctx, r.Reference)
	if err != nil {
		return fmt.Errorf("the image of %s: %w", path, err)
	}
	if im.ManifestDigest != r.Image {
		return fmt.Errorf("%s was written for the image %s, and %s is %s now", path, r.Image, r.Reference, im.ManifestDigest)
	}
	opened, err := s.openResolved(ctx, im)
	if err != nil {
		return err
	}
	defer opened.close()
	return upper.Diff(path, r.Mode, opened.tree, yield)
}

// upperAt is the upper of what is mounted at a directory, and its image's platform; or else the directory itself.
func (a *app) upperAt(dir string) (path, platform string, err error) {
	point, err := mountpointPath(dir)
	if err != nil {
		return "", "", err
	}
	state, known, err := a.mountAt(point)
	switch {
	case err != nil:
		return "", "", err
	case !known:
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return "", "", notFoundError{err}
		}
		return dir, "", nil
	case state.Upper == nil:
		return "", "", usageError{fmt.Errorf("%s is read-only: nothing is changed in it", dir)}
	}
	return state.Upper.Dir, state.Platform, nil
}
