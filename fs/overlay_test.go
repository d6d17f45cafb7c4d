package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// overlaid mounts the kernel's overlayfs over a mount of ours.
func overlaid(t testing.TB, lower, extra string) string {
	t.Helper()
	base := publicDir(t)
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(base, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work%s", lower, base, base, extra)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	return merged
}

func TestTheKernelsOverlayfsTakesTheMountAsALower(t *testing.T) {
	tree := sample().tree(t)
	for _, extra := range []string{"", ",index=on", ",metacopy=on"} {
		s := mounted(t, tree, nil)
		merged := overlaid(t, s.Dir(), extra)
		for _, step := range []struct {
			does string
			err  error
		}{
			{"create", os.WriteFile(merged+"/new", []byte("new\n"), 0o644)},
			{"append", appendTo(merged+"/etc/hostname", "more\n")},
			{"chmod", os.Chmod(merged+"/setuid", 0o700)},
			{"rename", os.Rename(merged+"/big", merged+"/tmp/nothing/big")},
			{"remove", os.Remove(merged + "/empty")},
			{"remove a link", os.Remove(merged + "/link")},
			{"remove a directory", os.RemoveAll(merged + "/many")},
		} {
			if step.err != nil {
				t.Errorf("%q: %s: %v", extra, step.does, step.err)
			}
		}
		for path, want := range map[string]string{
			"/new": "new\n", "/etc/hostname": "imgfs\nmore\n", "/tmp/nothing/big": noise(bigSize), "/acl": "for nobody\n",
		} {
			if got, err := os.ReadFile(merged + path); err != nil || string(got) != want {
				t.Errorf("%q: %s has %d bytes that differ, %v", extra, path, len(got), err)
			}
		}
		if _, err := os.Lstat(merged + "/many"); !os.IsNotExist(err) {
			t.Errorf("%q: what was removed: %v", extra, err)
		}
		if err := compare(s.Dir(), tree); err != nil {
			t.Errorf("%q: the lower has changed: %v", extra, err)
		}
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Close()
}
