package main

import (
	"context"
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
			for _, dir := range args {
				if err := umount(cmd.Context(), dir, lazy); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "detach a busy mount now; it ends when it is no longer used")
	return cmd
}

// umount unmounts dir and waits for its server to be gone.
func umount(ctx context.Context, dir string, lazy bool) error {
	dir, err := mountpointPath(dir)
	if err != nil {
		return err
	}
	state, known, err := mountAt(dir)
	if err != nil {
		return err
	}
	if known && !state.Alive {
		return clearDead(state)
	}
	if err := fs.Unmount(dir, lazy); err != nil || !known || lazy {
		return err
	}
	return waitForEnd(ctx, state)
}

// mountpointPath is the absolute path of a mountpoint. It resolves links on the way to it, but never touches the
// mountpoint itself: a dead mount answers with errors, a hung one not at all.
func mountpointPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// mountAt finds the mount of this user at a directory: the latest, if there are several.
func mountAt(dir string) (m mountState, known bool, err error) {
	all, err := allMounts()
	for _, s := range all {
		if s.Mountpoint == dir {
			m, known = s, true
		}
	}
	return m, known, err
}

func waitForEnd(ctx context.Context, m mountState) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		s, known, err := mountAt(m.Mountpoint)
		if err != nil || !known || s.ID != m.ID || !s.Alive {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is unmounted, but its server (process %d) has not ended", m.Mountpoint, m.PID)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// clearDead takes away what a server that was killed left behind: its mount, if nobody unmounted it, and its state.
func clearDead(m mountState) error {
	if _, ours, err := fs.MountAt(m.Mountpoint); err != nil {
		return err
	} else if ours {
		if err := fs.Unmount(m.Mountpoint, false); err != nil {
			return err
		}
	}
	dir, err := runtimeDir()
	if err != nil {
		return err
	}
	removeState(dir, m.ID)
	if m.Made {
		return os.Remove(m.Mountpoint)
	}
	return nil
}
