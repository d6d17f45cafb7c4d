package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgfs/e2e/internal/peer"
	"imgfs/internal/measure"
)

// goSource is where the image has some ten thousand files.
const goSource = "usr/share/go-1.19"

// upperWorks are what BenchmarkUpper does in a mount; inputs has source.tar and the repository repo.
var upperWorks = []struct {
	name string
	do   func(mnt, inputs string) error
}{
	{"untar", func(mnt, inputs string) error {
		return command("tar", "-xf", inputs+"/source.tar", "-C", mkdir(mnt, "untar"))
	}},
	{"clone", func(mnt, inputs string) error {
		return command("sh", "-ec", `git clone -q "$0" "$1" && git -C "$1" status --porcelain`, inputs+"/repo", mnt+"/clone")
	}},
	{"copy", func(mnt, _ string) error { return command("cp", "-a", filepath.Join(mnt, goSource), mnt+"/copy") }},
	{"remove", func(mnt, _ string) error { return command("rm", "-rf", filepath.Join(mnt, goSource)) }},
	{"sqlite", func(mnt, _ string) error {
		return command("sh", "-ec", `cd "$0"; (echo "create table t(a);"; for i in $(seq 200); do echo "insert into t values($i);"; done) | sqlite3 db`, mnt)
	}},
	{"sequential", func(mnt, _ string) error { return sequential(mnt + "/file") }},
	{"random-4k", func(mnt, _ string) error { return random4k(mnt + "/file") }},
}

func command(name string, args ...string) error {
	_, err := peer.RunCmd(exec.Command(name, args...))
	return err
}

func mkdir(dir, name string) string {
	path := filepath.Join(dir, name)
	_ = os.Mkdir(path, 0o755) // who uses it says if that failed
	return path
}

// fileSize is of the files that are read and written in pieces, in bytes.
const fileSize = 256 << 20

// sequential writes a file and reads it, by a megabyte.
func sequential(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for range fileSize / len(buf) {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	for off := int64(0); off < fileSize; off += int64(len(buf)) {
		if _, err := f.ReadAt(buf, off); err != nil {
			return err
		}
	}
	return nil
}

// random4k writes and reads pages of a file, here and there.
func random4k(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(fileSize); err != nil {
		return err
	}
	r, page := rand.New(rand.NewPCG(1, 2)), make([]byte, 4096)
	for i := range 50_000 {
		off := int64(r.IntN(fileSize>>12)) << 12
		if i%2 == 0 {
			_, err = f.WriteAt(page, off)
		} else {
			_, err = f.ReadAt(page, off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkUpper does in a writable mount what people do, beside the kernel's overlayfs and fuse-overlayfs over the same layers
// unpacked, in turns, each time with an upper that is empty. A metric A/B-time is A's time in parts of B's.
func BenchmarkUpper(b *testing.B) {
	image, h := get(b, theImages).Full()[0], newHost(b)
	layers, inputs := unpackedLayers(b, image), upperInputs(b, h)
	for _, work := range upperWorks {
		b.Run("do="+work.name, func(b *testing.B) {
			var contestants []measure.Contestant
			for _, d := range drivers {
				contestants = append(contestants, measure.Contestant{Name: d.name, Run: func() (time.Duration, error) {
					u := peer.Upper{Layers: layers, Upper: h.mkdir(b), Work: h.mkdir(b)}
					mnt := h.mkdir(b)
					unmount := d.mount(b, h, u, inLayout(image), mnt)
					unix.Sync() // what the last one left is not this one's to write
					took, err := measure.Wall(func() error { return work.do(mnt, inputs) })
					unmount()
					for _, dir := range []string{u.Upper, u.Work, mnt} {
						os.RemoveAll(dir)
					}
					return took, err
				}})
			}
			least := measure.Contest(b, contestants...)
			for _, d := range drivers {
				b.ReportMetric(least[d.name].Seconds(), d.metric+"-s")
			}
			for _, d := range drivers[2:] {
				b.ReportMetric(float64(least[drivers[0].name])/float64(least[d.name]), fmt.Sprintf("%s/%s-time", drivers[0].metric, d.metric))
			}
			b.ReportMetric(float64(least[drivers[1].name])/float64(least[drivers[2].name]), fmt.Sprintf("%s/%s-time", drivers[1].metric, drivers[2].metric))
		})
	}
}

// upperInputs makes what upperWorks work on: Go's own source, as a tar and in a repository.
func upperInputs(b *testing.B, h *host) string {
	b.Helper()
	dir := h.mkdir(b)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	err = command("tar", "-cf", dir+"/source.tar", "-C", filepath.Join(strings.TrimSpace(string(root)), "src"), ".")
	if err == nil {
		err = command("sh", "-ec", `mkdir "$0"; tar -xf "$1" -C "$0" ./cmd/compile ./net ./runtime ./crypto; cd "$0"; git init -q
			git add .; git -c user.name=x -c user.email=x@example.org commit -q -m x`, dir+"/repo", dir+"/source.tar")
	}
	if err != nil {
		b.Fatal(err)
	}
	return dir
}
