package fetcher

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
)

// A Tar is a tar file, compressed or not, that can be read at random. It is safe for concurrent use.
type Tar interface {
	// ReadAt reads the tar, decompressed.
	io.ReaderAt
	// Entries gives what is in the tar, in order, or an error, after which there is nothing more.
	Entries() iter.Seq2[TarEntry, error]
	// Layer describes the file as the blob of a layer, with one of OCI's media types.
	Layer() Layer
}

// A TarEntry is one thing in a tar.
type TarEntry struct {
	Name, Linkname string // as the tar has them
	Type           byte   // the type flag, as archive/tar has it
	Offset, Size   int64  // where the content is in the tar; Offset is negative where it is in pieces, i.e. sparse
}

// Bounds of what is remembered of an archive: far more than any image has.
const (
	maxMembers     = 1 << 16
	maxMemberNames = 16 << 20 // bytes
	maxLinks       = 40       // symbolic links in a row, as Linux has it
	maxPath        = 1 << 10  // bytes of a name that is looked for: each piece of it may be a link
)

// errTooMany is the kind of error of an archive that goes over the bounds.
var errTooMany = fmt.Errorf("%w: too many files", ErrMalformed)

// An archive is a tar that is a folder. Its files are read where they stand in it. Names are cleaned, as if the archive
// were unpacked into an empty root; links lead nowhere out of it. Of several files of one name the last one counts.
type archive struct {
	path    string
	tar     Tar         // nil for a plain file
	info    os.FileInfo // of the plain file
	members map[string]member
	entries int // that have been added
	names   int // bytes of their names
}

// A member is a regular file in an archive, or a symbolic link.
type member struct {
	offset, size int64
	link         bool
	target       string // of a link: the cleaned name it leads to; "" is the root
}

// openArchive looks through the tar file at path: a plain one by its headers, one that is compressed through the options.
func (f *Fetcher) openArchive(ctx context.Context, path string) (*archive, error) {
	file, info, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	format, err := tarFormat(file, path)
	if err != nil {
		return nil, err
	}
	a := &archive{path: path, info: info, members: map[string]member{}}
	if format == plain {
		return a, a.addAll(ctx, tarEntries(io.NewSectionReader(file, 0, info.Size())))
	}
	if a.tar, err = f.openTar(ctx, Reference{transport: byContent, path: path}); err != nil {
		return nil, err
	}
	return a, a.addAll(ctx, a.tar.Entries())
}

// openPlain opens a regular file. A FIFO in its place does not block.
func openPlain(path string) (*os.File, os.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil, errorf(ErrNotFound, "%s: there is no such file", path)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errorf(ErrReference, "%s is not a regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// tarEntries gives the entries of a plain tar. It reads no content but that of headers.
func tarEntries(r io.ReadSeeker) iter.Seq2[TarEntry, error] {
	return func(yield func(TarEntry, error) bool) {
		t := tar.NewReader(r)
		for {
			h, err := t.Next()
			if err == io.EOF {
				return
			}
			if h == nil {
				yield(TarEntry{}, err)
				return
			}
			// archive/tar reads no further than it has to, and does not keep what it has read.
			e := TarEntry{Name: h.Name, Linkname: h.Linkname, Type: h.Typeflag, Size: h.Size, Offset: -1}
			if !isSparse(h) {
				if e.Offset, err = r.Seek(0, io.SeekCurrent); err != nil {
					yield(TarEntry{}, err)
					return
				}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (a *archive) addAll(ctx context.Context, entries iter.Seq2[TarEntry, error]) error {
	for e, err := range entries {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil && a.tar == nil && !errors.Is(err, context.Cause(ctx)) {
			err = a.malformed(err)
		}
		if err == nil {
			err = a.add(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// malformed makes an error of what the headers of a plain file led to.
func (a *archive) malformed(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	if a.entries == 0 {
		return errorf(ErrMalformed, "%s is not a tar: %s", a.path, printable(err.Error()))
	}
	return errorf(ErrMalformed, "%s is malformed after %d entries: %s", a.path, a.entries, printable(err.Error()))
}

func (a *archive) add(e TarEntry) error {
	name := clean(e.Name)
	a.entries++
	a.names += len(name) + len(e.Linkname)
	if a.entries > maxMembers || a.names > maxMemberNames {
		return errorf(errTooMany, "%s has more than %d files, or names of more than %d MiB: too many for an archive of an image",
			a.path, maxMembers, maxMemberNames>>20)
	}
	m := member{offset: e.Offset, size: e.Size}
	switch e.Type {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	case tar.TypeSymlink:
		m.link, m.target = true, clean(e.Linkname)
		if !path.IsAbs(e.Linkname) {
			m.target = clean(path.Join(path.Dir(name), e.Linkname))
		}
	case tar.TypeLink:
		var ok bool
		if m, ok = a.members[clean(e.Linkname)]; !ok {
			delete(a.members, name)
			return nil
		}
	default:
		delete(a.members, name)
		return nil
	}
	a.members[name] = m
	return nil
}

// clean returns a name without a slash in front, "." or "..", as seen from the root of an archive.
func clean(name string) string { return strings.TrimPrefix(path.Join("/", name), "/") }

// find returns the regular file that a name leads to, and the name that it is stored under.
func (a *archive) find(name string) (string, member, error) {
	at := clean(name)
	for range maxLinks {
		if len(at) > maxPath {
			return "", member{}, hasNoFile(a, name)
		}
		m, link, rest := a.step(at)
		if link == "" {
			if m == nil {
				return "", member{}, hasNoFile(a, name)
			}
			return at, *m, nil
		}
		at = clean(path.Join(a.members[link].target, rest))
	}
	return "", member{}, errorf(ErrMalformed, "%s in %s leads through more than %d symbolic links", printable(name), a.path, maxLinks)
}

// step looks a cleaned name up. Where a symbolic link is on the way, it returns the link, and what comes after it.
func (a *archive) step(name string) (m *member, link, rest string) {
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if found, ok := a.members[name[:i]]; ok && found.link {
			return nil, name[:i], name[i:]
		} else if ok && i == len(name) {
			return &found, "", ""
		}
	}
	return nil, "", ""
}

func (a *archive) has(name string) bool {
	_, _, err := a.find(name)
	return err == nil
}

func (a *archive) location() string { return a.path }

// stamp is another one when the archive has been changed; "" where that could not be told.
func (a *archive) stamp() string {
	if a.tar != nil {
		return "application/x-tar; archive=" + a.tar.Layer().Digest.Encoded()
	}
	return fileStamp(a.info)
}

func (a *archive) open(name string) (openFile, error) {
	_, m, err := a.find(name)
	if err != nil {
		return openFile{}, err
	}
	if m.offset < 0 {
		return openFile{}, unsupported("%s in %s is stored as a sparse file, and cannot be read in place", printable(name), a.path)
	}
	if a.tar != nil {
		t := &tarHandle{tar: a.tar}
		return openFile{io.NewSectionReader(t, m.offset, m.size), t, m.size}, nil
	}
	file, err := a.reopen()
	if err != nil {
		return openFile{}, err
	}
	return openFile{io.NewSectionReader(file, m.offset, m.size), file, m.size}, nil
}

// reopen opens the file again, and checks that it is the one whose headers have been read.
func (a *archive) reopen() (*os.File, error) {
	file, info, err := openPlain(a.path)
	if err != nil {
		return nil, err
	}
	if !os.SameFile(info, a.info) || info.Size() != a.info.Size() || !info.ModTime().Equal(a.info.ModTime()) {
		file.Close()
		return nil, fmt.Errorf("%s has been changed while it was read", a.path)
	}
	return file, nil
}

// A tarHandle is a Tar for one reader, who may close it.
type tarHandle struct {
	tar    Tar
	closed atomic.Bool
}

func (t *tarHandle) ReadAt(p []byte, off int64) (int, error) {
	if t.closed.Load() {
		return 0, fs.ErrClosed
	}
	return t.tar.ReadAt(p, off)
}

func (t *tarHandle) Close() error {
	t.closed.Store(true)
	return nil
}
