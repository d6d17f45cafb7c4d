package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/index"
)

// A tarFile is a tar of the user's, read at random by its index as a layer is: a compressed archive of images, or a root
// file system.
type tarFile struct{ *layer }

// Entries gives what is in the tar. It goes on where it was when the index turns out to be damaged, and has been built anew.
func (t tarFile) Entries() iter.Seq2[fetcher.TarEntry, error] {
	return func(yield func(fetcher.TarEntry, error) bool) {
		given := 0
		for range maxRebuilds {
			damaged, i := false, 0
			for e, err := range t.entries() {
				if damaged = errors.Is(err, index.ErrDamaged); damaged {
					break
				}
				if i++; err == nil && i <= given {
					continue
				}
				if !yield(tarEntry(e), err) || err != nil {
					return
				}
				given++
			}
			if !damaged {
				return
			}
		}
		yield(fetcher.TarEntry{}, index.ErrDamaged)
	}
}

func tarEntry(e *index.Entry) fetcher.TarEntry {
	if e == nil {
		return fetcher.TarEntry{}
	}
	found := fetcher.TarEntry{Name: e.Name, Linkname: e.Linkname, Type: e.Type, Size: e.Size}
	switch {
	case e.Size == 0:
	case len(e.Extents) == 1 && e.Extents[0].Length == e.Size:
		found.Offset = e.Extents[0].Offset
	default:
		found.Offset = -1
	}
	return found
}

// Layer describes the file.
func (t tarFile) Layer() fetcher.Layer { return t.layer.Layer }

// tarMemory is the memory for decoded spans of archives. What is read of them is decoded once more and kept as the spans
// of layers, so it need not be kept for long.
const tarMemory = 16 << 20

// A tarFiles is the tar files that a session has open.
type tarFiles struct {
	mu   sync.Mutex // protects the following
	open map[string]tarFile
}

// openTar opens a tar file, which stays open as long as the session. Its index is in the cache, by its digest.
func (s *session) openTar(ctx context.Context, path string) (fetcher.Tar, error) {
	s.tars.mu.Lock()
	defer s.tars.mu.Unlock()
	if t, ok := s.tars.open[path]; ok {
		return t, nil
	}
	t, err := s.newTarFile(ctx, path)
	if err != nil {
		return nil, err
	}
	if s.tars.open == nil {
		s.tars.open = map[string]tarFile{}
	}
	s.tars.open[path] = t
	return t, nil
}

func (t *tarFiles) close() {
	for _, file := range t.open {
		file.close()
	}
}

func (s *session) newTarFile(ctx context.Context, path string) (_ tarFile, err error) {
	file, err := os.Open(path)
	if err != nil {
		return tarFile{}, err
	}
	src, err := fetcher.FileBlob(file)
	if err != nil {
		return tarFile{}, err
	}
	l := &layer{session: &session{app: s.app, cache: s.cache, memory: cache.NewMemory(tarMemory)}, src: src}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	l.Size = l.src.Size()
	if l.Digest, err = s.fileDigest(ctx, file); err != nil {
		return tarFile{}, err
	}
	p := s.app.newProgress()
	x, err := l.openIndex(ctx, p)
	p.wait()
	if err != nil {
		return tarFile{}, err
	}
	l.use(x)
	l.DiffID = x.index.DiffID()
	return tarFile{l}, nil
}

// fileDigest returns the digest of a file. It is computed once, and remembered with what tells that a file is the same
// still. Should that be wrong, the reader of the index notices: every span has a digest of its own.
func (s *session) fileDigest(ctx context.Context, file *os.File) (digest.Digest, error) {
	name, err := filepath.Abs(file.Name())
	if err != nil {
		return "", err
	}
	stamp, last, err := fileStamp(file)
	if err != nil {
		return "", err
	}
	if known, err := s.cache.Ref(name); err == nil && known.MediaType == stamp {
		return known.Digest, nil
	}
	started := time.Now()
	d, err := digest.FromReader(until(ctx, io.NewSectionReader(file, 0, 1<<63-1)))
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if after, _, err := fileStamp(file); err != nil || after != stamp {
		return "", fmt.Errorf("%s has been changed while it was read", name)
	}
	// Times of files go by ticks of some milliseconds: a change right after the last one may not show.
	if started.Sub(last) > time.Second {
		err := s.cache.PutRef(cache.Ref{Name: name, Digest: d, MediaType: stamp, Time: started})
		if err != nil {
			s.app.log.Info("the digest of a file is not remembered", "path", name, "why", err)
		}
	}
	return d, nil
}

// fileStamp returns what a file has that is another when it has been changed, and when that was last. It has the form of
// a media type.
func fileStamp(file *os.File) (string, time.Time, error) {
	info, err := file.Stat()
	if err != nil {
		return "", time.Time{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", time.Time{}, fmt.Errorf("%s: its inode is not known", file.Name())
	}
	stamp := fmt.Sprintf("application/x-tar; file=%x-%x-%x-%x-%x", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
	return stamp, time.Unix(0, max(st.Mtim.Nano(), st.Ctim.Nano())), nil
}
