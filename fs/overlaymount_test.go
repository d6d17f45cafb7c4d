package fs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imgfs/layers/upper"
)

// mountSample mounts an overlay over the sample at base/mnt, which is made, with the upper base/up.
func mountSample(base string, volatile bool) (*Server, *upper.Dir, error) {
	for _, name := range []string{"mnt", "private"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil && !os.IsExist(err) {
			return nil, nil, err
		}
	}
	tree, err := sampleTree()
	if err != nil {
		return nil, nil, err
	}
	u, err := upper.Open(base+"/up", &upper.Options{Image: digest.FromString("sample"), Mountpoint: base + "/mnt"})
	if err != nil {
		return nil, nil, err
	}
	o := &Overlay{Upper: u, Volatile: volatile, Private: base + "/private"}
	s, err := MountOverlay(base+"/mnt", tree, o, &Options{Name: "sample"})
	if err != nil {
		u.Close()
	}
	return s, u, err
}

// overlayRole serves an overlay below args[0] until its input ends or it is unmounted.
func overlayRole(args []string) error {
	s, _, err := mountSample(args[0], false)
	if err != nil {
		return err
	}
	if err := writeThrough(s.Dir()); err != nil {
		return errors.Join(err, s.Detach())
	}
	fmt.Println("ok")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Detach()
	}()
	s.Wait()
	return nil
}

// writeThrough changes the sample, and looks at what comes of it.
func writeThrough(dir string) error {
	var before, after unix.Stat_t
	err := errors.Join(unix.Lstat(dir+"/acl", &before), appendTo(dir+"/acl", "more\n"), unix.Lstat(dir+"/acl", &after),
		os.Remove(dir+"/empty"), os.WriteFile(dir+"/new", []byte("new\n"), 0o600))
	if err != nil {
		return err
	}
	if before.Ino != after.Ino || before.Dev != after.Dev {
		return fmt.Errorf("inode %d:%d before the copy-up, %d:%d after it", before.Dev, before.Ino, after.Dev, after.Ino)
	}
	if got, err := os.ReadFile(dir + "/acl"); string(got) != "for nobody\nmore\n" {
		return fmt.Errorf("read %q, %w", got, err)
	}
	return nil
}

func TestAnOverlayIsAMountOfOurs(t *testing.T) {
	base := publicDir(t)
	s, u, err := mountSample(base, true)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := writeThrough(s.Dir()); err != nil {
		t.Error(err)
	}
	m := entry(t, s.Dir())
	for _, o := range []string{"rw", "nosuid", "nodev"} {
		if !strings.Contains(","+m.Options+",", ","+o+",") {
			t.Errorf("options %s are without %s", m.Options, o)
		}
	}
	if names, err := os.ReadDir(base + "/private"); len(names) > 0 || err != nil {
		t.Errorf("the lower is left at %v, %v", names, err)
	}
	i, ok, err := MountAt(s.Dir())
	if !ok || err != nil || i.Name != "sample" || i.Dir != s.Dir() || i.Dead() {
		t.Errorf("found %+v, %v, %v", i, ok, err)
	}
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	s.Wait()
	for name, want := range map[string]uint32{"acl": unix.S_IFREG, "empty": unix.S_IFCHR, "new": unix.S_IFREG} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(base, "up", name), &st); err != nil || st.Mode&unix.S_IFMT != want {
			t.Errorf("%s in the upper has mode %o, %v", name, st.Mode, err)
		}
	}
}

func TestAnOverlayInUseIsUnmountedWhenItIsFree(t *testing.T) {
	s, u, err := mountSample(publicDir(t), false)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	f, err := os.Open(s.Dir() + "/big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, err := range []error{s.Unmount(), Unmount(s.Dir(), false)} {
		if !errors.Is(err, syscall.EBUSY) {
			t.Errorf("in use: %v", err)
		}
	}
	if err := s.Detach(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(f); len(b) != bigSize || err != nil {
		t.Errorf("detached: read %d bytes, %v", len(b), err)
	}
	f.Close()
	s.Wait()
}

func TestADeadOverlayIsSeenAndCleared(t *testing.T) {
	base := publicDir(t)
	p := start(t, 0, "overlay", base).ready(t)
	dir := base + "/mnt"
	if i, ok, err := MountAt(dir); !ok || i.Dead() || err != nil {
		t.Errorf("alive: %+v, %v, %v", i, ok, err)
	}
	kill(t, p)
	if i, ok, err := MountAt(dir); !ok || !i.Dead() || err != nil {
		t.Errorf("dead: %+v, %v, %v", i, ok, err)
	}
	if _, err := Check(dir, nil); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "imgfs umount") {
		t.Errorf("check: %v", err)
	}
	var busy *upper.Error
	if _, _, err := mountSample(base, false); !errors.As(err, &busy) || !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second mount of the upper: %v", err)
	}
	if err := Unmount(dir, false); err != nil {
		t.Error(err)
	}
	s, u, err := mountSample(base, false)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := os.ReadFile(dir + "/new"); err != nil {
		t.Error(err)
	}
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	s.Wait()
}

func TestAnotherOverlayIsNoneOfOurs(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	merged := overlaid(t, s.Dir(), "")
	if i, ok, err := MountAt(merged); ok || err != nil {
		t.Errorf("found %+v, %v", i, err)
	}
	if err := Unmount(merged, true); !errors.Is(err, errNotMounted) {
		t.Errorf("unmount: %v", err)
	}
}

func TestRootOfAUserNamespaceMountsAnOverlay(t *testing.T) {
	base := publicDir(t)
	if err := os.Chown(base, mappedTo, mappedTo); err != nil {
		t.Fatal(err)
	}
	p := prepare(t, 0, "overlay", base)
	p.SysProcAttr = namespaces(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS)
	p.begin(t)
	p.ready(t)
	p.in.Close()
	p.ready(t) // and unmounted
}

func TestPathsAreEscapedForOverlayfs(t *testing.T) {
	base := filepath.Join(publicDir(t), `a,b:c\d e`)
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	s, u, err := mountSample(base, false)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if err := errors.Join(writeThrough(s.Dir()), s.Unmount()); err != nil {
		t.Error(err)
	}
	s.Wait()
}

func TestWhatOverlayfsCannotWriteToIsRefused(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	base := overlaid(t, s.Dir(), "") // no upper for another overlay
	if _, _, err := mountSample(base, false); !errors.Is(err, ErrNoOverlay) || !errors.Is(err, ErrMount) {
		t.Errorf("mounted: %v", err)
	}
	if m, err := topmost(base + "/mnt"); m != nil || err != nil {
		t.Errorf("left mounted: %v, %v", m, err)
	}
}
