package treediff

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// plant makes a tree with one of everything, with fixed times.
func plant(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	must(t, os.Chmod(root, 0o755))
	must(t, os.Mkdir(in("dir"), 0o755))
	must(t, os.Mkdir(in("dir/sub"), 0o755))
	must(t, os.WriteFile(in("dir/file"), []byte("content"), 0o644))
	must(t, os.WriteFile(in("dir.txt"), []byte("sorts between dir and dir/…, byte by byte"), 0o644))
	must(t, os.WriteFile(in("tool"), []byte("tool"), 0o755))
	must(t, os.Link(in("tool"), in("tool2")))
	must(t, os.Symlink("tool", in("link")))
	must(t, unix.Mkfifo(in("fifo"), 0o644))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(in("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
	must(t, unix.Setxattr(in("tool"), "user.color", []byte("red"), 0))
	age(t, root)
	return root
}

// age gives everything in a tree the same mtime, so that how it was made
// does not show.
func age(t *testing.T, root string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return touch(path, unix.Timespec{Sec: 1_000_000_000, Nsec: 123_456_789})
	}))
}

func touch(path string, at unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, root string) Tree {
	t.Helper()
	tree, err := Scan(root)
	must(t, err)
	return tree
}

func TestEqualTreesHaveNoDifferences(t *testing.T) {
	a, b := scan(t, plant(t)), scan(t, plant(t))
	if diffs := Diff(a, b, Blind{}); len(diffs) > 0 {
		t.Fatal(Report(diffs))
	}
	if want := 11; len(a) != want {
		t.Fatalf("the scan found %d paths, want %d", len(a), want)
	}
}

func TestEachKindOfDifferenceIsFound(t *testing.T) {
	at := func(sec, nsec int64) unix.Timespec { return unix.Timespec{Sec: sec, Nsec: nsec} }
	tests := []struct {
		name string
		seed func(in func(string) string) error
		want []string // "path: field", in order
		age  bool     // hide the times that the seeding changes
	}{
		{name: "a missing file", age: true, want: []string{"dir/file: path"},
			seed: func(in func(string) string) error { return os.Remove(in("dir/file")) }},
		{name: "one file more", age: true, want: []string{"dir/more: path"},
			seed: func(in func(string) string) error { return os.WriteFile(in("dir/more"), nil, 0o644) }},
		{name: "a directory less", age: true, want: []string{"dir: nlink", "dir/sub: path"},
			seed: func(in func(string) string) error { return os.Remove(in("dir/sub")) }},
		{name: "a mode bit", want: []string{"tool: mode", "tool2: mode"},
			seed: func(in func(string) string) error { return unix.Chmod(in("tool"), 0o4755) }},
		{name: "the sticky bit of a directory", want: []string{"dir: mode"},
			seed: func(in func(string) string) error { return unix.Chmod(in("dir"), 0o1755) }},
		{name: "the mode of the root", want: []string{".: mode"},
			seed: func(in func(string) string) error { return unix.Chmod(in("."), 0o750) }},
		{name: "an owner", want: []string{"dir/file: uid"},
			seed: func(in func(string) string) error { return os.Chown(in("dir/file"), 7, 0) }},
		{name: "a group of a link", want: []string{"link: gid"},
			seed: func(in func(string) string) error { return os.Lchown(in("link"), 0, 7) }},
		{name: "a nanosecond", want: []string{"dir/file: mtime"},
			seed: func(in func(string) string) error { return touch(in("dir/file"), at(1_000_000_000, 123_456_788)) }},
		{name: "the time of a directory", want: []string{"dir: mtime"},
			seed: func(in func(string) string) error { return touch(in("dir"), at(1_000_000_001, 123_456_789)) }},
		{name: "the time of a link", want: []string{"link: mtime"},
			seed: func(in func(string) string) error { return touch(in("link"), at(0, 0)) }},
		{name: "content of the same size", age: true, want: []string{"dir/file: sha256"},
			seed: func(in func(string) string) error { return os.WriteFile(in("dir/file"), []byte("CONTENT"), 0o644) }},
		{name: "a size", age: true, want: []string{"dir/file: size", "dir/file: sha256"},
			seed: func(in func(string) string) error { return os.Truncate(in("dir/file"), 3) }},
		{name: "an attribute's value", age: true, want: []string{"tool: xattrs", "tool2: xattrs"},
			seed: func(in func(string) string) error { return unix.Setxattr(in("tool"), "user.color", []byte("blue"), 0) }},
		{name: "an attribute more", want: []string{"dir: xattrs"},
			seed: func(in func(string) string) error { return unix.Setxattr(in("dir"), "trusted.x", []byte("\x00"), 0) }},
		{name: "a hard link that became a copy", age: true,
			want: []string{"tool: nlink", "tool2: xattrs", "tool2: nlink", "tool2: hard link of"},
			seed: func(in func(string) string) error { return replace(in("tool2"), "tool") }},
		{name: "a link's target", age: true, want: []string{"link: target"},
			seed: func(in func(string) string) error {
				return afterRemove(in("link"), func() error { return os.Symlink("disk", in("link")) })
			}},
		{name: "a device number", age: true, want: []string{"null: rdev"},
			seed: func(in func(string) string) error {
				return afterRemove(in("null"), func() error {
					return unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
				})
			}},
		{name: "a type", age: true, want: []string{"fifo: type"},
			seed: func(in func(string) string) error { return replace(in("fifo"), "") }},
		{name: "a block device that became a character device", age: true, want: []string{"disk: type"},
			seed: func(in func(string) string) error {
				return afterRemove(in("disk"), func() error {
					return unix.Mknod(in("disk"), unix.S_IFCHR|0o660, int(unix.Mkdev(7, 300)))
				})
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := plant(t)
			a := scan(t, root)
			must(t, test.seed(func(name string) string { return filepath.Join(root, name) }))
			if test.age {
				age(t, root)
			}
			diffs := Diff(a, scan(t, root), Blind{})
			var got []string
			for _, d := range diffs {
				got = append(got, d.Path+": "+d.Field)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("found %q, want %q\n%s", got, test.want, Report(diffs))
			}
		})
	}
}

// replace puts a new file with some content in the place of another.
func replace(path, content string) error {
	return afterRemove(path, func() error {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			return err
		}
		return unix.Chmod(path, 0o755)
	})
}

func afterRemove(path string, make func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return make()
}

func TestBlindHidesJustWhatItNames(t *testing.T) {
	root := plant(t)
	a := scan(t, root)
	must(t, touch(filepath.Join(root, "dir"), unix.Timespec{}))
	must(t, os.Mkdir(filepath.Join(root, "new"), 0o755))
	must(t, os.Remove(filepath.Join(root, "tool2")))
	must(t, os.Link(filepath.Join(root, "dir/file"), filepath.Join(root, "tool2")))
	b := scan(t, root)
	var got []string
	for _, d := range Diff(a, b, Blind{DirTimes: true, DirNlink: true, HardLinks: true}) {
		got = append(got, d.Path+": "+d.Field)
	}
	want := []string{"new: path", "tool2: mode", "tool2: size", "tool2: xattrs", "tool2: sha256"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestAReportCountsByFieldAndShowsBothSides(t *testing.T) {
	root := plant(t)
	a := scan(t, root)
	must(t, os.Chown(filepath.Join(root, "dir/file"), 7, 8))
	report := Report(Diff(a, scan(t, root), Blind{}))
	for _, want := range []string{"2 differences", "uid: 1", "dir/file: uid: 0, and 7", "dir/file: gid: 0, and 8"} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
}
