package fetcher

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// A folder is where the files of an image are: a directory or an archive.
type folder interface {
	// open opens a regular file for reading at random. It wraps ErrNotFound where there is none of that name.
	open(name string) (openFile, error)
	// location returns the path of the folder itself, for messages.
	location() string
}

// An openFile is a file that is open until it is closed. It is safe for concurrent use.
type openFile struct {
	io.ReaderAt
	io.Closer
	size int64
}

// A directory is a folder whose files are opened below it: a symbolic link that leads out of it is refused, and so is
// all that is not a regular file.
type directory string

func (d directory) location() string { return string(d) }

// open opens a regular file. A FIFO in its place does not block.
func (d directory) open(name string) (openFile, error) {
	root, err := os.OpenRoot(string(d))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return openFile{}, errorf(ErrNotFound, "%s: there is no such directory", d)
	}
	if err != nil {
		return openFile{}, err
	}
	defer root.Close()
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return openFile{}, hasNoFile(d, name)
	}
	if err != nil {
		return openFile{}, fmt.Errorf("%s: %w", d, err)
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errorf(ErrMalformed, "%s in %s is not a regular file", name, d)
	}
	if err != nil {
		file.Close()
		return openFile{}, err
	}
	return openFile{file, file, fi.Size()}, nil
}

func hasNoFile(f folder, name string) error {
	return errorf(ErrNotFound, "%s has no file %s", f.location(), printable(name))
}

// readFile returns the content of a file of at most limit bytes.
func readFile(f folder, name string, limit int64) ([]byte, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	what := fmt.Sprintf("%s in %s", printable(name), f.location())
	if file.size > limit {
		return nil, tooLarge(what, limit)
	}
	b, err := io.ReadAll(io.NewSectionReader(file, 0, file.size))
	if err == nil && int64(len(b)) < file.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

func tooLarge(what string, limit int64) error {
	amount, unit := limit>>20, "MiB"
	if amount == 0 {
		amount, unit = limit>>10, "KiB"
	}
	return errorf(ErrMalformed, "%s is larger than %d %s, and is refused", what, amount, unit)
}

// readBlobFile opens a layer that is a file of a folder.
func readBlobFile(f folder, name string, ref Reference, l Layer) (*Blob, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	if file.size != l.Size {
		file.Close()
		return nil, &MismatchError{
			What:     fmt.Sprintf("size of layer %s of %s", l.Digest, ref.Name()),
			Expected: fmt.Sprint(l.Size), Found: fmt.Sprint(file.size),
		}
	}
	return &Blob{impl: &fileBlob{file}}, nil
}
