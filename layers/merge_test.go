package layers_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgfs/index"
	. "imgfs/internal/testimage"
)

// A mergeTest says what layers give. Besides, merge compares each with the model.
type mergeTest struct {
	name string
	in   [][]byte
	want []check
}

func run(t *testing.T, tests []mergeTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := merge(t, indexed(t, test.in))
			for _, c := range test.want {
				c(t, r)
			}
		})
	}
}

func TestWhiteouts(t *testing.T) {
	run(t, []mergeTest{
		{
			name: "a whiteout hides a file of a lower layer, and is not seen itself",
			in:   stack(layer(File("etc/x", "old"), File("etc/y", "")), layer(Whiteout("etc/x"))),
			want: checks(holds("etc", "y"), warnsNot),
		},
		{
			name: "a whiteout hides a whole directory",
			in:   stack(layer(File("d/a/b", ""), File("e", "")), layer(Whiteout("d"))),
			want: checks(holds("/", "e")),
		},
		{
			name: "a whiteout of what is not there does nothing",
			in:   stack(layer(File("a", "")), layer(Whiteout("b"), Whiteout("a/b/../../c"))),
			want: checks(holds("/", "a"), warns("a/b/../../.wh.c", "..")),
		},
		{
			name: "a whiteout before a file of its layer hides only the lower one",
			in:   stack(layer(File("x", "old")), layer(Whiteout("x"), File("x", "new"))),
			want: checks(hasFile("x", "new")),
		},
		{
			name: "a whiteout after a file of its layer hides only the lower one",
			in:   stack(layer(File("x", "old")), layer(File("x", "new"), Whiteout("x"))),
			want: checks(hasFile("x", "new")),
		},
		{
			name: "a whiteout before a directory of its layer: it starts empty",
			in:   stack(layer(File("d/old", "")), layer(Whiteout("d"), Dir("d/"), File("d/new", ""))),
			want: checks(holds("d", "new")),
		},
		{
			name: "a whiteout after a directory of its layer: it started empty",
			in:   stack(layer(File("d/old", "")), layer(Dir("d/", Mode(0o700)), File("d/new", ""), Whiteout("d"))),
			want: checks(holds("d", "new"), hasMode("d", 0o700)),
		},
		{
			name: "a whiteout after a file below it: the directory is one that had to be made",
			in:   stack(layer(Dir("d/", Mode(0o700), Owner(7, 7)), File("d/old", "")), layer(File("d/new", ""), Whiteout("d"))),
			want: checks(holds("d", "new"), hasMode("d", 0o755), hasOwner("d", 0, 0)),
		},
		{
			name: "a whiteout before a file below it: the same",
			in:   stack(layer(Dir("d/", Mode(0o700), Owner(7, 7)), File("d/old", "")), layer(Whiteout("d"), File("d/new", ""))),
			want: checks(holds("d", "new"), hasMode("d", 0o755), hasOwner("d", 0, 0)),
		},
		{
			name: "a layer removes a directory, a later one makes it again: it starts empty",
			in:   stack(layer(File("d/e/old", "")), layer(Whiteout("d")), layer(File("d/e/new", ""))),
			want: checks(holds("d/e", "new")),
		},
		{
			name: "a layer removes a directory and makes it again, the next one sees only the new",
			in:   stack(layer(File("d/e/old", "")), layer(Whiteout("d"), Dir("d/")), layer(Dir("d/e/"))),
			want: checks(holds("d/e")),
		},
		{
			name: "hiding a symlink hides the symlink, not what it leads to",
			in:   stack(layer(File("file", ""), Symlink("link", "file"), Dir("dir/"), Symlink("dlink", "dir")), layer(Whiteout("link"), Whiteout("dlink"))),
			want: checks(holds("/", "dir", "file")),
		},
		{
			name: "a marker's parent is found through symlinks",
			in:   stack(layer(File("usr/lib/x", ""), File("usr/lib/y", ""), Symlink("lib", "usr/lib")), layer(Whiteout("lib/x"))),
			want: checks(holds("usr/lib", "y"), hasSymlink("lib", "usr/lib")),
		},
		{
			name: "a marker's missing parents are made",
			in:   stack(layer(Whiteout("a/b/x"))),
			want: checks(holds("a/b"), hasMode("a", 0o755)),
		},
		{
			name: "at the root a whiteout hides that name and no other of the kind",
			in:   stack(layer(File("etc/a", ""), File("usr/etc/b", ""), File("x/.wh", "")), layer(Whiteout("etc"))),
			want: checks(holds("/", "usr", "x"), hasFile("usr/etc/b", "")),
		},
		{
			name: "a marker stored as a hard link, with a size, or as a symlink is a marker",
			in: stack(
				layer(File("a", ""), File("b", ""), File("c", ""), File("d", "")),
				layer(File("t", ""), Link(".wh.a", "t"), File(".wh.b", "some content"), Symlink(".wh.c", "t")),
			),
			want: checks(holds("/", "d", "t"), warnsNot),
		},
		{
			name: "a character device 0:0 is a device",
			in:   stack(layer(File("x", "")), layer(Char("x", 0, 0))),
			want: checks(hasDevice("x", syscall.S_IFCHR, 0, 0)),
		},
	})
}

func TestOpaqueMarkers(t *testing.T) {
	lower := layer(Dir("d/", Mode(0o700)), File("d/old", ""), File("d/sub/old", ""), File("e/old", ""))
	run(t, []mergeTest{
		{
			name: "an opaque marker hides all children that lower layers gave",
			in:   stack(lower, layer(Opaque("d"))),
			want: checks(holds("d"), hasMode("d", 0o700), holds("e", "old")),
		},
		{
			name: "an opaque marker before its siblings hides none of them",
			in:   stack(lower, layer(Opaque("d"), File("d/new", ""), File("d/sub/new", ""))),
			want: checks(holds("d", "new", "sub"), holds("d/sub", "new"), hasMode("d/sub", 0o755)),
		},
		{
			name: "an opaque marker after its siblings hides none of them",
			in:   stack(lower, layer(File("d/new", ""), File("d/sub/new", ""), Opaque("d"))),
			want: checks(holds("d", "new", "sub"), holds("d/sub", "new")),
		},
		{
			name: "an opaque marker among its siblings hides none of them",
			in:   stack(lower, layer(Dir("d/sub/", Mode(0o711)), Opaque("d"), File("d/new", ""))),
			want: checks(holds("d", "new", "sub"), holds("d/sub"), hasMode("d/sub", 0o711)),
		},
		{
			name: "an opaque marker at the root",
			in:   stack(lower, layer(File("new", ""), Opaque(""), File("e/new", ""))),
			want: checks(holds("/", "e", "new"), holds("e", "new")),
		},
		{
			name: "what a directory was loses what is below, what it becomes is that of its layer",
			in:   stack(layer(Dir("d/sub/", Mode(0o700), Owner(5, 5))), layer(File("d/sub/new", ""), Opaque("d"))),
			want: checks(holds("d/sub", "new"), hasMode("d/sub", 0o755), hasOwner("d/sub", 0, 0), fromLayer("d/sub", 1)),
		},
		{
			name: "an opaque marker through a symlink",
			in:   stack(layer(Symlink("l", "d"), File("d/old", "")), layer(Opaque("l"))),
			want: checks(holds("d"), hasSymlink("l", "d")),
		},
		{
			name: "layers above see nothing of what was hidden",
			in:   stack(lower, layer(Opaque("d")), layer(File("d/sub/newest", ""))),
			want: checks(holds("d", "sub"), holds("d/sub", "newest")),
		},
		{
			name: "two opaque markers, one below the other",
			in:   stack(lower, layer(File("d/sub/new", ""), Opaque("d/sub"), Opaque("d"), File("d/x", ""))),
			want: checks(holds("d", "sub", "x"), holds("d/sub", "new")),
		},
	})
}

func TestMalformedMarkers(t *testing.T) {
	lower := layer(File("x", "old"), File("d/x", "old"))
	var tests []mergeTest
	for _, e := range []struct {
		name  string
		entry Entry
	}{
		{".wh.", File(".wh.", "")},
		{".wh..", File(".wh..", "")},
		{".wh...", File(".wh...", "")},
		{"d/.wh..", File("d/.wh..", "")},
		{".wh.x/", Dir(".wh.x/")},
		{"d/.wh..wh..opq/", Dir("d/.wh..wh..opq/")},
		{".wh.x/below", File(".wh.x/below", "")},
		{"d/.wh.x/y/below", File("d/.wh.x/y/below", "")},
		{"d/.wh..wh..opq/below", Whiteout("d/.wh..wh..opq/below")},
	} {
		if strings.HasSuffix(e.name, "opq/below") {
			e.name = "d/.wh..wh..opq/.wh.below"
		}
		tests = append(tests, mergeTest{
			name: e.name,
			in:   stack(lower, layer(e.entry)),
			want: checks(warns(e.name, "malformed"), hasFile("x", "old"), hasFile("d/x", "old"), holds("/", "d", "x"), holds("d", "x")),
		})
	}
	tests = append(tests, mergeTest{
		name: "a link leads below a marker",
		in:   stack(lower, layer(Symlink("l", "d/.wh.x"), File("l/y", ""))),
		want: checks(warns("l/y", "below a whiteout"), holds("d", "x")),
	})
	run(t, tests)
}

func TestBookkeepingOfAUFSIsIgnored(t *testing.T) {
	run(t, []mergeTest{{
		name: "with all below it",
		in: stack(layer(File("x", "")), layer(
			Dir(".wh..wh.plnk/"), File(".wh..wh.plnk/12.34", ""), File(".wh..wh.aufs", ""), Dir(".wh..wh.orph/a/"),
			File("d/.wh..wh.foo", ""), File(".wh..wh.opq", ""), File(".wh..wh.", ""), File(".wh..wh.plnk/.wh.x", ""))),
		want: checks(holds("/", "x"), warnsNot),
	}})
}

func TestAttributesOfOverlayfsAreDropped(t *testing.T) {
	r := merge(t, indexed(t, stack(
		layer(File("d/old", "")),
		layer(Dir("d/", Xattr("trusted.overlay.opaque", "y"), Xattr("user.overlay.opaque", "y"), Xattr("user.mine", "1")),
			File("f", "", Xattr("user.overlay.whiteout", "y"))),
	)))
	for _, c := range checks(holds("d", "old"), hasXattrs("d", index.Xattr{Name: "user.mine", Value: "1"}), hasXattrs("f")) {
		c(t, r)
	}
	if len(r.warnings) != 3 || !strings.Contains(r.warnings[0].String(), "overlay") {
		t.Errorf("warnings: %q", r.warnings)
	}
}

func TestNames(t *testing.T) {
	long, deep := strings.Repeat("n", 255), strings.Repeat("d/", 2047)
	run(t, []mergeTest{
		{
			name: "dots, slashes and doubled slashes are stripped",
			in:   stack(layer(File("./a", ""), File("/b", ""), File("./././/c", ""), File("d/./e//f", ""), Dir("g///"))),
			want: checks(holds("/", "a", "b", "c", "d", "g"), hasFile("d/e/f", ""), warnsNot),
		},
		{
			name: "dots that are names stay",
			in:   stack(layer(File("...", ""), File(".a", ""), File("a..", ""), File("d/..b", ""), Dir("./.d/"))),
			want: checks(holds("/", "...", ".a", ".d", "a..", "d"), hasFile("d/..b", ""), warnsNot),
		},
		{
			name: "two dots stay inside the root",
			in:   stack(layer(File("../../x", "here"))),
			want: checks(hasFile("x", "here"), warns("../../x", "..")),
		},
		{
			name: "two dots in the middle",
			in:   stack(layer(File("a/../b/./c", "here"))),
			want: checks(holds("/", "b"), hasFile("b/c", "here"), warns("a/../b/./c", "..")),
		},
		{
			name: "the root entry sets what the root is",
			in: stack(layer(Dir("./", Mode(0o1711), Owner(3, 4), Mtime(time.Unix(5, 6)), Xattr("user.a", "b"))),
				layer(File("x", ""))),
			want: checks(hasDir("/"), hasMode("/", 0o1711), hasOwner("/", 3, 4), hasMtime("/", time.Unix(5, 6)),
				hasXattrs("/", index.Xattr{Name: "user.a", Value: "b"}), holds("/", "x"), fromLayer("/", 0)),
		},
		{
			name: "in any of its spellings, the last one wins",
			in:   stack(layer(Dir("/", Mode(0o700))), layer(File("x", ""), Dir(".", Mode(0o711)))),
			want: checks(hasMode("/", 0o711), holds("/", "x"), fromLayer("/", 1)),
		},
		{
			name: "the root does not become a file",
			in:   stack(layer(File("x", ""), Symlink("./", "/etc"))),
			want: checks(hasDir("/"), holds("/", "x"), warns("./", "root")),
		},
		{
			name: "a name of 255 bytes and a path of 4096",
			in:   stack(layer(File(long, ""), File(deep+"ee", "deep"))),
			want: checks(hasFile(long, ""), hasFile(deep+"ee", "deep")),
		},
		{
			name: "a component of 256 bytes is rejected",
			in:   stack(layer(File("d/"+long+"n/x", ""))),
			want: checks(rejects("d/"+long+"n/x", "255")),
		},
		{
			name: "a path that symlinks make longer than 4096 bytes is rejected",
			in:   stack(layer(Dir(deep), Symlink("l", deep), File("l/l", ""), File("l/ab/c", ""))),
			want: checks(rejects("l/ab/c", "4096")),
		},
		{
			name: "an unknown type is skipped",
			in:   stack(layer(File("x", "old")), layer(File("x", "new", Type('Z')), File("y", ""))),
			want: checks(hasFile("x", "old"), hasFile("y", ""), warns("x", "unknown type 'Z'")),
		},
	})
}

// TestNamesThatNoIndexHas feeds Merge what index.Build would have refused.
func TestNamesThatNoIndexHas(t *testing.T) {
	for _, test := range []struct {
		entry index.Entry
		text  string
	}{
		{index.Entry{Name: "", Type: '0'}, "empty name"},
		{index.Entry{Name: "a\x00b", Type: '0'}, "NUL"},
		{index.Entry{Name: strings.Repeat("d/", 3000), Type: '5'}, "4096"},
		{index.Entry{Name: "s", Type: '2', Linkname: ""}, "target"},
		{index.Entry{Name: "s", Type: '2', Linkname: strings.Repeat("t", 4096)}, "target"},
		{index.Entry{Name: "c", Type: '3', Major: 1 << 12}, "device number"},
		{index.Entry{Name: "c", Type: '4', Minor: 1 << 20}, "device number"},
	} {
		rejects(test.entry.Name, test.text)(t, merge(t, []layerIn{{digest: "sha256:1", entries: []*index.Entry{&test.entry}}}))
	}
	for _, extents := range [][]index.Extent{
		{{Logical: 0, Offset: 0, Length: 11}},
		{{Logical: -1, Offset: 0, Length: 1}},
		{{Logical: 0, Offset: -1, Length: 1}},
		{{Logical: 5, Offset: 0, Length: 1 << 62}, {Logical: 6, Offset: 0, Length: 1}},
		{{Logical: 5, Offset: 0, Length: 2}, {Logical: 6, Offset: 0, Length: 1}},
		{{Logical: 5, Offset: 0, Length: -2}},
	} {
		e := index.Entry{Name: "f", Type: '0', Size: 10, Extents: extents}
		rejects("f", "outside")(t, mergeOnce([]layerIn{{digest: "sha256:1", entries: []*index.Entry{&e}}}))
	}
	e := index.Entry{Name: "f", Type: '0', Size: -1}
	rejects("f", "outside")(t, mergeOnce([]layerIn{{digest: "sha256:1", entries: []*index.Entry{&e}}}))
}

func TestParents(t *testing.T) {
	chain := []Entry{Dir("end/")}
	for i := range 41 {
		chain = append(chain, Symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i-1)))
	}
	chain[1] = Symlink("l0", "end")
	run(t, []mergeTest{
		{
			name: "missing parents are made",
			in:   stack(layer(File("a/b/c", ""))),
			want: checks(hasMode("a", 0o755), hasOwner("a", 0, 0), hasMtime("a/b", time.Unix(0, 0)), fromLayer("a", 0)),
		},
		{
			name: "a parent that is described later takes that",
			in:   stack(layer(File("a/b", ""), Dir("a/", Mode(0o700)))),
			want: checks(hasMode("a", 0o700), holds("a", "b")),
		},
		{
			name: "a parent that is a symlink is followed",
			in:   stack(layer(Dir("usr/lib/"), Symlink("lib", "usr/lib")), layer(File("lib/x", ""))),
			want: checks(holds("usr/lib", "x"), hasSymlink("lib", "usr/lib")),
		},
		{
			name: "an absolute symlink stays inside the root",
			in:   stack(layer(Symlink("a/lib", "/usr/lib"), File("a/lib/x", ""))),
			want: checks(holds("usr/lib", "x")),
		},
		{
			name: "a symlink out of the root stays inside",
			in:   stack(layer(Symlink("a/out", "../../../../etc"), File("a/out/x", ""))),
			want: checks(holds("/", "a", "etc"), holds("etc", "x"), warnsNot),
		},
		{
			name: "a symlink with two dots goes up from where it stands",
			in:   stack(layer(Symlink("up", "a/b/../c"), Symlink("a/b", "/x/y"), Dir("x/y/"), File("up/f", ""))),
			want: checks(holds("x", "c", "y"), holds("x/c", "f")),
		},
		{
			name: "two dots after what is missing take it back",
			in:   stack(layer(Symlink("up", "no/where/../../c"), File("up/f", ""))),
			want: checks(holds("/", "c", "up"), holds("c", "f")),
		},
		{
			name: "what a symlink leads to and is missing is made",
			in:   stack(layer(Symlink("lib", "usr/lib"), File("lib/x/y", ""))),
			want: checks(hasFile("usr/lib/x/y", "")),
		},
		{
			name: "forty symlinks are followed",
			in:   stack(layer(append(chain[:41:41], File("l39/x", ""))...)),
			want: checks(holds("end", "x")),
		},
		{
			name: "and not more",
			in:   stack(layer(append(chain[:42:42], File("l40/x", ""))...)),
			want: checks(rejects("l40/x", "too many levels of symbolic links")),
		},
		{
			name: "nor on the whole way, wherever they stand",
			in:   stack(layer(append(chain[:42:42], Symlink("end/l", "/l18"), File("l19/l/x", ""), File("l20/l/x", ""))...)),
			want: checks(rejects("l20/l/x", "too many levels of symbolic links")),
		},
		{
			name: "a symlink to itself is rejected as a parent",
			in:   stack(layer(Symlink("l", "l"), File("l/x", ""))),
			want: checks(rejects("l/x", "too many levels of symbolic links")),
		},
		{
			name: "a file is rejected as a parent",
			in:   stack(layer(File("f", "")), layer(File("f/x", ""))),
			want: checks(rejects("f/x", "not a directory")),
		},
		{
			name: "a link to a file is rejected as a parent",
			in:   stack(layer(File("f", ""), Symlink("l", "f")), layer(File("l/x", ""))),
			want: checks(rejects("l/x", "not a directory")),
		},
		{
			name: "a marker below what has become a file hides nothing",
			in:   stack(layer(File("d/x", "")), layer(File("d", "new"), Whiteout("d/x"))),
			want: checks(warns("d/.wh.x", "no directory"), hasFile("d", "new")),
		},
		{
			name: "a link that changes within a layer leads elsewhere from then on",
			in:   stack(layer(Symlink("l", "a"), File("l/1", ""), Symlink("l", "b"), File("l/2", ""), Dir("l/"), File("l/3", ""))),
			want: checks(holds("a", "1"), holds("b", "2"), holds("l", "3")),
		},
		{
			name: "a link that an opaque marker hides leads nowhere from then on",
			in:   stack(layer(Symlink("d/l", "/a"), Dir("a/")), layer(File("d/l/1", ""), Opaque("d"), File("d/l/2", ""))),
			want: checks(holds("a", "1"), holds("d/l", "2")),
		},
		{
			name: "a parent whose name starts like the last one's is another",
			in:   stack(layer(File("a/1", ""), File("ab/2", ""), File("a/b/3", ""), File("a/bc/4", ""), File("a/b/5", ""))),
			want: checks(holds("/", "a", "ab"), holds("a", "1", "b", "bc"), holds("a/b", "3", "5"), holds("a/bc", "4"), holds("ab", "2")),
		},
		{
			name: "a link that is hidden within a layer leads nowhere from then on",
			in:   stack(layer(Symlink("l", "a"), Dir("a/")), layer(File("l/1", ""), Whiteout("l"), File("l/2", ""))),
			want: checks(holds("a", "1"), holds("l", "2")),
		},
	})
}

func TestTheLastOneWins(t *testing.T) {
	run(t, []mergeTest{
		{
			name: "the same path twice in one layer",
			in:   stack(layer(File("x", "one"), File("x", "two", Mode(0o600)))),
			want: checks(hasFile("x", "two"), hasMode("x", 0o600)),
		},
		{
			name: "directory over directory keeps the children and takes the rest",
			in: stack(layer(Dir("d/", Xattr("user.a", "1"), Xattr("user.b", "1")), File("d/x", ""),
				Dir("d/", Mode(0o1777), Owner(1, 2), Mtime(time.Unix(9, 9)), Xattr("user.b", "2")))),
			want: checks(holds("d", "x"), hasMode("d", 0o1777), hasOwner("d", 1, 2), hasMtime("d", time.Unix(9, 9)),
				hasXattrs("d", index.Xattr{Name: "user.b", Value: "2"})),
		},
		{
			name: "directory over directory of a lower layer too",
			in:   stack(layer(Dir("d/"), File("d/x", "")), layer(Dir("d/", Mode(0o700)))),
			want: checks(holds("d", "x"), hasMode("d", 0o700), fromLayer("d", 1), fromLayer("d/x", 0)),
		},
		{
			name: "another type replaces, children included, and so back",
			in:   stack(layer(File("d/x", ""), File("d", "file"), Dir("d/"))),
			want: checks(holds("d")),
		},
		{
			name: "file over directory hides the whole directory",
			in:   stack(layer(File("d/x/y", "")), layer(File("d", "file")), layer(Dir("d/"), Dir("d/x/"))),
			want: checks(holds("d", "x"), holds("d/x")),
		},
		{
			name: "directory over file replaces it",
			in:   stack(layer(File("d", "")), layer(Dir("d/"), File("d/x", ""))),
			want: checks(holds("d", "x")),
		},
		{
			name: "symlink over directory replaces it and is not followed",
			in:   stack(layer(File("d/x", ""), File("e/y", "")), layer(Symlink("d", "e"))),
			want: checks(hasSymlink("d", "e"), holds("e", "y")),
		},
		{
			name: "directory over symlink replaces the link",
			in:   stack(layer(File("e/y", ""), Symlink("d", "e")), layer(Dir("d/"), File("d/x", ""))),
			want: checks(hasDir("d"), holds("d", "x"), holds("e", "y")),
		},
		{
			name: "symlink over symlink",
			in:   stack(layer(Symlink("l", "a")), layer(Symlink("l", "a/much/longer/target"))),
			want: checks(hasSymlink("l", "a/much/longer/target")),
		},
		{
			name: "file over symlink replaces the link",
			in:   stack(layer(File("f", "target"), Symlink("l", "f")), layer(File("l", "new"))),
			want: checks(hasFile("f", "target"), hasFile("l", "new")),
		},
	})
}
