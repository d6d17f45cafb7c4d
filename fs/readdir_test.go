package fs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// opened opens a directory for the length of a test.
func opened(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestABigDirectoryIsReadWholeWithAnyBuffer(t *testing.T) {
	const files = 20_000
	tree := wide(files).tree(t)
	want := append([]string{".", ".."}, names(tree, find(t, tree, "/d"))...)
	for _, size := range []int{64, 500, 4096, 32 << 10, 1 << 20} {
		s := mounted(t, tree, nil) // so that nothing is cached
		for _, when := range []string{"cold", "cached"} {
			entries, err := readDir(s.Dir()+"/d", size)
			if err != nil {
				t.Fatal(err)
			}
			if got := namesOf(entries); !slices.Equal(got, want) {
				t.Errorf("%s, with a buffer of %d: %d names, want %d", when, size, len(got), len(want))
			}
		}
	}
}

func namesOf(entries []direntry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names
}

func TestADirectorysOffsetsSurviveSeeks(t *testing.T) {
	tree := sample().tree(t)
	want := append([]string{".", ".."}, names(tree, find(t, tree, "/many"))...)
	s := mounted(t, tree, nil)
	fd, other := opened(t, s.Dir()+"/many"), opened(t, s.Dir()+"/many")
	buf := make([]byte, 1000)
	check := func(fd int, at int64) {
		t.Helper()
		if _, err := unix.Seek(fd, at, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		entries, err := getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		rest := want[at:]
		got := namesOf(entries)
		if len(got) == 0 && len(rest) > 0 || !slices.Equal(got, rest[:len(got)]) {
			t.Fatalf("from offset %d: %v, want %v…", at, got, rest[:min(len(rest), 5)])
		}
	}
	for range 2 {
		for i := range int64(len(want)) {
			check(fd, i*389%int64(len(want))) // every place once, in a mixed order
			check(other, int64(len(want))-1-i)
		}
		check(fd, int64(len(want)))
		if _, err := readDir(s.Dir()+"/many", 32<<10); err != nil { // which lets the kernel cache it
			t.Fatal(err)
		}
	}
}

func TestAnOffsetIsThePlaceAfterItsEntry(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	for range 2 {
		entries, err := readDir(s.Dir()+"/many", 700)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if e.next != int64(i)+1 {
				t.Fatalf("entry %d (%s) is followed by offset %d", i, e.name, e.next)
			}
		}
	}
}

func TestReadersOfADirectoryDoNotDisturbEachOther(t *testing.T) {
	tree := wide(3000).tree(t)
	s := mounted(t, tree, nil)
	want := append([]string{".", ".."}, names(tree, find(t, tree, "/d"))...)
	done := make(chan error)
	const readers = 8
	for i := range readers {
		go func() {
			entries, err := readDir(s.Dir()+"/d", 256<<i)
			if err == nil && !slices.Equal(namesOf(entries), want) {
				t.Errorf("reader %d saw %d entries", i, len(entries))
			}
			done <- err
		}()
	}
	for range readers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
