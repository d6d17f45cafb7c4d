package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
)

// An oracle is a peer that unpacks an image, and what it cannot tell.
type oracle struct {
	name  string
	blind treediff.Blind
	scan  func(t *testing.T, im images.Image) treediff.Tree
}

// The oracles are unpacks by three programs, none of which is right in
// everything: what one is blind for another one sees.
//
//   - umoci restores the times of directories after it changes what is in them,
//     so a directory has the time that the last layer to name it gave.
//   - containerd ignores what a layer says of the root, and leaves a directory
//     that a layer changes without naming it with the time of the unpack.
//   - containerd's native snapshotter copies the tree for each layer; hard links
//     of links and FIFOs become copies, and directories have the copy's time.
//   - containerd's overlayfs keeps layers apart: a hard link to a file of a lower
//     layer becomes a copy, and merged directories have a link count of 1.
//   - Neither knows GNU tar's old sparse files. GNU tar does, but no whiteouts.
//   - umoci knows gzip alone, and unpacks what skopeo makes of other layers.
var (
	umociOracle   = oracle{"umoci", treediff.Blind{}, scanUmoci}
	skopeoOracle  = oracle{"skopeo-umoci", treediff.Blind{}, scanSkopeo}
	nativeOracle  = oracle{"containerd-native", treediff.Blind{DirTimes: true, SpecialLinks: true}, scanContainerd(peer.Native)}
	overlayOracle = oracle{
		"containerd-overlayfs", treediff.Blind{DirTimes: true, DirNlink: true, HardLinks: true}, scanContainerd(peer.Overlay),
	}
	tarOracle = oracle{"tar", treediff.Blind{}, scanTar}
)

// oraclesOf returns the oracles of an image, the best one first. An unpack by
// containerd takes its time, so not every image has each.
func oraclesOf(im images.Image) []oracle {
	switch im.Name {
	case "umoci-disputed":
		return []oracle{nativeOracle}
	case "umoci-gnutar":
		return []oracle{tarOracle}
	case "umoci-paxtar":
		return []oracle{tarOracle, umociOracle, nativeOracle, overlayOracle}
	case "umoci-replaced":
		return []oracle{umociOracle}
	case "shapes-paxtar":
		return []oracle{tarOracle, nativeOracle}
	case "zstd-python", "chunked-python":
		return []oracle{skopeoOracle, overlayOracle}
	case "umoci-full":
		return []oracle{umociOracle, nativeOracle}
	}
	return []oracle{umociOracle, overlayOracle}
}

// unpacked keeps the trees that oracles made, by oracle and image: an unpack
// takes seconds, and several tests ask for the same one.
var unpacked struct {
	mu    sync.Mutex // protects the following
	trees map[[2]string]treediff.Tree
}

// tree returns the image as the oracle unpacks it.
func (o oracle) tree(t *testing.T, im images.Image) treediff.Tree {
	t.Helper()
	unpacked.mu.Lock()
	defer unpacked.mu.Unlock()
	key := [2]string{o.name, im.Name}
	if tree, ok := unpacked.trees[key]; ok {
		return tree
	}
	tree := o.scan(t, im)
	if unpacked.trees == nil {
		unpacked.trees = make(map[[2]string]treediff.Tree)
	}
	unpacked.trees[key] = tree
	return tree
}

func scanUmoci(t *testing.T, im images.Image) treediff.Tree {
	t.Helper()
	bundle := filepath.Join(lab.dir, "unpacked-"+im.Name)
	defer os.RemoveAll(bundle)
	rootfs, err := peer.UmociUnpack(timeLimit(t), im.Layout, im.Tag, bundle)
	if err != nil {
		t.Fatal(err)
	}
	return scan(t, rootfs)
}

func scanSkopeo(t *testing.T, im images.Image) treediff.Tree {
	t.Helper()
	gzip := images.Image{Name: im.Name, Layout: filepath.Join(t.TempDir(), "gzip"), Tag: im.Tag}
	if err := peer.Copy(timeLimit(t), inLayout(im), inLayout(gzip), "--dest-compress", "--dest-compress-format", "gzip"); err != nil {
		t.Fatal(err)
	}
	return scanUmoci(t, gzip)
}

func scanTar(t *testing.T, im images.Image) treediff.Tree {
	t.Helper()
	dir := filepath.Join(lab.dir, "untarred-"+im.Name)
	defer os.RemoveAll(dir)
	if err := peer.TarUnpack(timeLimit(t), im.Layout, im.Tag, dir); err != nil {
		t.Fatal(err)
	}
	return scan(t, dir)
}

func scanContainerd(s peer.Snapshotter) func(*testing.T, images.Image) treediff.Tree {
	return func(t *testing.T, im images.Image) treediff.Tree {
		t.Helper()
		dir := t.TempDir()
		unmount, err := get(t, theContainerd).Mount(timeLimit(t), im.Layout, im.Tag, s, dir)
		if err != nil {
			t.Fatal(err)
		}
		tree := scan(t, dir)
		if err := unmount(); err != nil {
			t.Fatal(err)
		}
		return tree
	}
}

func scan(t *testing.T, root string) treediff.Tree {
	t.Helper()
	tree, err := treediff.Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestTheOraclesAgree proves the comparison before imgfs is held against it:
// programs that share no code for it unpack the images to equal trees.
func TestTheOraclesAgree(t *testing.T) {
	for _, im := range get(t, theImages).All() {
		oracles := oraclesOf(im)
		want := oracles[0].tree(t, im)
		for _, o := range oracles[1:] {
			t.Run(im.Name+"/"+o.name, func(t *testing.T) {
				if diffs := treediff.Diff(o.tree(t, im), want, o.blind); len(diffs) > 0 {
					t.Errorf("%s differs from %s: %s", o.name, oracles[0].name, treediff.Report(diffs))
				}
			})
		}
	}
}

// TestTheImagesHaveOneOfEverything fails when a recipe no longer makes what
// the comparison is meant to see.
func TestTheImagesHaveOneOfEverything(t *testing.T) {
	for _, im := range get(t, theImages).Full() {
		tree := umociOracle.tree(t, im)
		t.Logf("%s: %d paths", im.Name, len(tree))
		if len(tree) < 15_000 {
			t.Errorf("%s has %d paths, want 15,000 or more", im.Name, len(tree))
		}
		found := make(map[string]bool)
		for _, e := range tree {
			note(found, &e)
		}
		for _, want := range []string{
			"directory", "file", "link", "fifo", "char", "block", "setuid", "setgid", "sticky", "mode 0", "hard link", "hard-linked link",
			"capability", "user xattr", "wide rdev", "owner", "name of 255", "name not ASCII", "empty file", "large file",
		} {
			if !found[want] {
				t.Errorf("%s has no %s", im.Name, want)
			}
		}
	}
}

// note records what an entry is an example of.
func note(found map[string]bool, e *treediff.Entry) {
	kinds := map[uint32]string{
		unix.S_IFDIR: "directory", unix.S_IFREG: "file", unix.S_IFLNK: "link",
		unix.S_IFIFO: "fifo", unix.S_IFCHR: "char", unix.S_IFBLK: "block",
	}
	found[kinds[e.Type]] = true
	mark := func(name string, is bool) { found[name] = found[name] || is }
	file, hard, base := e.Type == unix.S_IFREG, e.Type != unix.S_IFDIR && e.Nlink > 1, filepath.Base(e.Path)
	mark("setuid", file && e.Mode&unix.S_ISUID != 0)
	mark("setgid", file && e.Mode&unix.S_ISGID != 0)
	mark("sticky", e.Mode&unix.S_ISVTX != 0)
	mark("mode 0", file && e.Mode == 0)
	mark("hard link", file && hard)
	mark("hard-linked link", e.Type == unix.S_IFLNK && hard)
	mark("capability", e.Xattrs["security.capability"] != "")
	mark("user xattr", e.Xattrs["user.text"] != "")
	mark("wide rdev", unix.Minor(e.Rdev) > 255)
	mark("owner", e.UID > 1<<16)
	mark("name of 255", len(base) == 255)
	mark("name not ASCII", strings.ContainsFunc(base, func(r rune) bool { return r > unicode.MaxASCII }))
	mark("empty file", file && e.Size == 0)
	mark("large file", file && e.Size > 32<<20)
}
