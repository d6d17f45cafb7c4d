package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// A driver mounts an upper over an image, or over what the image was made of.
type driver struct {
	name   string
	metric string // its name in results of benchmarks
	mount  func(t testing.TB, h *host, u peer.Upper, ref, mnt string) (unmount func())
}

// drivers are all who write uppers in this format as root.
var drivers = []driver{
	{"imgfs fuse", "imgfs", imgfsDriver("fuse")},
	{"imgfs kernel", "imgfs-kernel", imgfsDriver("kernel")},
	{"overlayfs", "overlayfs", func(t testing.TB, _ *host, u peer.Upper, _, mnt string) func() {
		return unmounting(t)(peer.MountUpper(u, mnt))
	}},
	{"fuse-overlayfs", "fuse-overlayfs", func(t testing.TB, _ *host, u peer.Upper, _, mnt string) func() {
		return unmounting(t)(peer.MountFuseUpper(timeLimit(t), u, mnt))
	}},
}

func imgfsDriver(name string) func(testing.TB, *host, peer.Upper, string, string) func() {
	return func(t testing.TB, h *host, u peer.Upper, ref, mnt string) func() {
		h.ok(t, "mount", "--upper", u.Upper, "--work", u.Work, "--upper-driver", name, ref, mnt)
		return func() { h.umount(t, mnt) }
	}
}

// unmounting fails the test where a mount or its unmounting does.
func unmounting(t testing.TB) func(func() error, error) func() {
	return func(unmount func() error, err error) func() {
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := unmount(); err != nil {
				t.Error(err)
			}
		}
	}
}

// writes is what is done in a mount: to what the image has, to what it has not, and to what was done.
const writes = `
echo more >>a/k; echo new >new; mkdir -p made/deep/er; echo x >made/deep/er/x; ln new made/link; ln -s new made/symlink; mkfifo made/fifo
mknod made/device c 511 3; rm d/k; rm -r h; rm -r g; mkdir g; echo again >g/again; rm d/l; mkdir d/l; echo x >d/l/x; rm -r d/e/f; echo file >d/e/f
mv a/b/k a/moved; mv a/b/c/n a/b/c/o; chmod 4711 a/b/m; chown 5:6 a/b/l; chown -h 7:8 a/b/n; setfattr -n user.b -v value a/k; setfattr -x user.a a/b/c/k
setfattr -n trusted.x -v value a/b; setfattr -n user.d -v value d; touch -d @1234567890.5 a/m; truncate -s 1000000 a/b/c/l
setfacl -m u:1000:rx a/b/c 2>/dev/null || true; mkdir made/again; rmdir made/again; touch made/again; rm made/again; chmod 2755 a/b/c; rm a/p; mkfifo -m 600 a/p
`

func TestAnUpperIsTheSameTreeToAllThatWriteSuch(t *testing.T) {
	h := newHost(t)
	base := h.mkdir(t)
	ref := h.fsxWorld(t, base, true)
	lower := filepath.Join(base, "model")
	for _, writer := range drivers {
		t.Run(writer.name, func(t *testing.T) {
			u := peer.Upper{Layers: []string{lower}, Upper: h.mkdir(t), Work: h.mkdir(t)}
			if err := os.Chmod(u.Upper, 0o755); err != nil {
				t.Fatal(err)
			}
			mnt := h.mkdir(t)
			unmount := writer.mount(t, h, u, ref, mnt)
			cmd := exec.Command("sh", "-ec", writes) // which knows where the links lead
			cmd.Dir = mnt
			_, err := peer.RunCmd(cmd)
			unmount()
			if err != nil {
				t.Fatal(err)
			}
			removeMarkers(t, u.Upper)
			var first treediff.Tree
			for _, reader := range drivers {
				unmount := reader.mount(t, h, u, ref, mnt)
				tree, err := treediff.Scan(mnt)
				unmount()
				if err != nil {
					t.Fatalf("%s: %v", reader.name, err)
				}
				if first == nil {
					first = tree
					continue
				}
				if diffs := treediff.Diff(first, tree, treediff.Blind{DirNlink: true, DirTimes: true}); len(diffs) > 0 {
					t.Errorf("%s and %s: %s", drivers[0].name, reader.name, treediff.Report(diffs))
				}
			}
		})
	}
}

// removeMarkers removes what fuse-overlayfs writes for itself: files in opaque directories, besides the attribute, and where
// copies come from.
func removeMarkers(t *testing.T, upper string) {
	t.Helper()
	const script = `find "$0" -name ".wh..*" -delete
		find "$0" -type f | while read -r f; do setfattr -x user.fuseoverlayfs.origin "$f" 2>/dev/null || true; done`
	if _, err := peer.RunCmd(exec.Command("sh", "-ec", script, upper)); err != nil {
		t.Fatal(err)
	}
}
