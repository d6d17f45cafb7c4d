package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/internal/machine"
	"imgfs/layers"
)

func (a *app) doctorCommand() *cobra.Command {
	var d doctor
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether imgfs can mount here, and what would mend it",
		Long: `Check what imgfs needs and makes use of on this machine, for the user who asks: each thing is ok, missing, or a warning where
mounting does without it; with the command that mends it. An empty image is mounted and unmounted, and a user namespace made,
to see whether that works.

The exit code is 6 if anything is missing.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d.app = a
			findings := d.examine()
			print := a.printFindings
			if asJSON {
				print = func(all []machine.Finding) error { return a.printJSON(all) }
			}
			if err := print(findings); err != nil {
				return err
			}
			for _, f := range findings {
				if f.State == machine.Missing {
					return exitError{exitMount} // it has been said why
				}
			}
			return nil
		},
	}
	d.cache.add(cmd.Flags())
	d.network.add(cmd.Flags())
	addJSON(cmd, &asJSON)
	return cmd
}

// A doctor examines the machine, and how imgfs is set up on it.
type doctor struct {
	app     *app
	machine machine.Machine
	cache   cacheFlags
	network networkFlags
}

func (d *doctor) examine() []machine.Finding {
	d.machine = machine.Machine{Root: "/", UID: os.Geteuid(), Path: filepath.SplitList(os.Getenv("PATH"))}
	if u, err := user.Current(); err == nil {
		d.machine.User = u.Username
	}
	program, err := os.Executable()
	if err != nil {
		program = "imgfs"
	}
	var u unix.Utsname
	_ = unix.Uname(&u) // which can't fail
	return []machine.Finding{
		d.checkMount(), d.machine.Device(), d.machine.Helper(), d.checkAllowOther(),
		d.checkCache(), d.checkRuntime(), d.checkMounts(), d.checkRegistries(), d.machine.MountHelpers(program),
		d.machine.Namespaces(tryUserNamespace()), d.machine.SubIDs(), d.machine.Kernel(unix.ByteSliceToString(u.Release[:])),
	}
}

func (a *app) printFindings(all []machine.Finding) error {
	t := a.newTable("CHECK", "STATE", "DETAIL")
	for _, f := range all {
		t.row(f.Check, string(f.State), f.Detail)
		if f.Fix != "" {
			t.row("", "", "fix: "+f.Fix)
		}
	}
	return t.flush()
}

// checkMount mounts an empty image, and unmounts it.
func (d *doctor) checkMount() machine.Finding {
	f := machine.Finding{Check: "mount"}
	if err := mountNothing(&fs.Options{Log: d.app.log}); err != nil {
		return f.As(machine.Missing, err.Error(), "")
	}
	detail := "an empty image was mounted and unmounted"
	if d.machine.UID != 0 {
		detail += ", through fusermount3"
	}
	return f.As(machine.OK, detail, "")
}

func mountNothing(o *fs.Options) error {
	tree, _, err := layers.Merge(nil)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "imgfs-doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	server, err := fs.Mount(dir, tree, o)
	if err != nil {
		return err
	}
	if err := server.Unmount(); err != nil {
		return errors.Join(err, server.Detach())
	}
	server.Wait()
	return nil
}

// tryUserNamespace makes a user namespace, and a mount namespace in that, which only takes rights that one has there.
func tryUserNamespace() error {
	cmd := exec.Command("/proc/self/exe", "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	err := cmd.Run()
	var path *iofs.PathError
	if errors.As(err, &path) {
		return path.Err // which is not about the program
	}
	return err
}

func (d *doctor) checkAllowOther() machine.Finding {
	f := machine.Finding{Check: "allow_other"}
	if fs.PermitsOthers() {
		return f.As(machine.OK, "users may let others use their mounts", "")
	}
	return f.As(machine.Warning, "users may not let others use their mounts (--allow-other)", d.machine.AsRoot("sh", "-c", "echo user_allow_other >>/etc/fuse.conf"))
}

func (d *doctor) checkCache() machine.Finding {
	f := machine.Finding{Check: "cache"}
	dir, err := d.cache.path()
	if err != nil {
		return f.As(machine.Missing, err.Error(), "")
	}
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case errors.Is(err, unix.ENOENT):
		return d.checkNoCache(f, dir)
	case err != nil:
		return f.As(machine.Missing, fmt.Sprintf("%s: %v", dir, err), "")
	case int(st.Uid) != d.machine.UID:
		return f.As(machine.Missing, fmt.Sprintf("%s belongs to user %d", dir, st.Uid), d.machine.AsRoot("chown", "-R", d.machine.User, dir))
	case st.Mode&0o022 != 0:
		return f.As(machine.Missing, dir+" may be written to by others", machine.Quote("chmod", "700", dir))
	}
	c, err := d.app.openCache(&d.cache)
	if err != nil {
		return f.As(machine.Missing, err.Error(), "")
	}
	defer c.Close()
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return f.As(machine.Warning, fmt.Sprintf("%s: %v: nothing is kept", dir, err), "")
	}
	u, err := c.Usage()
	if err != nil {
		return f.As(machine.Missing, err.Error(), "")
	}
	detail := dir + space(dir) + ", " + humanBytes(u.Disk) + " taken"
	switch {
	case u.Free < u.Floor:
		return f.As(machine.Warning, fmt.Sprintf("%s, %s are to be left free", detail, humanBytes(u.Floor)), "imgfs cache gc")
	case u.Limit > 0 && u.Disk > u.Limit:
		return f.As(machine.Warning, fmt.Sprintf("%s of %s", detail, humanBytes(u.Limit)), "imgfs cache gc")
	}
	return f.As(machine.OK, detail, "")
}

// checkNoCache checks that the cache can be made.
func (d *doctor) checkNoCache(f machine.Finding, dir string) machine.Finding {
	parent := filepath.Dir(dir)
	for parent != "/" && unix.Access(parent, unix.F_OK) != nil {
		parent = filepath.Dir(parent)
	}
	if err := unix.Access(parent, unix.W_OK|unix.X_OK); err != nil {
		return f.As(machine.Missing, fmt.Sprintf("%s can't be made: %s: %v", dir, parent, err),
			d.machine.AsRoot("install", "-d", "-m", "700", "-o", d.machine.User, dir))
	}
	return f.As(machine.OK, dir+space(parent)+", made when it is needed", "")
}

// space is how much room there is in a directory, in words with its type of file system.
func space(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return ", " + err.Error()
	}
	words := fmt.Sprintf(", %s free", humanBytes(int64(st.Bavail)*st.Bsize))
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		if table, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real)); err == nil && len(table) > 0 {
			innermost := table[0]
			for _, m := range table {
				if len(m.Mountpoint) >= len(innermost.Mountpoint) {
					innermost = m
				}
			}
			words = ", on " + innermost.FSType + words
		}
	}
	return words
}

func (d *doctor) checkRuntime() machine.Finding {
	f := machine.Finding{Check: "runtime directory"}
	dir, err := runtimeDir()
	if err == nil {
		return f.As(machine.OK, dir, "")
	}
	dir, fix := runtimePath(d.machine.UID), ""
	if isMine(dir) {
		fix = machine.Quote("chmod", "700", dir)
	} else if _, err := os.Lstat(dir); err == nil {
		fix = d.machine.AsRoot("rm", "-r", dir)
	}
	return f.As(machine.Missing, err.Error(), fix)
}

// checkMounts looks for mounts whose servers are gone.
func (d *doctor) checkMounts() machine.Finding {
	f := machine.Finding{Check: "mounts"}
	all, err := d.app.listMounts()
	if err != nil {
		return f.As(machine.Warning, err.Error(), "")
	}
	dead := slices.DeleteFunc(slices.Clone(all), func(m mountState) bool { return m.Alive })
	if len(dead) == 0 {
		return f.As(machine.OK, fmt.Sprintf("%d, none of them dead", len(all)), "")
	}
	clear := []string{"imgfs", "umount"}
	for _, m := range dead {
		clear = append(clear, m.Mountpoint)
	}
	return f.As(machine.Warning, fmt.Sprintf("%d, and the servers of %d are gone", len(all), len(dead)), machine.Quote(clear...))
}

func (d *doctor) checkRegistries() machine.Finding {
	f := machine.Finding{Check: "registries"}
	fetch, err := fetcher.New(d.network.options(d.app))
	var files []string
	if err == nil {
		files, err = fetch.CheckConfiguration()
	}
	switch {
	case err != nil:
		return f.As(machine.Warning, strings.ReplaceAll(err.Error(), "\n", "; "), "")
	case len(files) == 0:
		return f.As(machine.OK, "nothing is configured", "")
	}
	return f.As(machine.OK, strings.Join(files, ", "), "")
}
