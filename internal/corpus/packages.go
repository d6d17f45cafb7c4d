package corpus

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A kind is one kind of data: files of Debian packages or of the Go toolchain.
type kind struct {
	name     string
	packages []string // of Debian; none means the sources of the Go toolchain
	suffix   string   // of the names of files that are wanted
	start    string   // of the content of files that are wanted
}

var kinds = []kind{
	{name: "elf", packages: []string{"git", "cpp-12"}, start: "\x7fELF"},
	{name: "text", packages: []string{"python3.11-doc"}, suffix: ".html"},
	{name: "python", packages: []string{"libpython3.11-stdlib", "python3-sympy"}, suffix: ".py"},
	{name: "go", suffix: ".go"},
}

// errFull is returned when a tar has its size.
var errFull = errors.New("the tar is full")

// write makes a tar of about the given size. The last file in it is cut short.
func (k *kind) write(ctx context.Context, work, file string, size int64) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	left := size
	add := func(h *tar.Header, r io.Reader) error {
		b := bufio.NewReader(r)
		start, err := b.Peek(len(k.start))
		if err != nil && err != io.EOF {
			return err
		}
		if h.Typeflag != tar.TypeReg || !strings.HasSuffix(h.Name, k.suffix) || string(start) != k.start {
			return nil
		}
		h.Size = min(h.Size, left)
		if left -= h.Size + 512; left <= 0 {
			err = errFull
		}
		return errors.Join(copyEntry(w, h, b), err)
	}
	if k.packages == nil {
		err = eachSource(ctx, add)
	} else {
		err = eachPackaged(ctx, work, k.packages, add)
	}
	switch {
	case errors.Is(err, errFull):
		return w.Close()
	case err == nil:
		err = fmt.Errorf("there are too few files: %d bytes are missing", left)
	}
	return fmt.Errorf("the tar of %s: %w", k.name, err)
}

func copyEntry(w *tar.Writer, h *tar.Header, r io.Reader) error {
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyN(w, r, h.Size)
	return err
}

// eachSource calls add for the source files of the Go toolchain.
func eachSource(ctx context.Context, add func(*tar.Header, io.Reader) error) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	top := filepath.Join(strings.TrimSpace(string(root)), "src")
	return filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = "usr/local/go/src" + strings.TrimPrefix(name, top)
		return add(h, f)
	})
}

// eachPackaged calls add for all that Debian packages hold, in order.
func eachPackaged(ctx context.Context, work string, packages []string, add func(*tar.Header, io.Reader) error) error {
	for _, p := range packages {
		if err := eachOf(ctx, work, p, add); err != nil {
			return fmt.Errorf("package %s: %w", p, err)
		}
	}
	return nil
}

// eachOf downloads a package into the directory work, unless it is there, and calls add for all that it holds.
func eachOf(ctx context.Context, work, name string, add func(*tar.Header, io.Reader) error) (err error) {
	debs := filepath.Join(work, name+"_*.deb")
	found, _ := filepath.Glob(debs) // the pattern is right
	if len(found) == 0 {
		cmd := exec.CommandContext(ctx, "apt-get", "--quiet", "download", name)
		cmd.Dir = work
		if err := run(cmd); err != nil {
			return err
		}
		found, _ = filepath.Glob(debs)
	}
	if len(found) != 1 {
		return fmt.Errorf("%d files %s", len(found), debs)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", found[0])
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := eachEntry(tar.NewReader(out), add); err != nil {
		stop()
		_ = cmd.Wait() // it was told to end
		return err
	}
	if _, err := io.Copy(io.Discard, out); err != nil { // what stands after the end of the tar
		return err
	}
	return cmd.Wait()
}

func eachEntry(r *tar.Reader, add func(*tar.Header, io.Reader) error) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := add(h, r); err != nil {
			return err
		}
	}
}
