package layers_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"imgfs/index"
	. "imgfs/internal/testimage"
)

func TestHardLinks(t *testing.T) {
	run(t, []mergeTest{
		{
			name: "a hard link is the same file",
			in:   stack(layer(File("b", "content"), Link("a", "b"), Link("c/d", "./b"))),
			want: checks(areOneFile("a", "b", "c/d"), hasNlink("a", 3), hasFile("c/d", "content"), warnsNot),
		},
		{
			name: "to a file of a lower layer",
			in:   stack(layer(File("lower", "content")), layer(Link("upper", "/lower"))),
			want: checks(areOneFile("lower", "upper"), hasFile("upper", "content"), fromLayer("upper", 1), fromLayer("lower", 0)),
		},
		{
			name: "removal of the target leaves the link",
			in:   stack(layer(File("a", "content"), Link("b", "a")), layer(Whiteout("a"))),
			want: checks(hasFile("b", "content"), hasNlink("b", 1), holds("/", "b")),
		},
		{
			name: "removal of the link leaves the target",
			in:   stack(layer(File("a", "content"), Link("b", "a")), layer(Whiteout("b"))),
			want: checks(hasFile("a", "content"), hasNlink("a", 1)),
		},
		{
			name: "a link and the whiteout of its target in one layer",
			in:   stack(layer(File("a", "content")), layer(Link("b", "a"), Whiteout("a"))),
			want: checks(holds("/", "b"), hasFile("b", "content"), hasNlink("b", 1)),
		},
		{
			name: "a replaced target is another file",
			in:   stack(layer(File("a", "old"), Link("b", "a")), layer(File("a", "new"))),
			want: checks(areTwoFiles("a", "b"), hasFile("a", "new"), hasFile("b", "old"), hasNlink("a", 1)),
		},
		{
			name: "a target that is replaced again and again",
			in:   stack(layer(File("a", "1"), Link("b", "a"), File("a", "2"), Link("c", "a"), File("a", "3"), File("a", "4"))),
			want: checks(hasFile("a", "4"), hasFile("b", "1"), hasFile("c", "2")),
		},
		{
			name: "a link over a file, a directory and a link",
			in: stack(layer(File("t", "content"), File("f", ""), File("d/x", ""), Symlink("s", "d")),
				layer(Link("f", "t"), Link("d", "t"), Link("s", "t"))),
			want: checks(areOneFile("t", "f", "d", "s"), hasNlink("t", 4), holds("/", "d", "f", "s", "t")),
		},
		{
			name: "links to a symlink, a FIFO and a device are links too",
			in: stack(layer(Symlink("s", "nowhere"), Link("s2", "s"), Fifo("f"), Link("f2", "f"), Char("c", 1, 3), Link("c2", "c"),
				Block("b", 8, 0), Link("b2", "b"))),
			want: checks(areOneFile("s", "s2"), hasSymlink("s2", "nowhere"), areOneFile("f", "f2"), hasFifo("f2"),
				areOneFile("c", "c2"), hasDevice("c2", syscall.S_IFCHR, 1, 3), areOneFile("b", "b2"), hasDevice("b2", syscall.S_IFBLK, 8, 0)),
		},
		{
			name: "the target's parent is found through symlinks, the target is not followed",
			in:   stack(layer(File("usr/lib/x", ""), Symlink("usr/lib/s", "x"), Symlink("lib", "/usr/lib"), Link("a", "lib/x"), Link("b", "lib/s"))),
			want: checks(areOneFile("a", "usr/lib/x"), areOneFile("b", "usr/lib/s"), hasSymlink("b", "x")),
		},
		{
			name: "two dots in a target stay inside the root",
			in:   stack(layer(File("x", ""), Link("a", "../../x"))),
			want: checks(areOneFile("a", "x"), warns("a", "..")),
		},
		{
			name: "two dots in a target go up from where a symlink leads",
			in:   stack(layer(File("p/x", "right"), File("x", "wrong"), Dir("p/q/"), Symlink("l", "p/q"), Link("a", "l/../x"))),
			want: checks(areOneFile("a", "p/x"), warns("a", "..")),
		},
		{
			name: "what the link's entry says of owner, mode and time goes to the file",
			in: stack(layer(File("a", "content", Owner(1, 1)),
				Link("b", "a", Owner(5, 6), Mode(0o4750), Mtime(time.Unix(7, 8))))),
			want: checks(areOneFile("a", "b"), hasOwner("a", 5, 6), hasMode("a", 0o4750), hasMtime("a", time.Unix(7, 8))),
		},
		{
			name: "but a symlink has no mode",
			in:   stack(layer(Symlink("a", "t"), Link("b", "a", Owner(5, 6), Mode(0o600)))),
			want: checks(hasSymlink("a", "t"), hasOwner("a", 5, 6)),
		},
		{
			name: "the link's attributes come on top of the file's, but for its capabilities",
			in: stack(layer(File("a", "", Xattr("user.a", "1"), Xattr("user.b", "1"), Xattr("security.capability", netRaw)),
				Link("b", "a", Xattr("user.b", "2"), Xattr("user.c", "2")))),
			want: checks(hasXattrs("a", index.Xattr{Name: "user.a", Value: "1"}, index.Xattr{Name: "user.b", Value: "2"}, index.Xattr{Name: "user.c", Value: "2"})),
		},
		{
			name: "capabilities that the link has stay",
			in: stack(layer(File("a", "", Xattr("security.capability", netRaw)),
				Link("b", "a", Xattr("security.capability", netRaw)))),
			want: checks(hasXattrs("a", index.Xattr{Name: "security.capability", Value: netRaw})),
		},
		{
			name: "a link entry has no content, whatever its size says",
			in:   stack(layer(File("a", "content"), Link("b", "a", Size(7)), File("c", ""))),
			want: checks(hasFile("b", "content"), hasFile("c", "")),
		},
	})
}

func TestHardLinksThatAreRejected(t *testing.T) {
	const missing = "not there"
	for name, test := range map[string]struct {
		in   [][]byte
		text string
	}{
		"to what is missing":         {stack(layer(Link("l", "missing"))), missing},
		"to what comes later":        {stack(layer(Link("l", "later"), File("later", ""))), missing},
		"in a directory that is not": {stack(layer(Link("l", "no/dir/../../x"), File("x", ""))), missing},
		"to what was hidden":         {stack(layer(File("x", "")), layer(Whiteout("x"), Link("l", "x"))), missing},
		"to itself":                  {stack(layer(File("l", "")), layer(Link("l", "l"))), missing},
		"to what it replaces":        {stack(layer(File("l/x", "")), layer(Link("l", "l/x"))), missing},
		"to a directory":             {stack(layer(Dir("d/"), Link("l", "d"))), "to a directory"},
		"to a directory with slash":  {stack(layer(Dir("d/"), Link("l", "d/"))), "to a directory"},
		"to the root":                {stack(layer(Link("l", "/"))), "to a directory"},
		"to a parent":                {stack(layer(Dir("d/e/"), Link("l", "d/e/.."))), "to a directory"},
		"to a whiteout":              {stack(layer(File("x", "")), layer(Whiteout("x"), Link("l", ".wh.x"))), "whiteout marker"},
		"below a file":               {stack(layer(File("x", ""), Link("l", "x/y"))), "not a directory"},
		"through a loop":             {stack(layer(Symlink("s", "s"), Link("l", "s/y"))), "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			rejects("l", test.text)(t, merge(t, indexed(t, test.in)))
		})
	}
}

func TestKindsOfEntries(t *testing.T) {
	long := strings.Repeat("long name/", 30) + "end"
	segments := []Segment{{Offset: 5, Data: "abc"}, {Offset: 1000, Data: "xyz"}, {Offset: 70_000}}
	sparse := make([]byte, 70_000)
	copy(sparse[5:], "abc")
	copy(sparse[1000:], "xyz")
	early, late := time.Unix(-1_000_000_000, 5), time.Unix(1<<33, 999_999_999)
	run(t, []mergeTest{
		{
			name: "regular files of three kinds",
			in:   stack(layer(File("0", "zero"), File("nul", "nul", Type(0)), File("7", "seven", Type('7')))),
			want: checks(hasFile("0", "zero"), hasFile("nul", "nul"), hasFile("7", "seven")),
		},
		{
			name: "links, devices, pipes, directories",
			in:   stack(layer(Symlink("s", "/t"), Char("c", 5, 1), Block("b", 259, 1<<20-1), Fifo("f"), Dir("d"), Dir("v7/", Type(0)))),
			want: checks(hasSymlink("s", "/t"), hasDevice("c", syscall.S_IFCHR, 5, 1), hasDevice("b", syscall.S_IFBLK, 259, 1<<20-1),
				hasFifo("f"), hasDir("d"), hasDir("v7")),
		},
		{
			name: "long names and targets of GNU and PAX",
			in:   stack(layer(File(long, "1"), File("g/"+long, "2", GNU()), Symlink("s", long), Symlink("t", long, GNU()), Link("l", long))),
			want: checks(hasFile(long, "1"), hasFile("g/"+long, "2"), hasSymlink("s", long), hasSymlink("t", long), areOneFile("l", long)),
		},
		{
			name: "all twelve bits of the mode, and of a link none",
			in:   stack(layer(File("f", "", Mode(0o7777)), File("n", "", Mode(0)), Dir("d/", Mode(0o3571)), Symlink("s", "f", Mode(0o600)))),
			want: checks(hasMode("f", 0o7777), hasMode("n", 0), hasMode("d", 0o3571), hasSymlink("s", "f")),
		},
		{
			name: "big owners, numbers in binary, times early, late and exact",
			in: stack(layer(File("f", "", Owner(1<<32-2, 1<<31)), File("b", "12", Base256(), Owner(1<<21, 9)),
				File("early", "", Mtime(early)), File("late", "", Mtime(late)))),
			want: checks(hasOwner("f", 1<<32-2, 1<<31), hasOwner("b", 1<<21, 9), hasFile("b", "12"), hasMtime("early", early), hasMtime("late", late)),
		},
		{
			name: "attributes of both spellings, sorted",
			in:   stack(layer(File("f", "", Xattr("user.b", "\x00\xff"), LibarchiveXattr("user.a b", "1"), Xattr("security.ima", "s")))),
			want: checks(hasXattrs("f", index.Xattr{Name: "security.ima", Value: "s"},
				index.Xattr{Name: "user.a b", Value: "1"}, index.Xattr{Name: "user.b", Value: "\x00\xff"})),
		},
		{
			name: "sparse files of four kinds",
			in: stack(layer(SparseGNU("s", 70_000, segments), SparsePAX00("p00", 70_000, segments),
				SparsePAX01("p01", 70_000, segments), SparsePAX10("p10", 70_000, segments))),
			want: checks(hasFile("s", string(sparse)), hasFile("p00", string(sparse)), hasFile("p01", string(sparse)), hasFile("p10", string(sparse)),
				hasSize("s", 70_000, 1)),
		},
		{
			name: "a PAX header for all, a size on a directory, a slash after a file",
			in:   stack(layer(GlobalPAX("comment", "x"), Dir("d/", Size(4096)), File("f/", "content"))),
			want: checks(hasDir("d"), hasFile("f", "content"), warnsNot),
		},
		{
			name: "what comes after the end does not exist",
			in:   stack(layer(File("a", ""), End(), File("b", ""))),
			want: checks(holds("/", "a")),
		},
		{
			name: "an empty layer among others",
			in:   stack(layer(File("a", "")), layer(), layer(File("b", ""))),
			want: checks(holds("/", "a", "b"), fromLayer("a", 0), fromLayer("b", 2)),
		},
		{
			name: "sizes",
			in:   stack(layer(File("f", strings.Repeat("x", 513)), File("e", ""), Dir("d/"), Symlink("s", "12345"), Fifo("p"))),
			want: checks(hasSize("f", 513, 2), hasSize("e", 0, 0), hasSize("d", 4096, 0), hasSize("s", 5, 0), hasSize("p", 0, 0)),
		},
		{
			name: "directories count the directories in them",
			in:   stack(layer(Dir("d/a/"), Dir("d/b/"), File("d/c", ""))),
			want: checks(hasNlink("d", 4), hasNlink("d/a", 2), hasNlink("/", 3)),
		},
	})
}
