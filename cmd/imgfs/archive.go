package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

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
	mu   sync.Mutex                  // protects the following
	open map[fetcher.TarFile]tarFile // by name and stamp; no blobs
}

// openTar opens a tar file, which stays open as long as the session. Its index is in the cache, by its digest.
func (s *session) openTar(ctx context.Context, file fetcher.TarFile) (fetcher.Tar, error) {
	s.tars.mu.Lock()
	defer s.tars.mu.Unlock()
	key := fetcher.TarFile{Name: file.Name, Stamp: file.Stamp}
	if t, ok := s.tars.open[key]; ok {
		file.Blob.Close()
		return t, nil
	}
	inner := &session{app: s.app, cache: s.cache, memory: cache.NewMemory(tarMemory)}
	t := tarFile{&layer{session: inner, src: file.Blob, label: filepath.Base(file.Name)}}
	if err := t.prepare(ctx, file); err != nil {
		t.close()
		return nil, err
	}
	if s.tars.open == nil {
		s.tars.open = map[fetcher.TarFile]tarFile{}
	}
	s.tars.open[key] = t
	return t, nil
}

func (t *tarFiles) close() {
	for _, file := range t.open {
		file.close()
	}
}

// prepare opens the index of a file, or builds it.
func (t tarFile) prepare(ctx context.Context, file fetcher.TarFile) (err error) {
	s := t.session
	t.Size = file.Blob.Size()
	if !file.Blob.Local() {
		t.Digest = s.rememberedDigest(file)
	} else if t.Digest, err = s.fileDigest(ctx, file); err != nil {
		return err
	}
	p := s.app.newProgress("indexing")
	var x *indexed
	if t.Digest != "" {
		x, err = t.openIndex(ctx, p)
	} else {
		x, err = t.openUnnamed(ctx, file, p)
	}
	p.wait()
	if err != nil {
		return err
	}
	if err := t.openBlob(); err != nil {
		x.close()
		return err
	}
	t.use(x)
	t.DiffID, t.MediaType = x.index.DiffID(), mediaTypes[x.index.Format()]
	return nil
}

// openUnnamed builds the index of a file that is elsewhere, and whose digest nothing tells before all of it has been fetched.
func (t tarFile) openUnnamed(ctx context.Context, file fetcher.TarFile, p *progress) (*indexed, error) {
	t.Digest, t.unnamed = standIn(file), true
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if known := t.session.rememberedDigest(file); known != "" { // whoever held the lock has found it
		t.Digest, t.unnamed = known, false
		return t.openIndex(ctx, p)
	}
	if err := t.openBlob(); err != nil {
		return nil, err
	}
	if file.Stamp == "" {
		t.blob.Distrust() // what was fetched last time may be of another file
	}
	x, err := t.build(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := t.settle(x.index.Blob()); err != nil {
		x.close()
		return nil, err
	}
	t.session.remember(file, t.Digest)
	return x, nil
}

// settle gives a file its digest, by which what there is of it goes from then on.
func (t tarFile) settle(d digest.Digest) error {
	if err := t.blob.Close(); err != nil {
		return err
	}
	t.blob = nil
	if err := t.session.cache.Rename(t.Digest, d); err != nil {
		return err
	}
	t.Digest, t.unnamed = d, false
	return nil
}

// standIn is what a file goes by in the cache until its digest is known: by another one when it has another stamp, and also when
// the machine has been started anew. After a power failure nothing would tell that what there is of the file is torn.
func standIn(file fetcher.TarFile) digest.Digest {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = []byte(rand.Text())
	}
	return digest.FromString(fmt.Sprintf("%q %q %q", file.Name, file.Stamp, boot))
}

// mediaTypes are OCI's media types of layers.
var mediaTypes = map[index.Format]string{
	index.Tar: v1.MediaTypeImageLayer, index.Gzip: v1.MediaTypeImageLayerGzip, index.Zstd: v1.MediaTypeImageLayerZstd,
}

// fileDigest is the digest of a file that is here. It is computed once for each stamp.
func (s *session) fileDigest(ctx context.Context, file fetcher.TarFile) (digest.Digest, error) {
	if d := s.rememberedDigest(file); d != "" {
		return d, nil
	}
	d, err := s.readDigest(file.Name, file.Blob.Size(), until(ctx, io.NewSectionReader(file.Blob, 0, file.Blob.Size())))
	if err == nil {
		s.remember(file, d)
	}
	return d, err
}

func (s *session) readDigest(name string, size int64, r io.Reader) (digest.Digest, error) {
	p := s.app.newProgress("reading")
	defer p.wait()
	bar := p.start(filepath.Base(name), size)
	defer bar.done()
	return digest.FromReader(bar.reader(r, nothingCached))
}

// rememberedDigest is the digest of a file that has been seen with this stamp; "" otherwise. Should it be wrong one day, the
// index notices: there is a digest for every span.
func (s *session) rememberedDigest(file fetcher.TarFile) digest.Digest {
	known, err := s.cache.Ref(file.Name)
	if err != nil || file.Stamp == "" || known.MediaType != file.Stamp {
		return ""
	}
	return known.Digest
}

func (s *session) remember(file fetcher.TarFile, d digest.Digest) {
	if file.Stamp == "" {
		return
	}
	if err := s.cache.PutRef(cache.Ref{Name: file.Name, Digest: d, MediaType: file.Stamp, Time: time.Now()}); err != nil {
		s.app.log.Info("the digest of a file is not remembered", "name", file.Name, "why", err)
	}
}
