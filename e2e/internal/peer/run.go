// Package peer starts and calls the programs that the end-to-end tests hold
// imgfs against: docker-registry, containerd, dockerd, skopeo, umoci, buildah and podman.
//
// Daemons listen on a loopback port or a socket of their own, keep everything
// below a directory that the caller gives, and are ended by their process id.
package peer

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// waitDelay is how long a program that was told to end may hold its output
// pipes open before they are closed for it.
const waitDelay = 5 * time.Second

// Run runs a program to its end and returns what it wrote to stdout. The
// error of a failing one ends with the last lines of its stderr.
func Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return RunCmd(exec.CommandContext(ctx, name, args...))
}

// RunCmd is Run for a command that needs more than arguments: a directory,
// an environment, a standard input. Its Stdout and Stderr must be nil.
func RunCmd(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = waitDelay
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(stderr.String(), 20))
	}
	return stdout.Bytes(), nil
}

// tail returns the last n lines of s.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
