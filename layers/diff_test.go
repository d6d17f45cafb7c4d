package layers_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "imgfs/internal/testimage"
	"imgfs/layers"
)

// changes is a list of changes as docker diff prints them, with what differs behind that.
func changes(t testing.TB, from, to result, same func(a, b int) bool) string {
	t.Helper()
	var b strings.Builder
	err := layers.Diff(from.tree, to.tree, same, func(c layers.Change) error {
		fmt.Fprintf(&b, "%c %s %s\n", c.Kind, c.Path, strings.Join(c.What, ","))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func neverSame(int, int) bool { return false }

func TestDiffTellsWhatALayerChanges(t *testing.T) {
	below := layer(Dir("d/"), File("d/same", "x"), File("d/content", "one"), File("d/longer", "one"), File("gone", ""), Dir("dir/"), File("dir/a", ""), File("dir/b/c", ""),
		File("becomes", ""), Dir("was/"), File("was/x", ""), Symlink("link", "d"), Char("char", 1, 3), File("mode", "m"), File("owner", "m"),
		File("time", "m"), Dir("time.d/"), File("xattr", "m"), Dir("deep/er/est/"), File("h1", "h"), Link("h2", "h1"))
	above := layer(File("d/content", "two"), File("d/longer", "three"), File(".wh.gone", ""), File(".wh.dir", ""), Dir("becomes/"), File("becomes/x", ""),
		File("was", ""), Symlink("link", "dir"), Char("char", 1, 5), File("mode", "m", Mode(0o600)), File("owner", "m", Owner(1, 2)),
		File("time", "m", Mtime(time.Unix(5, 6))), Dir("time.d/", Mtime(time.Unix(5, 6))), File("xattr", "m", Xattr("user.x", "y")), File("deep/er/est/new", ""),
		Dir("new/"), File("new/x/y", ""), File("d/same", "x"), Link("h3", "h1"))
	a, b := merge(t, indexed(t, stack(below))), merge(t, indexed(t, stack(below, above)))
	const want = `C /becomes type
A /becomes/x 
C /char device
C /d 
C /d/content content
C /d/longer content
C /deep 
C /deep/er 
C /deep/er/est 
A /deep/er/est/new 
D /dir 
D /gone 
A /h3 
C /link target
C /mode mode
A /new 
A /new/x 
A /new/x/y 
C /owner owner
C /time mtime
C /was type
D /was/x 
C /xattr xattrs
`
	if got := changes(t, a, b, neverSame); got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
	for _, r := range []result{a, b} {
		if got := changes(t, r, r, neverSame); got != "" {
			t.Errorf("a tree differs from itself:\n%s", got)
		}
	}
}

func TestDiffReadsOfHolesNothing(t *testing.T) {
	const size, at = 1 << 41, 1 << 40
	one := func(name, data string, off int64) Entry {
		return SparsePAX10(name, size, []Segment{{Offset: off, Data: data}})
	}
	zeros := strings.Repeat("\x00", 512)
	a := mergeOnce(indexed(t, stack(layer(one("other", "data", at), one("same", "data", at), one("moved", "data", at)))))
	b := mergeOnce(indexed(t, stack(layer(one("other", "DATA", at), one("same", zeros+"data", at-512), one("moved", "data", at+512)))))
	if got, want := changes(t, a, b, neverSame), "C /moved content\nC /other content\n"; got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
}

func TestDiffOfTheRootIsToldOnlyWhereItDiffersItself(t *testing.T) {
	a := merge(t, indexed(t, stack(layer(Dir("./"), File("x", "")))))
	b := merge(t, indexed(t, stack(layer(Dir("./", Mode(0o700)), File("y", "")))))
	if got, want := changes(t, a, b, neverSame), "C / mode\nD /x \nA /y \n"; got != want {
		t.Errorf("changes\n%s\nwant\n%s", got, want)
	}
}

func TestDiffReadsNothingThatIsTheSameInTheSameTar(t *testing.T) {
	in := indexed(t, stack(layer(File("x", "content"), SparsePAX10("sparse", 4096, []Segment{{Offset: 1024, Data: "data"}}))))
	in[0].tar = broken{}
	r := mergeOnce(in)
	always := func(int, int) bool { return true }
	if got := changes(t, r, r, always); got != "" {
		t.Errorf("changes\n%s", got)
	}
	err := layers.Diff(r.tree, r.tree, neverSame, func(layers.Change) error { return nil })
	if err == nil {
		t.Error("read from a broken tar without an error")
	}
}

func TestDiffEndsWithTheErrorOfWhoListens(t *testing.T) {
	a, b := merge(t, indexed(t, stack(layer(File("d/x", ""))))), merge(t, indexed(t, stack(layer(File("d/y", "")))))
	stop := errors.New("stop")
	var seen []string
	err := layers.Diff(a.tree, b.tree, neverSame, func(c layers.Change) error {
		seen = append(seen, c.Path)
		return stop
	})
	if !errors.Is(err, stop) || !slices.Equal(seen, []string{"/d"}) {
		t.Errorf("%v after %q", err, seen)
	}
}
