package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgfs/e2e/internal/scenario"
)

// scenarioEnv, when set, makes this test program make what the scenarios need, run them, or look once more at what they came to. Its value is
// which of that (image, run, check; image-plain and so on for a plain directory), and where.
const scenarioEnv = "IMGFS_E2E_SCENARIOS"

// runScenarios is the whole of such a process.
func runScenarios(command string) (exitCode int) {
	how, dir, _ := strings.Cut(command, " ")
	plain := strings.HasSuffix(how, "-plain")
	var wrong []string
	var err error
	switch strings.TrimSuffix(how, "-plain") {
	case "image":
		err = scenario.Image(dir, plain)
	case "run":
		wrong, err = scenario.Run(dir, plain)
	case "check":
		wrong, err = scenario.Check(dir, plain)
	}
	for _, w := range wrong {
		fmt.Println(w)
	}
	if err != nil {
		fmt.Println(err)
	}
	if err != nil || len(wrong) > 0 {
		return 1
	}
	return 0
}

// tester runs this test program as a program of the host's, with a variable in its environment that says what to do.
func (h *host) tester(t testing.TB, variable string) {
	t.Helper()
	if out, err := h.testerCommand(t, variable).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// testerCommand is what tester runs.
func (h *host) testerCommand(t testing.TB, variables ...string) *exec.Cmd {
	t.Helper()
	program := filepath.Join(h.dir, "tester")
	if _, err := os.Stat(program); err != nil {
		if err := copyFile("/proc/self/exe", program); err != nil {
			t.Fatal(err)
		}
	}
	cmd := h.other(program)
	cmd.Env = append(cmd.Env, variables...)
	return cmd
}

func TestAnOperationComesToTheSameWhereverAFileIs(t *testing.T) {
	t.Run("plain", func(t *testing.T) { // which shows that the table is right
		h := newHost(t)
		dir := h.mkdir(t)
		h.tester(t, scenarioEnv+"=image-plain "+dir)
		h.tester(t, scenarioEnv+"=run-plain "+dir)
		h.tester(t, scenarioEnv+"=check-plain "+dir)
	})
	for _, w := range writables {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h := w.newHost(t)
			image := h.mkdir(t)
			h.tester(t, scenarioEnv+"=image "+image)
			ref := "tar:" + h.tarOf(t, image)
			dir := h.mountUpper(t, w, ref, "upper")
			h.tester(t, scenarioEnv+"=run "+dir)
			h.umount(t, dir)
			h.tester(t, scenarioEnv+"=check "+h.mountUpper(t, w, ref, "upper"))
		})
	}
}
