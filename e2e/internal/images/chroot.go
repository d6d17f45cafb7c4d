package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"imgfs/e2e/internal/peer"
)

// inTree runs a shell script chrooted into a tree, so that no symbolic link
// of the tree leads to this machine's files. The script has a /proc and mounts
// of its own, which go with it. Input is its standard input; it may be nil.
func inTree(ctx context.Context, rootfs, script string, input io.Reader) error {
	if info, err := os.Lstat(rootfs); err != nil || !info.IsDir() {
		return errors.Join(fmt.Errorf("%s is not a directory", rootfs), err)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--fork", "--pid", "--kill-child", "--mount", "--mount-proc",
		"--root="+rootfs, "/bin/sh", "-euc", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	cmd.Stdin = input
	_, err := peer.RunCmd(cmd)
	return err
}
