package save

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// temporary begins the names of files that are not whole yet.
const temporary = ".imgfs-"

// A directory is a target in the file system. Nothing is written outside of it, whatever links it has.
type directory struct {
	path string
	root *os.Root
	made bool // it was not there before

	mu    sync.Mutex // protects the following
	added []string
}

// openDirectory opens a directory, and makes it where there is none.
func openDirectory(path string) (*directory, error) {
	err := os.Mkdir(path, 0o777)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, openErr := os.OpenRoot(path)
	if openErr != nil {
		return nil, openErr
	}
	return &directory{path: path, root: root, made: err == nil}, nil
}

func (d *directory) close() error { return d.root.Close() }

func (d *directory) isEmpty() (bool, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

func (d *directory) holds(ctx context.Context, name string, want v1.Descriptor) bool {
	f, err := d.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != want.Size {
		return false
	}
	v := want.Digest.Verifier()
	_, err = io.Copy(v, readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return f.Read(p)
	}))
	return err == nil && v.Verified()
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (d *directory) add(name string, size int64, r io.Reader) error {
	err := d.root.MkdirAll(path.Dir(name), 0o777)
	if err == nil {
		err = d.addWhole(name, size, r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(d.path, name), err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.added = append(d.added, name)
	return nil
}

func (d *directory) addWhole(name string, size int64, r io.Reader) error {
	temp := temporary + rand.Text()
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes, and not %d", n, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, d.root.Remove(temp))
	}
	return nil
}

// undo removes what has been added, and the directory if it has been made.
func (d *directory) undo() error {
	var failed error
	for _, name := range d.added {
		failed = errors.Join(failed, d.root.Remove(name))
	}
	if d.made {
		failed = errors.Join(failed, os.Remove(d.path))
	}
	return failed
}
