package fs

import (
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// small is a tree of directories of small files, some of which have several names or lie in two spans.
func small(t testing.TB, dirs, files, span int) (*layers.Tree, *holder, map[string]string) {
	t.Helper()
	b, want := new(builder), map[string]string{}
	for d := range dirs {
		for f := range files {
			name := fmt.Sprintf("/dir-%02d/file-%04d", d, f)
			want[name] = name + noise((d*files+f)*7919%20_000)
			b.file(name[1:], want[name])
		}
		b.dir(fmt.Sprintf("dir-%02d/file-%04d-sub", d, files/2), 0o755)
	}
	tar := newHolder(b, span)
	return b.treeOver(t, tar), tar, want
}

// list lists a directory, so that the kernel knows what is in it, and gives its files in that order.
func list(t testing.TB, dir string) (files []string) {
	t.Helper()
	entries, err := readDir(dir, 32<<10)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.typ == unix.DT_REG {
			files = append(files, dir+"/"+e.name)
		}
	}
	return files
}

func TestSmallFilesReadInARowAreGivenBeforeTheyAreAskedFor(t *testing.T) {
	const dirs, files = 3, 300
	tree, tar, want := small(t, dirs, files, 100_000)
	s := mounted(t, tree, nil)
	for d := range dirs {
		for _, name := range list(t, fmt.Sprintf("%s/dir-%02d", s.Dir(), d)) {
			got, err := readFile(name, maxPushed)
			if err != nil || string(got) != want[name[len(s.Dir()):]] {
				t.Fatalf("%s differs, %v", name, err)
			}
		}
	}
	if reads := s.Stats().Reads; reads > dirs*files/5 {
		t.Errorf("%d files took %d requests", dirs*files, reads)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	s.Wait()
	if held, released := tar.held.Load(), tar.released.Load(); held != released {
		t.Errorf("%d parts were held, %d released", held, released)
	}
}

func TestFilesThatWouldHaveToBeDecodedAreNotGivenBeforeTheyAreAskedFor(t *testing.T) {
	const files = 200
	tree, tar, _ := small(t, 1, files, 100_000)
	tar.raw = true
	s := mounted(t, tree, nil)
	for _, name := range list(t, s.Dir()+"/dir-00") {
		if _, err := readFile(name, maxPushed); err != nil {
			t.Fatal(err)
		}
	}
	if reads := s.Stats().Reads; reads != files {
		t.Errorf("%d files took %d requests", files, reads)
	}
}

func TestFilesReadFromBackToFrontAreAskedFor(t *testing.T) {
	const files = 200
	tree, _, _ := small(t, 1, files, 100_000)
	s := mounted(t, tree, nil)
	names := list(t, s.Dir()+"/dir-00")
	for i := range names {
		if _, err := readFile(names[len(names)-1-i], maxPushed); err != nil {
			t.Fatal(err)
		}
	}
	if reads := s.Stats().Reads; reads != files {
		t.Errorf("%d files took %d requests", files, reads)
	}
}

func TestFilesGivenToTheKernelAreRightForReadersSideBySide(t *testing.T) {
	const dirs, files = 4, 250
	tree, _, want := small(t, dirs, files, 30_000)
	s := mounted(t, tree, nil)
	for range 3 {
		dropCaches(t)
		var wait sync.WaitGroup
		for i := range 2 * dirs {
			wait.Go(func() {
				for _, name := range list(t, fmt.Sprintf("%s/dir-%02d", s.Dir(), i%dirs)) {
					if got, err := readFile(name, maxPushed); err != nil || string(got) != want[name[len(s.Dir()):]] {
						t.Errorf("%s differs, %v", name, err)
					}
				}
			})
		}
		wait.Wait()
	}
	if got := s.Stats(); got.Errors != 0 {
		t.Errorf("%+v", got)
	}
}
