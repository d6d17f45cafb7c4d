package e2e

import (
	"bufio"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgfs/e2e/internal/treediff"
)

// nobody is the user that the tests mount as who is not root.
const nobody = 65534

// scanEnv, when set, makes this test program scan the tree it names and
// write it to its stdout: another user's mount is for that user's eyes only.
const scanEnv = "IMGFS_E2E_SCAN"

// scanForParent is the whole of such a process.
func scanForParent(dir string) (exitCode int) {
	tree, err := treediff.Scan(dir)
	if err == nil {
		err = gob.NewEncoder(os.Stdout).Encode(tree)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// newUserHost makes a host whose programs run as nobody, in a mount namespace of
// their own that a script has prepared. There, /dev/fuse is open to all, as
// udev makes it; that is not so in every container.
func newUserHost(t *testing.T, prepare string) *host {
	t.Helper()
	return newHostIn(t, prepare, nobody)
}

// newHostIn makes a host whose programs run as a user in a mount namespace that
// a script has prepared.
func newHostIn(t *testing.T, prepare string, uid int) *host {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, "user-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, uid: uid}
	h.enter = []string{
		"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", namespace(t, prepare)), "--",
		"setpriv", fmt.Sprintf("--reuid=%d", uid), fmt.Sprintf("--regid=%d", uid), "--clear-groups", "--",
	}
	h.setUp(t) // after the namespace, so that its end comes before the namespace's
	for _, name := range []string{h.dir, h.path("run")} {
		if err := os.Chown(name, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// fuseForAll is the script that puts a /dev with a /dev/fuse for all in place.
const fuseForAll = `mount -t tmpfs -o mode=755 dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/fuse c 10 229
`

// namespace makes a mount namespace, runs a script in it, and returns the
// process that keeps it until the test ends.
func namespace(t *testing.T, prepare string) (pid int) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-ec", prepare+"echo ready\nexec cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // ends cat
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the namespace is not ready: %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// scanAsUser scans a tree with the eyes of the host's user.
func (h *host) scanAsUser(t *testing.T, dir string) treediff.Tree {
	t.Helper()
	scanner := filepath.Join(h.dir, "scanner")
	if err := copyFile("/proc/self/exe", scanner); err != nil {
		t.Fatal(err)
	}
	cmd := h.other(scanner)
	cmd.Env = append(cmd.Env, scanEnv+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var tree treediff.Tree
	decodeErr := gob.NewDecoder(stdout).Decode(&tree)
	if err := cmd.Wait(); err != nil || decodeErr != nil {
		t.Fatalf("scan as user: %v, %v\n%s", err, decodeErr, stderr.String())
	}
	return tree
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func TestAUserMountsThroughFusermount(t *testing.T) {
	h, im := newUserHost(t, fuseForAll), get(t, theImages).PAXTar()
	dir := h.mount(t, inRegistry(get(t, theRegistry), im))
	sameTree(t, h.scanAsUser(t, dir), tarOracle.tree(t, im), treediff.Blind{}, "tar")
	if s := h.state(t, dir); s == nil || !s.Alive || s.Reference == "" {
		t.Errorf("ps says: %+v", s)
	}
	h.umount(t, dir)
}

func TestAUserWithoutTheMeansToMountIsToldWhatToDo(t *testing.T) {
	tests := []struct{ name, prepare, say string }{
		{"no fusermount3", fuseForAll + "mount --bind /dev/null /usr/bin/fusermount3\n", "fuse3"},
		{"no /dev/fuse", "mount -t tmpfs -o mode=755 dev /dev\nmknod -m 666 /dev/null c 1 3\n", "/dev/fuse"},
		{"/dev/fuse for root alone", fuseForAll + "chmod 600 /dev/fuse\n", "/dev/fuse"},
	}
	ref := inRegistry(get(t, theRegistry), get(t, theImages).PAXTar())
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newUserHost(t, test.prepare)
			h.fails(t, 6, []string{test.say}, "mount", ref, h.mkdir(t))
		})
	}
}
