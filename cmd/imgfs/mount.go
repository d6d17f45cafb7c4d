package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/layers/upper"
)

// A mountOptions is what the flags of mount say.
type mountOptions struct {
	imageFlags
	upperFlags
	foreground, suid, dev, noexec, allowOther, debug bool
	fsname                                           string
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount [flags] REF [DIR]",
		Short: "Mount an image",
		Long: `Mount the image REF at DIR, read-only, or, with --upper, writable: changes go to the upper directory, and the image
stays as it is. Without DIR a directory is made, and its name printed.

REF is an image as docker writes it (alpine, docker.io/library/alpine:3.20, NAME@sha256:…), docker://NAME,
oci:DIR[:TAG|@DIGEST], oci-archive:FILE[:TAG|@DIGEST], docker-archive:FILE[:NAME|:@N], dir:DIR, tar:FILE,
or a path, which is recognised by its content. The command returns when the mount is usable; "imgfs umount DIR" ends it.`,
		Example: `  imgfs mount debian:12 /mnt
  imgfs mount --platform linux/arm64 oci:layout:latest /mnt
  imgfs mount --upper changes --dev --suid debian:12 /mnt`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd.Flags()); err != nil {
				return err
			}
			if o.debug {
				a.logLevel = "debug"
				if err := a.setUpLog(); err != nil {
					return err
				}
			}
			if o.foreground || isChild {
				return a.serve(cmd.Context(), &o, args)
			}
			return a.mountInBackground(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	o.imageFlags.add(f)
	o.addMemory(f)
	o.upperFlags.add(f)
	f.BoolVarP(&o.foreground, "foreground", "f", false, "stay in the foreground until unmounted")
	f.BoolVar(&o.suid, "suid", false, "honour set-user-ID and set-group-ID bits and file capabilities")
	f.BoolVar(&o.dev, "dev", false, "let device nodes be opened")
	f.BoolVar(&o.noexec, "noexec", false, "let no program be run from it")
	f.BoolVar(&o.allowOther, "allow-other", false, "let other users use a user's mount, if /etc/fuse.conf permits it (root's are always open to all)")
	f.StringVar(&o.fsname, "fsname", "", "name of the source in the mount table (default: the image's full name)")
	f.BoolVar(&o.debug, "debug-fuse", false, "log every FUSE request, and all else that --log-level=debug does")
	return cmd
}

func (a *app) mountInBackground(ctx context.Context, args []string) error {
	shown := slices.Clone(args)
	if ref, err := fetcher.ParseReference(args[0]); err == nil {
		shown[0] = ref.Name() // without what may be secret in it
	}
	dir, err := runInBackground(ctx, a.args, shown, a.stderr)
	if err != nil || len(args) == 2 {
		return err
	}
	if _, err = fmt.Fprintln(a.stdout, dir); err != nil {
		return errors.Join(err, a.umount(ctx, []string{dir}, false)) // a mount that nobody can find
	}
	return nil
}

// A mounting is a mount while it is made and served.
type mounting struct {
	app        *app
	flags      *mountOptions
	options    fs.Options
	runtimeDir string
	supervisor supervisor
	cacheDir   string
	session    *session
	image      *image
	dir        string
	made       bool          // dir was made here
	upper      *upper.Dir    // nil for a mount that is read-only
	files      *upper.FS     // over it
	driver     string        // of the upper
	state      *registration // once it is mounted
}

// serve mounts in this process and returns when the mount is gone.
func (a *app) serve(ctx context.Context, o *mountOptions, args []string) error {
	runtimeDir, err := runtimeDir()
	if err != nil {
		return err
	}
	m := &mounting{app: a, flags: o, runtimeDir: runtimeDir, supervisor: findSupervisor(), options: fs.Options{
		Name: o.fsname, Suid: o.suid, Dev: o.dev, NoExec: o.noexec, AllowOther: o.allowOther, Log: a.log, Debug: o.debug,
	}}
	// Last of all: when the state is gone, so is all else.
	defer func() {
		if m.state != nil {
			m.state.remove()
		}
	}()
	m.made = len(args) == 1
	if !m.made {
		err = m.prepareMountpoint(args[1])
	} else {
		// To see that it can be. It is made anew when it is needed, so that who is killed while layers are indexed leaves none.
		err = m.makeMountpoint(args[0])
		os.Remove(m.dir)
	}
	if err != nil {
		return err
	}
	if m.cacheDir, err = o.path(); err != nil {
		return err
	}
	if m.session, err = a.newSession(&o.imageFlags); err != nil {
		return err
	}
	defer m.session.close()
	m.supervisor.tell(a.log, "STATUS=Mounting at "+m.dir)
	im, err := m.session.resolve(ctx, args[0])
	if err != nil {
		return err
	}
	if o.upperFlags.dir != "" {
		if err := m.openUpper(im); err != nil {
			return err
		}
		defer m.closeUpper()
	}
	if m.image, err = m.session.openResolved(ctx, im); err != nil {
		return err
	}
	defer m.image.close()
	if m.made {
		err := m.makeMountpoint(args[0])
		defer os.Remove(m.dir)
		if err != nil {
			return err
		}
	}
	return m.serve(ctx)
}

// prepareMountpoint clears a dead mount on the directory, and checks whether it can be mounted on: better now than after a
// long download.
func (m *mounting) prepareMountpoint(dir string) error {
	dir, err := mountpointPath(dir)
	if err != nil {
		return err
	}
	state, known, err := m.app.mountAt(dir)
	switch {
	case err != nil:
		return err
	case known && !state.Alive:
		state.Made = false // it is about to be used
		err = clearDead(state)
	default:
		err = clearDeadMount(dir)
	}
	if err != nil {
		return err
	}
	dir, err = fs.Check(dir, &m.options)
	if err == nil {
		m.dir = dir
	}
	return err
}

// makeMountpoint makes a directory to mount on, named after the image, and prepares it.
func (m *mounting) makeMountpoint(reference string) error {
	parent := filepath.Join(m.runtimeDir, "mnt")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/:@*", r) {
			return '-'
		}
		return r
	}, reference)
	var err error
	if m.dir, err = os.MkdirTemp(parent, name[max(0, len(name)-40):]+"-*"); err != nil {
		return err
	}
	return m.prepareMountpoint(m.dir)
}

func (m *mounting) serve(ctx context.Context) error {
	// From here on a signal unmounts; one that came before has ended ctx.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, endSignals...)
	defer close(signals)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // nobody reading the log is no reason to leave a dead mount
	if err := ctx.Err(); err != nil {
		return err
	}
	m.options.Name = cmp.Or(m.options.Name, m.image.Ref.Name())
	server, err := m.mount()
	if err != nil {
		return err
	}
	if err := m.publish(server); err != nil {
		return errors.Join(err, server.Unmount())
	}
	go m.unmountOnSignal(signals, server)
	m.supervisor.tell(m.app.log, "READY=1", "STATUS="+m.options.Name+" is mounted at "+m.dir)
	settle(m.upper != nil) // now that nobody waits for it any more
	server.Wait()
	m.supervisor.tell(m.app.log, "STOPPING=1")
	m.app.log.Info("unmounted", "mountpoint", m.dir, "stats", m.stats(server))
	return nil
}

func (m *mounting) mount() (*fs.Server, error) {
	if m.upper != nil {
		return m.mountWritable()
	}
	return fs.Mount(m.dir, m.image.tree, &m.options)
}

// publish makes the mount known: to ps, and to the process in the foreground.
func (m *mounting) publish(server *fs.Server) error {
	id := fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano())
	r := mountRecord{
		ID: id, Mountpoint: m.dir, Reference: m.image.Ref.Name(), Digest: m.image.ManifestDigest,
		Platform: platformString(m.image.Platform), CacheDir: m.cacheDir, PID: os.Getpid(), Started: time.Now().UTC(), Made: m.made,
	}
	if m.upper != nil {
		r.Upper = &upperRecord{Dir: m.upper.Path, Work: m.upper.WorkPath, Driver: m.driver}
	}
	if isChild {
		r.Log = statePath(m.runtimeDir, id, "log")
	}
	var err error
	m.state, err = register(m.runtimeDir, r, func() mountStats { return m.stats(server) })
	switch {
	case err != nil:
	case isChild:
		err = detach(m.dir, r.Log)
	case m.made:
		_, err = fmt.Fprintln(m.app.stdout, m.dir)
	}
	return err
}

// spareProcs is how many more of Go's processors a server has than the machine. Its threads wait for the kernel most of
// the time. While all processors are taken by such, the scheduler takes them away after some microseconds, and gives them
// back: that is a quarter of what the server does. It lets them be as long as there are idle ones.
const spareProcs = 4

// settle ends the building: what indexing and merging needed goes back to the system, and from here on the memory of
// the process is the tree and the decoded spans, which live long and are reused, so a collection can wait for less
// garbage than half of memory. Where there are changes, there are inodes that come and go.
func settle(writable bool) {
	percent := 20
	if writable {
		percent = 100
	}
	debug.SetGCPercent(percent)
	debug.FreeOSMemory()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
}

// unmountOnSignal unmounts at a signal: a busy mount goes on being served, until a second signal detaches it.
func (m *mounting) unmountOnSignal(signals <-chan os.Signal, server *fs.Server) {
	busy := false
	for range signals {
		err := server.Unmount()
		if errors.Is(err, unix.EBUSY) && busy {
			err = server.Detach()
		}
		switch {
		case errors.Is(err, unix.EBUSY):
			busy = true
			m.app.log.Error("still mounted, because it is in use; one more signal detaches it", "mountpoint", m.dir)
		case err != nil:
			m.app.log.Error("still mounted", "mountpoint", m.dir, "why", err)
		}
	}
}
