package e2e

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"imgfs/e2e/internal/images"
	"imgfs/e2e/internal/peer"
	"imgfs/internal/corpus"
	"imgfs/internal/kept"
	"imgfs/internal/measure"
)

// manyFiles is one of the corpus's images of many files.
func manyFiles(b *testing.B, tag string) images.Image {
	b.Helper()
	layout, err := corpus.ManyFiles(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return images.Image{Name: "corpus-files", Layout: layout, Tag: tag}
}

// A server is who serves a tree: where, and in which process; 0 is the kernel.
type server struct {
	name, dir string
	pid       int
}

// BenchmarkTree does what is done to whole trees, here one of over 200,000 files, beside the kernel's overlayfs and
// fuse-overlayfs over the same layers unpacked, in turns. Cold is after the kernel has dropped its caches. A metric A/B-time is
// A's time in parts of B's; A/B-cpu is so of the processor time of server and client, in user mode and in the kernel.
func BenchmarkTree(b *testing.B) {
	servers, files := serveForest(b)
	for _, work := range []struct {
		name string
		cold bool
		do   func(dir string) (string, time.Duration, error)
	}{
		{"find-cold", true, find},
		{"find-warm", false, find},
		{"tar-cold", true, sizeOfTar},
	} {
		b.Run("do="+work.name, func(b *testing.B) {
			var contestants []measure.Contestant
			results, cpu := make(map[string]bool), make(map[string]time.Duration)
			for _, s := range servers {
				contestants = append(contestants, measure.Contestant{Name: s.name, Run: func() (time.Duration, error) {
					if err := prepare(work.cold, s.dir, work.do); err != nil {
						return 0, err
					}
					before, err := processorTime(s.pid)
					if err != nil {
						return 0, err
					}
					begin := time.Now()
					result, client, err := work.do(s.dir)
					if err != nil {
						return 0, err
					}
					took := time.Since(begin)
					after, err := processorTime(s.pid)
					results[result] = true
					if spent := client + after - before; cpu[s.name] == 0 || spent < cpu[s.name] {
						cpu[s.name] = spent
					}
					return took, err
				}})
			}
			least := measure.Contest(b, contestants...)
			if len(results) > 1 {
				b.Errorf("results differ: %v", results)
			}
			for _, s := range servers {
				b.ReportMetric(least[s.name].Seconds(), s.name+"-s")
				b.ReportMetric(float64(cpu[s.name].Nanoseconds())/float64(files), s.name+"-cpu-ns/file")
			}
			for _, s := range servers[1:] {
				b.ReportMetric(float64(least["imgfs"])/float64(least[s.name]), "imgfs/"+s.name+"-time")
				b.ReportMetric(float64(cpu["imgfs"])/float64(cpu[s.name]), "imgfs/"+s.name+"-cpu")
			}
		})
	}
}

func processorTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	return measure.ProcessorTime(pid)
}

// serveForest mounts an image of many files, for as long as the benchmark runs, and tells how many there are.
func serveForest(b *testing.B) (servers []server, files int64) {
	b.Helper()
	im, h := manyFiles(b, "many"), newHost(b)
	layers := unpackedLayers(b, im)
	ours := h.mount(b, inLayout(im))
	state := h.state(b, ours)
	kernel, fuse := h.mkdir(b), h.mkdir(b)
	keep := func(unmount func() error, err error) {
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := unmount(); err != nil {
				b.Error(err)
			}
		})
	}
	keep(peer.MountOverlay(layers, kernel))
	unmount, pid, err := peer.MountFuseOverlay(b.Context(), layers, fuse)
	keep(unmount, err)
	return []server{{"imgfs", ours, state.PID}, {"overlayfs", kernel, 0}, {"fuse-overlayfs", fuse, pid}}, state.Stats.Files
}

// unpackedLayers makes or finds the layers of an image unpacked, a directory each, the lowest first.
func unpackedLayers(b *testing.B, im images.Image) (layers []string) {
	b.Helper()
	blobs, err := peer.LayerBlobs(b.Context(), im.Layout, im.Tag)
	if err != nil {
		b.Fatal(err)
	}
	dir, err := kept.Dir("unpacked", embed.FS{}, fmt.Sprint(blobs), func(_, out string) error {
		var g errgroup.Group
		for i, blob := range blobs {
			layer := filepath.Join(out, fmt.Sprint(i))
			if err := os.Mkdir(layer, 0o755); err != nil {
				return err
			}
			g.Go(func() error { return peer.Untar(b.Context(), blob, layer) })
		}
		return g.Wait()
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range blobs {
		layers = append(layers, filepath.Join(dir, fmt.Sprint(i)))
	}
	return layers
}

// find lists a tree. It returns how many files that has, and the processor time it took.
func find(dir string) (string, time.Duration, error) { return shell(`find "$1" -ls | wc -l`, dir) }

// sizeOfTar has GNU tar read all of a tree, as it would not if it wrote to /dev/null. It returns the size of the archive, and the
// processor time that tar took.
func sizeOfTar(dir string) (string, time.Duration, error) {
	return shell(`tar -C "$1" -cf - . | wc -c`, dir)
}

func shell(script, argument string) (out string, cpu time.Duration, err error) {
	cmd := exec.Command("sh", "-c", "set -e; "+script, "sh", argument)
	b, err := cmd.Output()
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", cmd.Args, err)
	}
	return strings.TrimSpace(string(b)), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// prepare has the kernel know nothing of a tree but all of the programs, or all of both.
func prepare(cold bool, dir string, do func(string) (string, time.Duration, error)) error {
	if cold {
		if err := measure.DropCaches(); err != nil {
			return err
		}
		dir = "/usr/share/doc/base-files"
	}
	_, _, err := do(dir)
	return err
}

// BenchmarkMemory gives the peak memory of a server after find and tar have gone over all of its tree: of the mount that made the
// indexes, and of the next one.
func BenchmarkMemory(b *testing.B) {
	for _, tag := range []string{"many", "most"} {
		b.Run("image="+tag, func(b *testing.B) {
			im := manyFiles(b, tag)
			most := make(map[string]int64)
			var files int64
			for b.Loop() {
				h := newHost(b)
				for _, mount := range []string{"first", "second"} {
					dir := h.mount(b, inLayout(im))
					before := h.state(b, dir)
					files = before.Stats.Files
					mounted := peak(b, before.PID)
					for _, work := range []func(string) (string, time.Duration, error){find, sizeOfTar} {
						if _, _, err := work(dir); err != nil {
							b.Fatal(err)
						}
					}
					most[mount+"-mounted"] = max(most[mount+"-mounted"], mounted)
					most[mount] = max(most[mount], peak(b, before.PID))
					h.umount(b, dir)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(files), "files")
			for name, n := range most {
				b.ReportMetric(float64(n)/1e6, name+"-MB")
			}
		})
	}
}

func peak(b *testing.B, pid int) int64 {
	b.Helper()
	n, err := measure.PeakMemory(pid)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkMount gives the time from the start of "imgfs mount" to the first answer from the tree, where all indexes are cached.
func BenchmarkMount(b *testing.B) {
	im, h := manyFiles(b, "many"), newHost(b)
	h.umount(b, h.mount(b, inLayout(im)))
	var files int64
	least := measure.Contest(b, measure.Contestant{Name: "mount", Run: func() (took time.Duration, err error) {
		dir := h.mkdir(b)
		took, err = measure.Wall(func() error {
			_, err := peer.RunCmd(h.command("mount", inLayout(im), dir))
			if err == nil {
				_, err = os.Stat(filepath.Join(dir, "srv/0"))
			}
			return err
		})
		if err == nil {
			files = h.state(b, dir).Stats.Files
			h.umount(b, dir)
		}
		return took, err
	}})
	b.ReportMetric(float64(least["mount"].Milliseconds()), "ms")
	b.ReportMetric(float64(least["mount"].Nanoseconds())/float64(files), "ns/file")
}
