package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imgfs/fs"
)

func (a *app) umountCommand() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:   "umount DIR…",
		Short: "Unmount images",
		Long:  "Unmount the images mounted at the directories, dead mounts as well, and wait for their servers to end.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var failed []error
			for _, dir := range args {
				failed = append(failed, a.umount(cmd.Context(), dir, lazy))
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "detach a busy mount now; it ends when it is no longer used")
	return cmd
}

// umount unmounts dir and waits for its server to be gone.
func (a *app) umount(ctx context.Context, dir string, lazy bool) error {
	dir, err := mountpointPath(dir)
	if err != nil {
		return err
	}
	state, known, err := a.mountAt(dir)
	if err != nil {
		return err
	}
	if known && !state.Alive {
		if err := clearDead(state); err != nil {
			return err
		}
		if _, another, err := fs.MountAt(dir); err != nil || !another {
			return err
		}
		known = false // it is somebody else's, with a run-time directory of his own
	}
	if err := fs.Unmount(dir, lazy); err != nil || !known || lazy {
		return err
	}
	return a.waitForEnd(ctx, state)
}

// mountpointPath is the absolute path of a mountpoint, without symbolic links. It never touches the mountpoint itself: a dead
// mount answers with errors, a hung one not at all.
func mountpointPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if mount, ours, err := fs.MountAt(abs); err == nil && ours {
		return mount.Dir, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return abs, nil // whoever uses the path says what is wrong with it
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// mountAt finds the mount of this user at a directory: the latest, if there are several.
func (a *app) mountAt(dir string) (m mountState, known bool, err error) {
	all, err := a.allMounts()
	for _, s := range all {
		if s.Mountpoint == dir {
			m, known = s, true
		}
	}
	return m, known, err
}

// waitForEnd waits for the server of a mount that has been unmounted. It ends at once, but where something else keeps the file
// system: an overlay on top, another mount namespace, or a read that waits for the registry. The first two may last.
func (a *app) waitForEnd(ctx context.Context, m mountState) error {
	dir, err := runtimeDir()
	if err != nil {
		return err
	}
	const patience = 40 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	notice := time.AfterFunc(2*time.Second, func() {
		fmt.Fprintf(a.stderr, "imgfs: %s is unmounted; its server (process %d) goes on for as long as something else uses it: "+
			"an overlay on top, another mount namespace, a read that waits for the registry; it is waited for up to %v\n",
			m.Mountpoint, m.PID, patience)
	})
	defer notice.Stop()
	for {
		s, err := readState(statePath(dir, m.ID, "json"))
		if err != nil || !s.Alive {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // it is unmounted, and what is to be known has been said
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// clearDead takes away what a server that was killed left behind: its mount, if nobody unmounted it, and its state.
func clearDead(m mountState) error {
	if err := clearDeadMount(m.Mountpoint); err != nil {
		return err
	}
	dir, err := runtimeDir()
	if err != nil {
		return err
	}
	removeState(dir, m.ID)
	if m.Made {
		os.Remove(m.Mountpoint) // if it is still there, and empty
	}
	return nil
}

// clearDeadMount unmounts what is mounted at dir if its server is gone. A live mount, of whomever, stays.
func clearDeadMount(dir string) error {
	mount, ours, err := fs.MountAt(dir)
	if err != nil || !ours || !mount.Dead() {
		return err
	}
	return fs.Unmount(dir, false)
}
