package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/layers/upper"
)

// upperFlags are the flags of mount that are about the writable directory.
type upperFlags struct {
	dir, work, driver, sync string
	force                   bool
}

// What upperFlags.driver and upperFlags.sync may be.
const (
	driverAuto   = "auto"
	driverFUSE   = "fuse"
	driverKernel = "kernel"
	syncAuto     = "auto"
	syncAlways   = "always"
	syncNever    = "never"
)

func (f *upperFlags) add(s *pflag.FlagSet) {
	s.StringVar(&f.dir, "upper", "", "directory for changes, which makes the mount writable; made if it is not there")
	s.StringVar(&f.work, "work", "", "directory to work in, on the upper's file system; made if it is not there (default: the upper's name and .work)")
	s.StringVar(&f.driver, "upper-driver", driverAuto, "who writes: kernel (its overlayfs; takes root, or a user namespace), fuse, or auto: the kernel where it can")
	s.StringVar(&f.sync, "sync", syncAuto, "when changes go to the disk: always (each change of a name as well), never, or auto: as programs ask for it, and a copied file before it has its name")
	s.BoolVar(&f.force, "force", false, "take an upper directory that was written for another image, or by another kind of user")
}

// check looks for what makes no sense.
func (f *upperFlags) check(set *pflag.FlagSet) error {
	usage := func(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
	if f.dir == "" {
		for _, name := range []string{"work", "upper-driver", "sync", "force"} {
			if set.Changed(name) {
				return usage("--%s is about an upper directory: give one with --upper", name)
			}
		}
		return nil
	}
	switch {
	case !slices.Contains([]string{driverAuto, driverFUSE, driverKernel}, f.driver):
		return usage("--upper-driver %q: want auto, fuse or kernel", f.driver)
	case !slices.Contains(sortedKeys(syncs), f.sync):
		return usage("--sync %q: want auto, always or never", f.sync)
	case f.driver == driverKernel && f.sync == syncAlways:
		return usage("--sync always takes --upper-driver fuse: the kernel's overlayfs syncs as programs ask for it, or never")
	}
	return nil
}

// openUpper opens the upper for an image, before the image is indexed, which may take long.
func (m *mounting) openUpper(im *fetcher.Image) (err error) {
	f := &m.flags.upperFlags
	m.upper, err = upper.Open(f.dir, &upper.Options{
		Work: f.work, Image: im.ManifestDigest, Reference: im.Ref.At(im.ManifestDigest).Name(), Mountpoint: m.dir,
		Force: f.force, Log: m.app.log,
	})
	return err
}

// mountWritable mounts with the driver that was asked for, or the better one that works.
func (m *mounting) mountWritable() (*fs.Server, error) {
	files, err := upper.New(m.upper, m.image.tree, &upper.FSOptions{Sync: syncs[m.flags.sync], Log: m.app.log})
	if err != nil {
		return nil, err
	}
	m.files = files // which has finished by now what a crash has left, whoever writes next
	if m.flags.driver != driverFUSE && m.flags.sync != syncAlways {
		server, err := m.mountOverlay()
		if err == nil {
			files.Close()
			m.files = nil
		}
		if m.flags.driver == driverKernel || !errors.Is(err, fs.ErrNoOverlay) {
			return server, err
		}
		m.app.log.Info("writing without the kernel's overlayfs", "why", err)
	}
	m.driver = driverFUSE
	return fs.MountUpper(m.dir, files, &m.options)
}

func (m *mounting) mountOverlay() (*fs.Server, error) {
	m.driver = driverKernel
	o := &fs.Overlay{Upper: m.upper, Volatile: m.flags.sync == syncNever, Private: m.runtimeDir}
	return fs.MountOverlay(m.dir, m.image.tree, o, &m.options)
}

// syncs are what --sync may be.
var syncs = map[string]upper.Sync{syncAuto: upper.SyncAuto, syncAlways: upper.SyncAlways, syncNever: upper.SyncNever}

// closeUpper lets go of the upper, after all that was changed is on the disk: umount waits for it.
func (m *mounting) closeUpper() {
	if m.files != nil {
		m.files.Close()
	}
	if m.state != nil && m.flags.sync != syncNever {
		if err := unix.Syncfs(m.upper.Upper); err != nil {
			m.app.log.Error("changes may not be on the disk", "upper", m.upper.Path, "why", err)
		}
	}
	m.upper.Close()
}
