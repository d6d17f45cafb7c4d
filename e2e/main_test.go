package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
)

// lab is what the tests share: the program, the images, and the daemons, each
// made when the first test asks for it.
var lab struct {
	dir string // temporary; removed when all tests are done

	mu    sync.Mutex // protects the following
	stops []func()   // ends what runs, the newest last
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(scanEnv); dir != "" {
		os.Exit(scanForParent(dir))
	}
	if config := os.Getenv(fsxEnv); config != "" {
		os.Exit(runFsx(config))
	}
	if command := os.Getenv(scenarioEnv); command != "" {
		os.Exit(runScenarios(command))
	}
	if os.Getenv(isolatedEnv) == "" {
		os.Exit(isolated())
	}
	os.Exit(run(m))
}

// isolatedEnv is set in the process that runs the tests.
const isolatedEnv = "IMGFS_E2E_ISOLATED"

// isolated runs the tests in a process with a mount namespace of its own. It
// takes with it what they leave mounted; and a namespace that somebody else
// makes meanwhile does not get copies of our mounts, which would keep their
// servers alive.
func isolated() (exitCode int) {
	runtime.LockOSThread() // the child dies with the thread that started it
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "e2e: these tests need root:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func run(m *testing.M) int {
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(lab.dir)
	defer stopAll()
	return m.Run()
}

// setUp makes the directory that everything is in, open to all because
// another user's mounts are tested too, and builds the program into it.
func setUp() error {
	dir, err := os.MkdirTemp("", "imgfs-e2e-")
	if err != nil {
		return err
	}
	lab.dir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", program(), "imgfs/cmd/imgfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err = peer.RunCmd(build)
	return err
}

// program is the built imgfs.
func program() string { return filepath.Join(lab.dir, "imgfs") }

func stopAll() {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	for i := len(lab.stops) - 1; i >= 0; i-- {
		lab.stops[i]()
	}
}

// untilDone registers what is to be called when all tests are done.
func untilDone(stop func()) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	lab.stops = append(lab.stops, stop)
}

// timeLimit bounds what a test waits for, so that nothing hangs for ever.
func timeLimit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// get returns what a sync.OnceValues gives, or fails the test.
func get[T any](t testing.TB, once func() (T, error)) T {
	t.Helper()
	v, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// labDir makes a directory that lives as long as the lab.
func labDir(name string) (string, error) {
	dir := filepath.Join(lab.dir, name)
	return dir, os.Mkdir(dir, 0o700)
}

// theImages makes or finds the images.
var theImages = sync.OnceValues(func() (*images.Set, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return images.Get(ctx, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
})

// theContainerd starts the containerd that serves as an oracle.
var theContainerd = sync.OnceValues(func() (*peer.Containerd, error) {
	dir, err := labDir("containerd")
	if err != nil {
		return nil, err
	}
	c, err := peer.StartContainerd(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	untilDone(c.Stop)
	return c, nil
})

// theDocker starts the dockerd that images are loaded into, pushed and saved by.
var theDocker = sync.OnceValues(func() (*peer.Docker, error) {
	dir, err := labDir("docker")
	if err != nil {
		return nil, err
	}
	d, err := peer.StartDocker(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	untilDone(d.Stop)
	return d, nil
})

// theRegistry starts a docker-registry that has all images, as test/NAME:TAG.
var theRegistry = sync.OnceValues(func() (*peer.Registry, error) {
	set, err := theImages()
	if err != nil {
		return nil, err
	}
	dir, err := labDir("registry")
	if err != nil {
		return nil, err
	}
	r, err := peer.StartRegistry(context.Background(), dir, nil)
	if err != nil {
		return nil, err
	}
	untilDone(r.Stop)
	for _, im := range set.All() {
		if err := push(context.Background(), r, im); err != nil {
			return nil, err
		}
	}
	return r, nil
})

// push copies an image to a registry: buildah's as Docker's version 2, the
// others as OCI's.
func push(ctx context.Context, r *peer.Registry, im images.Image, options ...string) error {
	format := "oci"
	if im.Name == "buildah-full" {
		format = "v2s2"
	}
	options = append(options, "--format", format, "--preserve-digests")
	return peer.Copy(ctx, "oci:"+im.Layout+":"+im.Tag, "docker://"+inRegistry(r, im), options...)
}

// inRegistry is an image's reference in a registry it was pushed to.
func inRegistry(r *peer.Registry, im images.Image) string {
	return r.Addr + "/test/" + im.Name + ":" + im.Tag
}

// inLayout is an image's reference in its layout.
func inLayout(im images.Image) string { return "oci:" + im.Layout + ":" + im.Tag }
