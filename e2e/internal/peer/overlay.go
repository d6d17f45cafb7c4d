package peer

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
)

// lowers are mount options for layers that are unpacked to a directory each, the lowest first. Without an upper there must be two at least.
func lowers(layers []string) string {
	option := "lowerdir="
	for i := len(layers) - 1; i >= 0; i-- {
		option += layers[i] + ":"
	}
	return strings.TrimSuffix(option, ":")
}

// MountOverlay mounts unpacked layers with the kernel's overlayfs, read-only.
func MountOverlay(layers []string, dir string) (unmount func() error, err error) {
	if err := syscall.Mount("overlay", dir, "overlay", syscall.MS_RDONLY, lowers(layers)); err != nil {
		return nil, fmt.Errorf("mount an overlay on %s: %w", dir, err)
	}
	return func() error { return syscall.Unmount(dir, 0) }, nil
}

// MountFuseOverlay mounts unpacked layers with fuse-overlayfs, and tells in which process. unmount waits for its end.
func MountFuseOverlay(ctx context.Context, layers []string, dir string) (unmount func() error, pid int, err error) {
	return mountFuseOverlay(ctx, lowers(layers), dir)
}

func mountFuseOverlay(ctx context.Context, options, dir string) (unmount func() error, pid int, err error) {
	cmd := exec.Command("fuse-overlayfs", "-f", "-o", options, dir)
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		return nil, 0, errors.New("fuse-overlayfs is missing: e2e/prepare.sh installs it")
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	for mounted := false; !mounted; {
		if mounted, err = mountinfo.Mounted(dir); err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = cmd.Process.Kill()
			return nil, 0, errors.Join(err, cmd.Wait())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return func() error { return errors.Join(syscall.Unmount(dir, 0), cmd.Wait()) }, cmd.Process.Pid, nil
}

// An Upper is the writable directory of an overlay over layers that are unpacked to a directory each, the lowest first.
type Upper struct {
	Layers      []string
	Upper, Work string
}

func (u Upper) options() string {
	return fmt.Sprintf("%s,upperdir=%s,workdir=%s", lowers(u.Layers), u.Upper, u.Work)
}

// MountUpper mounts the kernel's overlayfs, writable.
func MountUpper(u Upper, dir string) (unmount func() error, err error) {
	if err := syscall.Mount("overlay", dir, "overlay", syscall.MS_NOSUID|syscall.MS_NODEV, u.options()+",redirect_dir=nofollow,index=off,metacopy=off"); err != nil {
		return nil, fmt.Errorf("mount an overlay on %s: %w", dir, err)
	}
	return func() error { return syscall.Unmount(dir, 0) }, nil
}

// MountFuseUpper mounts fuse-overlayfs, writable, for all users. unmount waits for its end.
func MountFuseUpper(ctx context.Context, u Upper, dir string) (unmount func() error, err error) {
	unmount, _, err = mountFuseOverlay(ctx, u.options()+",allow_other", dir)
	return unmount, err
}
