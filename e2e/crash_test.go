package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/fsx"
)

// crashesEnv, beside fsxEnv, is how often the server will be killed.
const crashesEnv = "IMGFS_E2E_CRASHES"

// killsEnv is how often TestWhatWasDoneBeforeACrashIsThereAfterIt kills each server of our own.
const killsEnv = "IMGFS_CRASH_KILLS"

// TestWhatWasDoneBeforeACrashIsThereAfterIt kills servers in the middle of random operations: those of our own 20 times each, which takes
// seconds, or as often as killsEnv says.
func TestWhatWasDoneBeforeACrashIsThereAfterIt(t *testing.T) {
	kills := 20
	if s := os.Getenv(killsEnv); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range writables {
		crashes := kills
		if w.driver == "kernel" {
			crashes = min(kills, 20)
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h := w.newHost(t)
			dir := h.mkdir(t)
			ref := h.fsxWorld(t, dir, w.driver == "kernel")
			seed := uint64(time.Now().UnixNano())
			t.Logf("%s=%d", fsxSeedEnv, seed)
			h.crash(t, w, ref, h.fsxConfig(w, dir, seed), crashes)
		})
	}
}

// crash runs a test, kills the server under it when it has worked for some time, and mounts again.
func (h *host) crash(t *testing.T, w writable, ref string, c fsx.Config, crashes int) {
	t.Helper()
	mnt := filepath.Join(c.Dir, fsx.Test)
	mount := func() (pid int) {
		h.ok(t, "mount", "--upper", h.path("upper"), "--upper-driver", w.driver, ref, mnt)
		for _, name := range filesBelow(t, h.path("upper.work/work")) {
			t.Errorf("left in the work directory: %s", name)
		}
		return h.state(t, mnt).PID
	}
	pid := mount()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.testerCommand(t, fsxEnv+"="+string(config), fmt.Sprintf("%s=%d", crashesEnv, crashes))
	cmd.Stderr = os.Stderr
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
	lines := bufio.NewReader(stdout)
	for range crashes {
		expect(t, cmd, lines, fsx.Ready)
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		expect(t, cmd, lines, fsx.Crashed)
		pid = mount()
		fmt.Fprintln(stdin)
	}
	rest, _ := io.ReadAll(lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, rest)
	}
	h.umount(t, mnt)
}

// expect reads a line that a command prints.
func expect(t *testing.T, cmd *exec.Cmd, lines *bufio.Reader, want string) {
	t.Helper()
	line, err := lines.ReadString('\n')
	if strings.TrimSpace(line) == want {
		return
	}
	rest, _ := io.ReadAll(lines)
	t.Fatalf("%v instead of %q: %s%s", errors.Join(err, cmd.Wait()), want, line, rest)
}
