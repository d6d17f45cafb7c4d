package main

import (
	"os"
	"os/user"
	"path/filepath"
	"testing"
)

func TestTheCacheIsFoundWithoutAnEnvironment(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "PATH", "XDG_CACHE_HOME", "IMGFS_CACHE_DIR"} {
		t.Setenv(name, "")
	}
	completeEnvironment()
	if got, err := new(cacheFlags).path(); err != nil || got != filepath.Join(u.HomeDir, ".cache/imgfs") {
		t.Errorf("the cache is in %q (%v), want it below %s", got, err, u.HomeDir)
	}
	if os.Getenv("PATH") == "" {
		t.Error("there is no PATH")
	}
}

func TestAGivenEnvironmentIsLeftAlone(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	t.Setenv("PATH", "/opt/bin")
	completeEnvironment()
	if home, path := os.Getenv("HOME"), os.Getenv("PATH"); home != "/home/somebody" || path != "/opt/bin" {
		t.Errorf("HOME is %s, PATH %s", home, path)
	}
}

func TestRootsLoginSessionsSeeWhatIsMountedAtBoot(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/0")
	if got := runtimePath(0); got != "/run/imgfs" {
		t.Errorf("the runtime directory is %s", got)
	}
	own := t.TempDir() // in a user namespace it is the user's
	t.Setenv("XDG_RUNTIME_DIR", own)
	if got := runtimePath(0); got != filepath.Join(own, "imgfs") {
		t.Errorf("the runtime directory is %s", got)
	}
}
