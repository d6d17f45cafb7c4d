package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "imgfs-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Another user's mounts are tested too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	lab.dir = dir
	defer stopAll()
	return m.Run()
}

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

// context bounds what a test waits for, so that nothing hangs for ever.
func timeLimit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// get returns what a sync.OnceValues gives, or fails the test.
func get[T any](t *testing.T, once func() (T, error)) T {
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
