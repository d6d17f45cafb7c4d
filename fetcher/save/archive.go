package save

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
)

// writeArchive writes an archive to a path, where nothing may be but an empty file, or to stdout.
func writeArchive(path string, stdout io.Writer, fill func(target) error) error {
	if path == fetcher.Stdout {
		a := &archive{w: stdout, name: "standard output"}
		if err := fill(a); err != nil {
			return err
		}
		return a.end()
	}
	if info, err := os.Stat(path); err == nil && (!info.Mode().IsRegular() || info.Size() > 0) {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, temporary+base+"-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	err = fillFile(f, path, fill)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(dir)
}

func fillFile(f *os.File, name string, fill func(target) error) error {
	a := &archive{w: f, name: name, file: f}
	if err := fill(a); err != nil {
		return err
	}
	if err := a.end(); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// An archive is a target that is a tar.
type archive struct {
	w    io.Writer
	name string
	file *os.File // nil for what cannot be written anew
	good int64    // bytes of file that are good
	torn error    // what has left something in w that should not be there
}

// holds tells nothing: files are added once.
func (a *archive) holds(context.Context, string, v1.Descriptor) bool { return false }

func (a *archive) add(name string, size int64, r io.Reader) (err error) {
	if err := a.mend(); err != nil {
		return err
	}
	t := tar.NewWriter(a.w)
	if err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err == nil {
		_, err = io.Copy(t, r)
	}
	if err == nil {
		err = t.Flush() // not Close: there are more to come
	}
	if err == nil && a.file != nil {
		a.good, err = a.file.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		a.torn = fmt.Errorf("%s of %s: %w", name, a.name, err)
	}
	return a.torn
}

// mend goes back to the end of what is good.
func (a *archive) mend() error {
	if a.torn == nil || a.file == nil {
		return a.torn
	}
	if _, err := a.file.Seek(a.good, io.SeekStart); err != nil {
		return err
	}
	if err := a.file.Truncate(a.good); err != nil {
		return err
	}
	a.torn = nil
	return nil
}

// end writes the end of the archive.
func (a *archive) end() error { return tar.NewWriter(a.w).Close() }
