package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgfs/fs"
)

// A mountOptions is what the flags of mount say.
type mountOptions struct {
	imageFlags
	foreground, suid, dev, allowOther, debug bool
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [flags] REF [DIR]",
		Short: "Mount an image",
		Long: `Mount the image REF at DIR, read-only. Without DIR a directory is made, and its name printed.

REF is an image as docker writes it (alpine, docker.io/library/alpine:3.20, NAME@sha256:…), docker://NAME,
or oci:DIR[:TAG|@DIGEST]. The command returns when the mount is usable; "imgfs umount DIR" ends it.`,
		Example: `  imgfs mount debian:12 /mnt
  imgfs mount --platform linux/arm64 oci:layout:latest /mnt`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.debug {
				a.logLevel = "debug"
				if err := a.setUpLog(); err != nil {
					return err
				}
			}
			if o.foreground || isChild {
				return a.serve(cmd.Context(), &o, args)
			}
			return a.mountInBackground(cmd.Context(), &o, args)
		},
	}
	f := cmd.Flags()
	o.add(f)
	o.addMemory(f)
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay in the foreground until unmounted")
	f.BoolVar(&o.suid, "suid", false, "honour set-user-ID and set-group-ID bits and file capabilities")
	f.BoolVar(&o.dev, "dev", false, "let device nodes be opened")
	f.BoolVar(&o.allowOther, "allow-other", false, "let other users use a user's mount, if /etc/fuse.conf permits it (root's are always open to all)")
	f.BoolVar(&o.debug, "debug-fuse", false, "log every FUSE request, and all else that --log-level=debug does")
	return cmd
}

func (a *app) mountInBackground(ctx context.Context, o *mountOptions, args []string) error {
	dir, err := runInBackground(ctx, a.args, a.stderr)
	if err != nil || len(args) == 2 {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, dir)
	return err
}

// serve mounts in this process and returns when the mount is gone.
func (a *app) serve(ctx context.Context, o *mountOptions, args []string) error {
	runtimeDir, err := runtimeDir()
	if err != nil {
		return err
	}
	m := &mounting{app: a, runtimeDir: runtimeDir}
	if len(args) == 2 {
		if m.dir, err = prepareMountpoint(args[1]); err != nil {
			return err
		}
	}
	if m.session, err = a.newSession(&o.imageFlags); err != nil {
		return err
	}
	defer m.session.close()
	if m.image, err = m.session.open(ctx, args[0]); err != nil {
		return err
	}
	defer m.image.close()
	if m.dir == "" {
		if err := m.makeMountpoint(); err != nil {
			return err
		}
		defer os.Remove(m.dir)
	}
	return m.serve(ctx, o)
}

// prepareMountpoint returns the absolute path of a directory that can be mounted on. A dead mount on it is cleared.
func prepareMountpoint(dir string) (string, error) {
	dir, err := mountpointPath(dir)
	if err != nil {
		return "", err
	}
	if state, known, err := mountAt(dir); err != nil {
		return "", err
	} else if known && !state.Alive {
		if err := clearDead(state); err != nil {
			return "", err
		}
	}
	// Better now than after a long download.
	return fs.Check(dir)
}

// A mounting is a mount while it is made and served.
type mounting struct {
	app        *app
	runtimeDir string
	session    *session
	image      *image
	dir        string
	made       bool // dir was made here
}

// makeMountpoint makes a directory to mount on, named after the image.
func (m *mounting) makeMountpoint() error {
	parent := filepath.Join(m.runtimeDir, "mnt")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	base := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/:@*", r) {
			return '-'
		}
		return r
	}, m.image.Ref.Name())
	dir, err := os.MkdirTemp(parent, base[max(0, len(base)-40):]+"-*")
	m.dir, m.made = dir, err == nil
	return err
}

func (m *mounting) serve(ctx context.Context, o *mountOptions) error {
	// From here on a signal unmounts; one that came before has ended ctx.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer close(signals)
	defer signal.Stop(signals)
	if err := ctx.Err(); err != nil {
		return err
	}
	server, err := fs.Mount(m.dir, m.image.tree, &fs.Options{
		Suid: o.suid, Dev: o.dev, AllowOther: o.allowOther, Name: m.image.Ref.Name(), Log: m.app.log, Debug: o.debug,
	})
	if err != nil {
		return err
	}
	settle()
	state, err := m.register(server)
	if err != nil {
		return errors.Join(err, server.Unmount())
	}
	defer state.remove()
	if isChild {
		if err := detach(m.dir, state.record.Log); err != nil {
			return errors.Join(err, server.Unmount())
		}
	}
	go m.unmountOnSignal(signals, server)
	server.Wait()
	m.app.log.Info("unmounted", "mountpoint", m.dir, "stats", m.stats(server))
	return nil
}

// settle ends the building: what indexing and merging needed goes back to the system, and from here on the memory of
// the process is the tree and the decoded spans, which live long and are reused, so a collection can wait for less
// garbage than half of memory.
func settle() {
	debug.SetGCPercent(20)
	debug.FreeOSMemory()
}

func (m *mounting) register(server *fs.Server) (*registration, error) {
	id := fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano())
	r := mountRecord{
		ID: id, Mountpoint: m.dir, Reference: m.image.Ref.Name(), Digest: m.image.ManifestDigest,
		Platform: platformString(m.image.Platform), PID: os.Getpid(), Started: time.Now().UTC(), Made: m.made,
	}
	if isChild {
		r.Log = statePath(m.runtimeDir, id, "log")
	}
	return register(m.runtimeDir, r, func() mountStats { return m.stats(server) })
}

// unmountOnSignal unmounts at a signal: a busy mount goes on being served, until a second signal detaches it.
func (m *mounting) unmountOnSignal(signals <-chan os.Signal, server *fs.Server) {
	lazy := false
	for range signals {
		err := server.Unmount()
		if errors.Is(err, unix.EBUSY) && lazy {
			err = server.Detach()
		}
		if err != nil {
			m.app.log.Error("still mounted; one more signal detaches it", "mountpoint", m.dir, "why", err)
		}
		lazy = true
	}
}
