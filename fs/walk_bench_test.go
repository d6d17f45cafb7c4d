package fs

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgfs/layers"
)

// BenchmarkWalk runs find -ls, and tar, over a tree of 200,000 files in the mount, and over the same tree unpacked on the
// local file system, in turns: cold, after the kernel has dropped its caches, and warm. Of each the quickest turn counts,
// since the machine may have other work; "ratio" is ours to the local one's.
func BenchmarkWalk(b *testing.B) {
	tree := forest(1000, 200).tree(b)
	s := mounted(b, tree, nil)
	local := b.TempDir()
	unpack(b, tree, local)
	for _, program := range []struct {
		name string
		run  func(t testing.TB, dir string, want int) time.Duration
	}{{"find", walk}, {"tar", pack}} {
		for _, state := range []struct {
			name    string
			prepare func(testing.TB)
		}{{"cold", dropCaches}, {"warm", func(testing.TB) {}}} {
			b.Run(program.name+"/"+state.name, func(b *testing.B) {
				ours, theirs := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
				program.run(b, s.Dir(), tree.Len()) // what was there before was dropped for the other's turn
				for b.Loop() {
					state.prepare(b)
					ours = min(ours, program.run(b, s.Dir(), tree.Len()))
					state.prepare(b)
					theirs = min(theirs, program.run(b, local, tree.Len()))
				}
				b.ReportMetric(float64(ours)/float64(tree.Len()), "ns/file")
				b.ReportMetric(float64(theirs)/float64(tree.Len()), "local-ns/file")
				b.ReportMetric(float64(ours)/float64(theirs), "ratio")
			})
		}
	}
}

// BenchmarkColdRead reads a file of 64 MiB through the mount after the kernel has dropped it.
func BenchmarkColdRead(b *testing.B) {
	const size = 64 << 20
	layer := new(builder)
	layer.file("file", noise(size))
	s := mounted(b, layer.tree(b), nil)
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		dropCaches(b)
		b.StartTimer()
		if err := exec.Command("dd", "if="+s.Dir()+"/file", "of=/dev/null", "bs=1M", "status=none").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// forest is a tree of directories with small files.
func forest(dirs, files int) *builder {
	b := new(builder)
	for d := range dirs {
		dir := fmt.Sprintf("usr/lib/package-%d/dir-%d", d/10, d)
		for f := range files {
			b.file(fmt.Sprintf("%s/file-%d.txt", dir, f), "content\n")
		}
	}
	return b
}

func unpack(t testing.TB, tree *layers.Tree, dir string) {
	t.Helper()
	for n := layers.Root + 1; int(n) < tree.Len(); n++ {
		path := filepath.Join(dir, tree.Path(n))
		var err error
		if lo, hi := tree.Children(n); lo < hi {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte("content\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// dropCaches has the kernel forget pages, entries and inodes.
func dropCaches(t testing.TB) {
	t.Helper()
	if err := exec.Command("sync").Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("find", "/usr/share/doc/libc6", "-ls").Run(); err != nil { // so that find itself is back
		t.Fatal(err)
	}
}

func walk(t testing.TB, dir string, want int) time.Duration {
	t.Helper()
	cmd := exec.Command("find", dir, "-ls")
	begin := time.Now()
	out, err := cmd.Output()
	took := time.Since(begin)
	if got := strings.Count(string(out), "\n"); err != nil || got != want {
		t.Fatalf("find saw %d files, want %d: %v", got, want, err)
	}
	return took
}

// pack runs tar over a tree. To a pipe: to /dev/null it would read no files.
func pack(t testing.TB, dir string, _ int) time.Duration {
	t.Helper()
	begin := time.Now()
	if out, err := exec.Command("sh", "-c", `tar -cf - -C "$1" . | cat >/dev/null`, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return time.Since(begin)
}
