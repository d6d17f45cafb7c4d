// Command demo shows imgfs at work: it makes an image of the Go toolchain that is running it, serves it from a registry
// on a loopback port, mounts it and runs the compiler in it, tells how few of its bytes
// that took, and writes in it.
//
//	go build -o bin/imgfs ./cmd/imgfs && go run ./e2e/demo bin/imgfs
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/internal/testimage"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo IMGFS")
		os.Exit(3)
	}
	if err := demo(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// A stage is the demo's program and where it works.
type stage struct {
	imgfs string
	env   []string
	root  bool
}

func demo(program string) (err error) {
	program, err = filepath.Abs(program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "imgfs-demo-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{imgfs: program, root: os.Geteuid() == 0}
	s.env = append(os.Environ(), "IMGFS_CACHE_DIR="+filepath.Join(dir, "cache"), "XDG_RUNTIME_DIR="+dir)

	fmt.Println("Making an image of the Go toolchain…")
	im, err := toolchainImage()
	if err != nil {
		return err
	}
	registry := testimage.StartRegistry()
	defer registry.Close()
	registry.Push("demo/go", "latest", im.Bundle())
	ref := registry.Host() + "/demo/go:latest"
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		return err
	}

	fmt.Println("\nThe first mount streams and indexes each layer, once:")
	if err := s.timed("mount", ref, mnt); err != nil {
		return err
	}
	// Whatever happens below, nothing stays mounted.
	defer func() {
		if mounted(mnt) {
			err = errors.Join(err, s.imgfsRun("umount", "--lazy", mnt))
		}
	}()
	if err := s.imgfsRun("umount", mnt); err != nil {
		return err
	}
	fmt.Println("\nNow drop the layers' bytes and keep their indexes (a hundredth of them or so), and mount again:")
	if err := s.imgfsRun("cache", "rm", "--blobs"); err != nil {
		return err
	}
	if err := s.timed("mount", ref, mnt); err != nil {
		return err
	}
	if err := s.use(mnt); err != nil {
		return err
	}
	if err := s.report(); err != nil {
		return err
	}
	if err := s.imgfsRun("umount", mnt); err != nil {
		return err
	}
	if err := s.change(ref, mnt, filepath.Join(dir, "upper")); err != nil {
		return err
	}
	return s.imgfsRun("umount", mnt)
}

// change writes in the image, mounted with an upper, and shows what that changes, and what not.
func (s *stage) change(ref, mnt, upper string) error {
	fmt.Println("\nMount it once more, to write in it; what changes is in a directory of its own:")
	for _, c := range [][]string{
		{s.imgfs, "mount", "--upper", upper, ref, mnt},
		{"sh", "-c", "echo 'Written into the image.' >>" + mnt + "/etc/motd"},
		{"rm", "-r", mnt + "/usr/local/go/misc"},
		{s.imgfs, "diff", mnt},
		{"cat", mnt + "/etc/motd"},
		{s.imgfs, "cat", ref + ":/etc/motd"},
	} {
		if err := s.run(c...); err != nil {
			return err
		}
	}
	return nil
}

// use reads in the mount, and runs a program from it: as root, chrooted there.
func (s *stage) use(mnt string) error {
	fmt.Println("\nRead in it, and run the toolchain from it:")
	goTool := "/usr/local/go/bin/go"
	version := []string{"env", "GOROOT=/usr/local/go", "chroot", mnt, goTool, "version"}
	if !s.root {
		version = []string{"env", "GOROOT=" + mnt + "/usr/local/go", mnt + goTool, "version"}
	}
	for _, c := range [][]string{
		{"cat", mnt + "/etc/motd"},
		{"sh", "-c", "find " + mnt + " | wc -l"},
		{"head", "-n", "3", mnt + "/usr/local/go/src/fmt/print.go"},
		version,
	} {
		if err := s.run(c...); err != nil {
			return err
		}
	}
	return nil
}

// report tells what the mount fetched.
func (s *stage) report() error {
	cmd := exec.Command(s.imgfs, "ps", "--json")
	cmd.Env, cmd.Stderr = s.env, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("imgfs ps: %w", err)
	}
	var mounts []struct {
		Stats struct {
			BytesFetched int64 `json:"bytes_fetched"`
			ImageBytes   int64 `json:"image_bytes"`
			Requests     int64 `json:"requests"`
			SpansDecoded int64 `json:"spans_decoded"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(out, &mounts); err != nil {
		return err
	}
	if len(mounts) != 1 {
		return fmt.Errorf("imgfs ps shows %d mounts, want 1", len(mounts))
	}
	st := mounts[0].Stats
	fmt.Printf("\nThat took %.1f MB of the image's %.1f MB (%.1f%%), in %d requests; %d spans were decoded.\n\n",
		float64(st.BytesFetched)/1e6, float64(st.ImageBytes)/1e6, 100*float64(st.BytesFetched)/float64(st.ImageBytes), st.Requests, st.SpansDecoded)
	return nil
}

// timed runs imgfs and prints how long it took.
func (s *stage) timed(args ...string) error {
	start := time.Now()
	err := s.imgfsRun(args...)
	fmt.Printf("  (%.2f s)\n", time.Since(start).Seconds())
	return err
}

func (s *stage) imgfsRun(args ...string) error { return s.run(append([]string{s.imgfs}, args...)...) }

// run runs a command, as it is shown.
func (s *stage) run(args ...string) error {
	fmt.Println("  $", strings.Replace(strings.Join(args, " "), s.imgfs, "imgfs", 1))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		fmt.Print("    ", line)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func mounted(dir string) bool {
	table, err := os.ReadFile("/proc/self/mounts")
	return err == nil && bytes.Contains(table, []byte(" "+dir+" "))
}

// toolchainImage is an image of two layers: the Go toolchain, and one that adds a file and removes a directory.
func toolchainImage() (testimage.Image, error) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return testimage.Image{}, fmt.Errorf("go env GOROOT: %w", err)
	}
	base, err := layer(func(w *tar.Writer) error {
		return addTree(w, strings.TrimSpace(string(goroot)), "usr/local/go")
	})
	if err != nil {
		return testimage.Image{}, err
	}
	top, err := layer(func(w *tar.Writer) error {
		motd := "Mounted lazily by imgfs.\n"
		return errors.Join(
			addFile(w, "etc/motd", strings.NewReader(motd), int64(len(motd))),
			addFile(w, "usr/local/go/.wh.test", strings.NewReader(""), 0),
		)
	})
	return testimage.Image{
		Layers:   []testimage.Layer{base, top},
		Platform: v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH},
		Config:   v1.ImageConfig{Cmd: []string{"/usr/local/go/bin/go", "version"}},
	}, err
}

func layer(fill func(*tar.Writer) error) (testimage.Layer, error) {
	var plain, blob bytes.Buffer
	z, err := gzip.NewWriterLevel(&blob, gzip.BestSpeed)
	if err != nil {
		return testimage.Layer{}, err
	}
	w := tar.NewWriter(io.MultiWriter(&plain, z))
	err = errors.Join(fill(w), w.Close(), z.Close())
	return testimage.NewLayer(blob.Bytes(), plain.Bytes()), err
}

func addFile(w *tar.Writer, name string, content io.Reader, size int64) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := io.Copy(w, content)
	return err
}

// addTree adds what is below dir as name.
func addTree(w *tar.Writer, dir, name string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = name + strings.TrimPrefix(path, dir)
		h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}
