package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAMountIsListedWithItsFiguresUntilItsServerEnds(t *testing.T) {
	// A long path: the socket has to work where its address would not fit.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := mountRecord{ID: "1-a", Mountpoint: "/mnt/x", Reference: "docker.io/library/x:latest", PID: os.Getpid(), Started: time.Now().UTC()}
	g, err := register(dir, r, func() mountStats { return mountStats{BytesFetched: 42} })
	if err != nil {
		t.Fatal(err)
	}
	all, err := mounts(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || !all[0].Alive || all[0].mountRecord != r {
		t.Errorf("mounts are %+v, want the one registered, alive", all)
	}
	if s := askStats(dir, r.ID); s == nil || s.BytesFetched != 42 {
		t.Errorf("its figures are %+v, want 42 bytes fetched", s)
	}
	if err := os.WriteFile(filepath.Join(dir, "damaged.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := mounts(dir, slog.New(slog.DiscardHandler)); err != nil || len(all) != 1 {
		t.Errorf("beside a damaged record there are %d mounts (%v), want the one registered", len(all), err)
	}
	os.Remove(filepath.Join(dir, "damaged.json"))
	g.remove()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestAMountWhoseServerWasKilledIsDead(t *testing.T) {
	dir := t.TempDir()
	g, err := register(dir, mountRecord{ID: "1-a", Mountpoint: "/mnt/x", PID: os.Getpid()}, func() mountStats { return mountStats{} })
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel does for a process that is killed.
	g.file.Close()
	g.socket.Close()
	all, err := mounts(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Alive {
		t.Errorf("mounts are %+v, want one that is dead", all)
	}
}

func TestARuntimeDirectoryOfSomebodyElseIsRefused(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	dir := filepath.Join(base, "imgfs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := runtimeDir(); err != nil || got != dir {
		t.Fatalf("runtimeDir() = %q, %v; want %q", got, err, dir)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := runtimeDir(); err == nil {
		t.Error("a directory that everybody may write to is taken")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := runtimeDir(); err == nil {
		t.Error("a symbolic link is taken")
	}
}
