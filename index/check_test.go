package index

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

// formatsOf is one tar in each of the ways that a blob can hold it.
func formatsOf(t *testing.T) map[string]sample {
	tar, zipped := smallLayer(t)
	return map[string]sample{
		"gzip": {tar, zipped},
		"zstd": {tar, slices.Concat(img.Zstd(tar[:1024]), img.Zstd(tar[1024:]))},
		"tar":  {tar, tar},
	}
}

func TestACheckNoticesAnyChangedByteOfAnIndexAndItsFrames(t *testing.T) {
	for name, l := range formatsOf(t) {
		t.Run(name, func(t *testing.T) {
			x, frames := mustBuildBoth(t, l.blob)
			check(t, mustOpen(t, x).Check(bytes.NewReader(frames)))
			for _, file := range [][]byte{x, frames} {
				for i := range file {
					file[i] ^= 1 << (i % 8)
					index, err := Open(bytes.NewReader(x), int64(len(x)))
					if err == nil {
						err = index.Check(bytes.NewReader(frames))
					}
					if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrStale) {
						t.Fatalf("byte %d of %d: %v", i, len(file), err)
					}
					file[i] ^= 1 << (i % 8)
				}
			}
		})
	}
}

func TestACheckWithoutFramesOrWithoutADisk(t *testing.T) {
	tar := bytes.Repeat([]byte("large"), 2*maxSpan/5)
	x, frames := mustBuildBoth(t, img.Zstd(img.Tar(img.File("file", string(tar)))))
	if len(frames) == 0 {
		t.Fatal("no frames were made")
	}
	index := mustOpen(t, x)
	check(t, index.Check(bytes.NewReader(frames)))
	broken := errors.New("disk is broken")
	for name, want := range map[string]struct {
		frames io.ReaderAt
		err    error
	}{
		"none":    {nil, ErrDamaged},
		"a part":  {bytes.NewReader(frames[:len(frames)-1]), ErrDamaged},
		"no disk": {failingReaderAt{broken}, broken},
	} {
		if err := index.Check(want.frames); !errors.Is(err, want.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpansCoverABlobAndHaveItsDigests(t *testing.T) {
	for name, l := range formatsOf(t) {
		t.Run(name, func(t *testing.T) {
			index, end := mustOpen(t, mustBuild(t, l.blob)), int64(0)
			for s := range index.Spans() {
				if s.Off > end || s.Off < end-1 {
					t.Errorf("a span begins at byte %d, the one before ends at %d", s.Off, end)
				}
				end = s.Off + s.Size
				if got := digest.FromBytes(l.blob[s.Off:end]); got != s.Digest {
					t.Errorf("bytes %d to %d have the digest %s, and not %s", s.Off, end, got, s.Digest)
				}
			}
			if size := int64(len(l.blob)); end > size || end < size-100 && index.FramesSize() == 0 {
				t.Errorf("spans end at byte %d of %d", end, len(l.blob))
			}
		})
	}
}
