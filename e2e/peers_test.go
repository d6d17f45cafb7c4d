package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/e2e/internal/treediff"
	. "imgfs/internal/testimage"
)

const access, byDefault = "system.posix_acl_access", "system.posix_acl_default"

// ACLs, as attributes.
var (
	fullACL    = acl(6, 7, 4)
	minimalACL = aclOf([3]byte{tagOwner, 7}, [3]byte{tagGroup, 5}, [3]byte{tagOther, 5})
	brokenACL  = aclOf([3]byte{tagMask, 7})
)

const tagOwner, tagUser, tagGroup, tagMask, tagOther = 0x01, 0x02, 0x04, 0x10, 0x20

// acl is the ACL of an owner, user 1000 (rwx), a group (r--), a mask and others.
func acl(owner, mask, other byte) string {
	return aclOf([3]byte{tagOwner, owner}, [3]byte{tagUser, 7, 1}, [3]byte{tagGroup, 4}, [3]byte{tagMask, mask}, [3]byte{tagOther, other})
}

// aclOf is an ACL of entries: a tag, permissions, and 1 for user 1000.
func aclOf(entries ...[3]byte) string {
	ids := []string{"\xff\xff\xff\xff", "\xe8\x03\x00\x00"}
	s := "\x02\x00\x00\x00"
	for _, e := range entries {
		s += string([]byte{e[0], 0, e[1], 0}) + ids[e[2]]
	}
	return s
}

// attribute is how treediff writes one.
func attribute(name, value string) string { return fmt.Sprintf("%s=%q", name, value) }

// A peerCase is layers, and how the peers' trees differ from ours: as treediff has it, ours first. Cases that docs/semantics.md
// has in its table have the name that is there.
type peerCase struct {
	name       string
	layers     [][]byte
	imgfs      verdict
	containerd []string
	umoci      []string
}

// A verdict is what imgfs makes of layers.
type verdict bool

const rejects verdict = true

// What there is to tell of a peer where there are not two trees to compare.
var (
	rejected = []string{"rejects the layers"}
	accepted = []string{"unpacks the layers"}
)

func layersOf(l ...[]byte) [][]byte { return l }

// peerCases are docs/semantics.md's table of where the programs differ, and some where
// they do not.
var peerCases = []peerCase{
	{name: "markers, opaque markers, and directories that are made again", layers: layersOf(
		Tar(Dir("./"), Dir("d"), Dir("d/e"), File("d/e/old", "1"), File("d/x", "1"), Dir("o"), File("o/old", "1"),
			Dir("etc"), Dir("usr"), Dir("usr/etc"), File("usr/etc/b", "")),
		Tar(Dir("./"), Whiteout("d"), Dir("d"), Dir("d/e"), File("d/e/new", "2"), Dir("o"), Opaque("o"), File("o/new", "2"), Whiteout("etc")),
	)},
	{name: "another type at the same place", layers: layersOf(
		Tar(Dir("./"), Dir("d"), File("d/x", "1"), File("f", "1"), Dir("l"), File("l/x", "1"), File("c", "1"), Symlink("t", "f")),
		Tar(Dir("./"), File("d", "2"), Dir("f"), File("f/x", "2"), Symlink("l", "f"), File("l/y", "2"), Char("c", 0, 0), Dir("t")),
	)},
	{name: "a parent that is a symbolic link", layers: layersOf(
		Tar(Dir("./"), Dir("usr"), Dir("usr/lib"), Symlink("lib", "/usr/lib"), File("lib/x", "1"), Symlink("out", "../../.."), File("out/root", "1")),
		Tar(Dir("./"), Dir("usr/lib"), Whiteout("lib/x"), File("lib/y", "2"), Link("z", "lib/y")),
	)},
	{name: "the same path twice", layers: layersOf(
		Tar(Dir("./"), Dir("d", Mode(0o700)), File("d/x", ""), Dir("d", Mode(0o711)), Dir("e"), File("e/x", ""), File("e", "a file"), File("k/", "2")),
	)},
	{name: "a hard link to a lower layer's file", layers: layersOf(
		Tar(Dir("./"), File("f", "1", Mode(0o4755))), Tar(Dir("./"), Link("h", "f", Mode(0o4755)), Whiteout("f")),
	)},
	{name: "marker after an entry of its layer", layers: layersOf(
		Tar(Dir("./"), File("f", "1"), Dir("d", Mode(0o700)), File("d/old", "")), Tar(Dir("./"), File("f", "2"), File("d/new", ""), Whiteout("f"), Whiteout("d")),
	),
		containerd: []string{".: nlink: 3, and 2", "d: path: directory, and absent", "d/new: path: file, and absent", "f: path: file, and absent"},
		umoci:      []string{"d: mode: 0755, and 0700", "d: mtime: 1970-01-01T00:00:00Z, and now"},
	},
	{name: "marker in a directory that is missing", layers: layersOf(Tar(Dir("./"), Whiteout("no/x"))),
		umoci: []string{".: nlink: 3, and 2", "no: path: directory, and absent"},
	},
	{name: "root entry", layers: layersOf(Tar(Dir("./", Mode(0o711), Owner(1, 2), Xattr("user.a", "1")))),
		containerd: []string{".: mode: 0711, and 0755", ".: uid: 1, and 0", ".: gid: 2, and 0", `.: xattrs: user.a="1", and `},
	},
	{name: "root entry that isn't a directory", layers: layersOf(Tar(Dir("./"), Symlink("./", "x"))),
		umoci: rejected,
	},
	{name: "directory over directory, attributes", layers: layersOf(
		Tar(Dir("./"), Dir("d", Xattr("user.a", "1"))), Tar(Dir("./"), Dir("d", Xattr("user.b", "1"))),
	),
		containerd: []string{`d: xattrs: user.b="1", and user.a="1" user.b="1"`},
	},
	{name: "hard link's owner, mode, times, attributes", layers: layersOf(
		Tar(Dir("./"), File("f", "1", Xattr("security.capability", netRaw)),
			Link("h", "f", Owner(3, 4), Mode(0o600), Mtime(time.Unix(1_234_567_890, 0)), Xattr("user.a", "1"))),
	),
		umoci: []string{
			"f: mode: 0600, and 0644", "f: uid: 3, and 0", "f: gid: 4, and 0", "f: mtime: 2009-02-13T23:31:30Z, and 2001-09-09T01:46:40Z",
			`f: xattrs: user.a="1", and ` + attribute("security.capability", netRaw),
			"h: mode: 0600, and 0644", "h: uid: 3, and 0", "h: gid: 4, and 0", "h: mtime: 2009-02-13T23:31:30Z, and 2001-09-09T01:46:40Z",
			`h: xattrs: user.a="1", and ` + attribute("security.capability", netRaw),
		},
	},
	{name: "`..` in a hard link's target", layers: layersOf(
		Tar(Dir("./"), Dir("p"), Dir("p/q"), File("p/x", "1"), File("x", "1"), Symlink("l", "p/q"), Link("h", "l/../x", Mode(0o644))),
	),
		umoci: []string{"p/x: nlink: 2, and 1", "p/x: hard link of: h, and p/x", "x: nlink: 1, and 2", "x: hard link of: x, and h"},
	},
	{name: "a file where a directory should be", layers: layersOf(Tar(Dir("./"), File("f", ""), File("f/x", ""))), imgfs: rejects,
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "a marker below a file", layers: layersOf(Tar(Dir("./"), File("f", "")), Tar(Dir("./"), Whiteout("f/x"))),
		containerd: rejected,
	},
	{name: "`trusted.*`", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr("trusted.a", "1")))),
		umoci: []string{`f: xattrs: , and trusted.a="1"`},
	},
	{name: "`security.selinux`", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr("security.selinux", "a:b:c:s0")))),
		umoci: []string{`f: xattrs: security.selinux="a:b:c:s0", and `},
	},
	{name: "`LIBARCHIVE.xattr.*`", layers: layersOf(Tar(Dir("./"), File("f", "", LibarchiveXattr("user.a", "1")))),
		containerd: []string{`f: xattrs: user.a="1", and `},
		umoci:      []string{`f: xattrs: user.a="1", and `},
	},
	{name: "attributes without a value", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr("user.a", "")))),
		umoci: []string{`f: xattrs: user.a="", and `},
	},
	{name: "`user.*` of what is neither file nor directory", layers: layersOf(Tar(Dir("./"), Fifo("f", Xattr("user.a", "1")))),
		umoci: rejected,
	},
	{name: "`security.capability` that Linux does not take", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr("security.capability", "xyz")))), imgfs: rejects,
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "access ACL that is not as the mode", layers: layersOf(Tar(Dir("./"), File("f", "", Mode(0o640), Xattr(access, fullACL)))),
		umoci: []string{"f: mode: 0640, and 0674", "f: xattrs: " + attribute(access, acl(6, 4, 0)) + ", and " + attribute(access, acl(6, 7, 4))},
	},
	{name: "access ACL that is not as the mode", layers: layersOf(Tar(Dir("./"), File("f", "", Mode(0o640), Xattr(access, minimalACL)))),
		umoci: []string{"f: mode: 0640, and 0755"},
	},
	{name: "access ACL that is not as the mode", layers: layersOf(Tar(Dir("./"), File("f", "", Mode(0o640), Xattr(access, fullACL)), Link("h", "f", Mode(0o600)))),
		umoci: []string{
			"f: mode: 0600, and 0674", "f: xattrs: " + attribute(access, acl(6, 0, 0)) + ", and " + attribute(access, acl(6, 7, 4)),
			"h: mode: 0600, and 0674", "h: xattrs: " + attribute(access, acl(6, 0, 0)) + ", and " + attribute(access, acl(6, 7, 4)),
		},
	},
	{name: "ACL of an unknown version, or of a symbolic link", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr(access, "garbage"))))},
	{name: "ACL of an unknown version, or of a symbolic link", layers: layersOf(Tar(Dir("./"), Symlink("f", "x", Xattr(access, fullACL))))},
	{name: "ACL that is malformed else, or a default one of what is no directory", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr(access, brokenACL)))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "ACL that is malformed else, or a default one of what is no directory", layers: layersOf(Tar(Dir("./"), File("f", "", Xattr(byDefault, fullACL)))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "default ACL of a directory, for what an entry makes in it", layers: layersOf(
		Tar(Dir("./"), Dir("d", Xattr(byDefault, fullACL)), File("d/f", "", Mode(0o640)), Dir("d/e", Mode(0o750))),
	),
		containerd: []string{"d/e: xattrs: , and " + attribute(access, acl(7, 5, 0)) + " " + attribute(byDefault, fullACL), "d/f: xattrs: , and " + attribute(access, acl(6, 4, 0))},
	},
	{name: "types `7` and `S`, unknown types", layers: layersOf(Tar(Dir("./"), File("f", "1", Type('7')))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "types `7` and `S`, unknown types", layers: layersOf(Tar(Dir("./"), SparseGNU("f", 1000, []Segment{{Offset: 5, Data: "abc"}}))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "types `7` and `S`, unknown types", layers: layersOf(Tar(Dir("./"), File("f", "1", Type('Z')))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "global PAX header", layers: layersOf(Tar(Dir("./"), GlobalPAX("uid", "77"), File("f", "1"))),
		umoci: rejected,
	},
	{name: "`.wh.`, `.wh..`, `.wh...`", layers: layersOf(Tar(Dir("./"), File(".wh.", ""))),
		containerd: rejected,
		umoci:      rejected,
	},
	{name: "marker that is a directory", layers: layersOf(Tar(Dir("./"), File("f", "")), Tar(Dir("./"), Dir(".wh.f"))),
		containerd: []string{"f: path: file, and absent"},
		umoci:      []string{"f: path: file, and absent"},
	},
	{name: "below a marker", layers: layersOf(Tar(Dir("./"), File(".wh.d/f", ""))),
		containerd: []string{".: nlink: 2, and 3", ".wh.d: path: absent, and directory", ".wh.d/f: path: absent, and file"},
		umoci:      []string{".: mtime: 2001-09-09T01:46:40Z, and now", ".: nlink: 2, and 3", ".wh.d: path: absent, and directory", ".wh.d/f: path: absent, and file"},
	},
	{name: "AUFS's directories", layers: layersOf(Tar(Dir("./"), Dir(".wh..wh.plnk"), File(".wh..wh.plnk/f", ""))),
		containerd: []string{".: nlink: 2, and 3", ".wh..wh.plnk: path: absent, and directory", ".wh..wh.plnk/f: path: absent, and file"},
		umoci:      []string{".: mtime: 2001-09-09T01:46:40Z, and now", ".: nlink: 2, and 3", ".wh..wh.plnk: path: absent, and directory", ".wh..wh.plnk/f: path: absent, and file"},
	},
	{name: "symbolic links on one way", layers: layersOf(Tar(slices.Concat([]Entry{Dir("./"), Dir("0")}, chain(41), []Entry{File("41/f", "")})...)), imgfs: rejects,
		containerd: accepted,
		umoci:      accepted,
	},
	{name: "times before 1970", layers: layersOf(Tar(Dir("./"), File("f", "", Mtime(time.Unix(-5, 0))))),
		containerd: []string{"f: mtime: 1969-12-31T23:59:55Z, and 1970-01-01T00:00:00Z"},
	},
	{name: "time of directories that had to be made, and of what they are made in", layers: layersOf(Tar(Dir("./"), File("m/n/f", ""))),
		umoci: []string{".: mtime: 2001-09-09T01:46:40Z, and now", "m: mtime: 1970-01-01T00:00:00Z, and now", "m/n: mtime: 1970-01-01T00:00:00Z, and now"},
	},
	{name: "owner and mode of directories that had to be made in a set-gid one", layers: layersOf(Tar(Dir("./"), Dir("d", Mode(0o2775), Owner(0, 50)), File("d/m/f", ""))),
		containerd: []string{"d/m: gid: 0, and 50"},
		umoci:      []string{"d: mtime: 2001-09-09T01:46:40Z, and now", "d/m: mode: 0755, and 2755", "d/m: gid: 0, and 50", "d/m: mtime: 1970-01-01T00:00:00Z, and now"},
	},
	{name: "time of a directory whose children a layer changes without an entry for it", layers: layersOf(
		Tar(Dir("./"), Dir("d"), File("d/f", "")), Tar(Dir("./"), File("d/g", "")),
	)},
}

// TestEveryRowOfTheManualIsTested looks for a case for each row of the manual's table.
func TestEveryRowOfTheManualIsTested(t *testing.T) {
	manual, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(manual), "| what | containerd | umoci | imgfs |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !found {
		t.Fatal("there is no such table")
	}
	for row := range strings.SplitSeq(table, "\n") {
		what := strings.TrimSpace(strings.Split(row, "|")[1])
		if !slices.ContainsFunc(peerCases, func(c peerCase) bool { return c.name == what }) {
			t.Errorf("no case has the name of the row %q", what)
		}
	}
}

// netRaw is what setcap cap_net_raw+ep stores.
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// chain is n symbolic links, each to the one before, the first to "0".
func chain(n int) (links []Entry) {
	for i := range n {
		links = append(links, Symlink(fmt.Sprint(i+1), fmt.Sprint(i)))
	}
	return links
}

// TestThePeersDifferAsTheManualSays unpacks hand-made layers with the peers. Of containerd's trees the times of
// directories are not compared.
func TestThePeersDifferAsTheManualSays(t *testing.T) {
	for _, c := range peerCases {
		t.Run(c.name, func(t *testing.T) {
			var im Image
			for _, l := range c.layers {
				im.Layers = append(im.Layers, NewLayer(Gzip(l), l))
			}
			layout := images.Image{Name: "peers", Layout: t.TempDir(), Tag: "v1"}
			writeLayout(t, layout.Layout, im.Bundle())
			ours, err := mounted(t, layout)
			if got := verdict(err != nil); got != c.imgfs || bool(got) && !strings.Contains(err.Error(), "entry") {
				t.Errorf("rejected: %v, want %v (%v)", got, c.imgfs, err)
			}
			theirs, err := nativeOf(t, layout)
			same(t, "containerd", c.containerd, differences(ours, theirs, err, treediff.Blind{DirTimes: true, SpecialLinks: true}))
			theirs, err = umociOf(t, layout)
			same(t, "umoci", c.umoci, differences(ours, theirs, err, treediff.Blind{}))
		})
	}
}

func same(t *testing.T, program string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", program, diff)
	}
}

// mounted is the tree that imgfs mounts. An error means that it refused to.
func mounted(t *testing.T, im images.Image) (treediff.Tree, error) {
	t.Helper()
	h := newHost(t)
	dir := h.mkdir(t)
	if r := h.run(t, "mount", "--suid", "--dev", inLayout(im), dir); r.code != 0 {
		return nil, errors.New(r.stderr)
	}
	defer h.umount(t, dir)
	return scan(t, dir), nil
}

func nativeOf(t *testing.T, im images.Image) (treediff.Tree, error) {
	t.Helper()
	dir := t.TempDir()
	unmount, err := get(t, theContainerd).Mount(timeLimit(t), im.Layout, im.Tag, peer.Native, dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := unmount(); err != nil {
			t.Fatal(err)
		}
	}()
	return scan(t, dir), nil
}

func umociOf(t *testing.T, im images.Image) (treediff.Tree, error) {
	t.Helper()
	rootfs, err := peer.UmociUnpack(timeLimit(t), im.Layout, im.Tag, filepath.Join(t.TempDir(), "bundle"))
	if err != nil {
		return nil, err
	}
	return scan(t, rootfs), nil
}

// unpackTime is a time that no layer here has: that of the unpacking.
var unpackTime = regexp.MustCompile(`20[2-9][0-9]-[^ ]*Z`)

// differences are those of two trees, if there are two.
func differences(ours, theirs treediff.Tree, err error, blind treediff.Blind) (all []string) {
	switch {
	case err != nil:
		return rejected
	case ours == nil:
		return accepted
	}
	for _, d := range treediff.Diff(ours, theirs, blind) {
		all = append(all, unpackTime.ReplaceAllString(d.String(), "now"))
	}
	return all
}
