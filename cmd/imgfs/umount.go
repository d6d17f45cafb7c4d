package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"imgfs/fs"
)

func (a *app) umountCommand() *cobra.Command {
	var all, lazy bool
	cmd := &cobra.Command{
		Use:   "umount [flags] DIR… | -a",
		Short: "Unmount images",
		Long: `Unmount the images mounted at the directories, dead mounts as well, and wait for their servers to end, side by side.
With --all it is all that "imgfs ps" lists.`,
		ValidArgsFunction: a.completeMounts,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("umount: say which directories, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return a.umountAll(cmd.Context(), lazy)
			}
			return a.umount(cmd.Context(), args, lazy)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "unmount all mounts of this user, the newest first")
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "detach a busy mount now; it ends when it is no longer used")
	return cmd
}

// umount unmounts the directories, one after the other, and waits for their servers to be gone.
func (a *app) umount(ctx context.Context, dirs []string, lazy bool) error {
	var u unmounting
	for _, dir := range dirs {
		u.add(a.takeDown(dir, lazy))
	}
	return a.finish(ctx, &u, lazy)
}

// umountAll is umount for all mounts of this user, in an order in which those inside of others come first.
func (a *app) umountAll(ctx context.Context, lazy bool) error {
	all, err := a.listMounts()
	if err != nil {
		return err
	}
	var u unmounting
	for _, m := range slices.Backward(all) {
		switch {
		case m.Alive && m.Mounted:
			u.add(&m, fs.Unmount(m.Mountpoint, lazy))
		case m.Alive: // detached: it ends with its last user
		case m.ID == "":
			u.add(nil, clearDeadMount(m.Mountpoint))
		default:
			u.add(nil, clearDead(m))
		}
	}
	return a.finish(ctx, &u, lazy)
}

// An unmounting is what came of unmounting several directories.
type unmounting struct {
	failed  []error
	serving []*mountState // of those that are unmounted; their servers may need a moment
}

// add adds one of them. m is nil if there is no server to wait for.
func (u *unmounting) add(m *mountState, err error) {
	u.failed = append(u.failed, err)
	if m != nil && err == nil {
		u.serving = append(u.serving, m)
	}
}

// finish waits for the servers, side by side. Those of lazy unmounts may go on for as long as they are used.
func (a *app) finish(ctx context.Context, u *unmounting, lazy bool) error {
	dir, err := runtimeDir()
	if err != nil {
		return errors.Join(append(u.failed, err)...)
	}
	var waiting sync.WaitGroup
	for _, m := range u.serving {
		if !lazy {
			waiting.Go(func() { a.waitForEnd(ctx, dir, m) })
		}
	}
	waiting.Wait()
	return errors.Join(u.failed...)
}

// takeDown unmounts dir, and returns the mount that was there if its server is this user's.
func (a *app) takeDown(dir string, lazy bool) (*mountState, error) {
	dir, err := mountpointPath(dir)
	if err != nil {
		return nil, err
	}
	m, known, err := a.mountAt(dir)
	if err != nil {
		return nil, err
	}
	if known && m.Alive {
		return &m, fs.Unmount(dir, lazy)
	}
	if known {
		if err := clearDead(m); err != nil {
			return nil, err
		}
		if _, another, err := fs.MountAt(dir); err != nil || !another {
			return nil, err
		}
	}
	return nil, fs.Unmount(dir, lazy) // it is somebody else's, with a run-time directory of his own
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
func (a *app) waitForEnd(ctx context.Context, runtimeDir string, m *mountState) {
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
		s, err := readState(statePath(runtimeDir, m.ID, "json"))
		if err != nil || !s.Alive {
			return
		}
		select {
		case <-ctx.Done():
			return // it is unmounted, and what is to be known has been said
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
