package index

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	img "imgfs/internal/testimage"
)

// A distant blob has nothing near but what was fetched.
type distant struct {
	far     []byte
	near    []bool
	wrong   int // the next fetches bring other bytes
	fetches []byteRange
	err     error // of Fetch
}

var errFar = errors.New("not fetched before")

func (d *distant) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		if !d.near[off+int64(i)] {
			return 0, errFar
		}
	}
	n, err := bytes.NewReader(d.far).ReadAt(p, off)
	if d.wrong > 0 {
		p[0] ^= 1
	}
	return n, err
}

func (d *distant) Fetch(off, n int64) error {
	d.fetches = append(d.fetches, byteRange{off, n})
	for i := range n {
		d.near[off+i] = true
	}
	return d.err
}

func (d *distant) Discard(int64, int64) error {
	d.wrong--
	return nil
}

// prefetch prefetches, and gives the sum of what it is told.
func prefetch(r *Reader, parts ...Extent) (all int64, err error) {
	for n, err := range r.Prefetch(parts) {
		if all += n; err != nil {
			return all, err
		}
	}
	return all, nil
}

func TestWhatIsPrefetchedCanBeReadWithoutTheBlob(t *testing.T) {
	for name, s := range samples(t) {
		index, frames := mustBuildBoth(t, s.blob)
		x := mustOpen(t, index)
		size := x.TarSize()
		parts := []Extent{{Offset: size / 2, Length: 100}, {Offset: 10, Length: 1}, {Offset: size / 2, Length: 7}, {Offset: size, Length: 0}, {Offset: size - 9, Length: 9}}
		d := &distant{far: s.blob, near: make([]bool, len(s.blob))}
		r := NewReader(x, d, bytes.NewReader(frames), newMemory(0))
		n, err := prefetch(r, parts...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var fetched int64
		for _, f := range d.fetches {
			fetched += f.n
		}
		if len(d.fetches) > 3 || fetched < n || x.FramesSize() == 0 && n == 0 {
			t.Errorf("%s: fetched %v for %d bytes of spans", name, d.fetches, n)
		}
		for _, p := range parts {
			got := make([]byte, p.Length)
			if _, err := r.ReadAt(got, p.Offset); p.Length > 0 && (err != nil || !bytes.Equal(got, s.tar[p.Offset:][:p.Length])) {
				t.Errorf("%s: %d bytes from %d on: %v", name, p.Length, p.Offset, err)
			}
		}
		d.fetches = nil
		if _, err := prefetch(r, Extent{Length: size}); err != nil || len(d.fetches) > 1 && name != "many members" && x.FramesSize() == 0 {
			t.Errorf("%s: all of it: %v, fetched %v", name, err, d.fetches)
		}
		if _, err := r.ReadAt(make([]byte, size), 0); err != nil {
			t.Errorf("%s: all of it: %v", name, err)
		}
	}
}

// What is between spans is between ranges as well.
func TestPrefetchLeavesNothingOutBetweenRanges(t *testing.T) {
	noise := make([]byte, maxPrefetch+4<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	tar := img.Tar(img.File("noise", string(noise)))
	var blob []byte
	for part := range slices.Chunk(tar, 1<<20) {
		blob = append(append(blob, img.ZstdSkippable([]byte("between"))...), img.Zstd(part)...)
	}
	x := mustOpen(t, mustBuild(t, blob))
	d := &distant{far: blob, near: make([]bool, len(blob))}
	r := NewReader(x, d, nil, newMemory(0))
	if _, err := prefetch(r, Extent{Length: x.TarSize()}); err != nil || len(d.fetches) != 2 {
		t.Errorf("%v, in %d ranges", err, len(d.fetches))
	}
	for off := int64(0); off < x.TarSize(); off += 1 << 20 {
		if _, err := r.ReadAt(make([]byte, 3<<20), off); err != nil && err != io.EOF {
			t.Fatalf("from %d on: %v", off, err)
		}
	}
}

func TestPrefetchChecksWhatItFetches(t *testing.T) {
	s := gzipSample(t)
	x := mustOpen(t, mustBuild(t, s.blob))
	all := Extent{Length: x.TarSize()}
	d := &distant{far: s.blob, near: make([]bool, len(s.blob)), wrong: 1}
	if n, err := prefetch(NewReader(x, d, nil, newMemory(0)), all); err != nil || n == 0 || d.wrong != 0 {
		t.Errorf("bytes that are right at the second attempt: %v", err)
	}
	d.wrong = 1 << 30
	if _, err := prefetch(NewReader(x, d, nil, newMemory(0)), all); !errors.Is(err, ErrCorrupt) {
		t.Errorf("bytes that are never right: %v", err)
	}
	full := errors.New("disk full")
	if _, err := prefetch(NewReader(x, &distant{far: s.blob, near: make([]bool, len(s.blob)), err: full}, nil, newMemory(0)), all); !errors.Is(err, full) {
		t.Errorf("a blob that keeps nothing: %v", err)
	}
	for _, outside := range []Extent{{Offset: -1, Length: 1}, {Length: -1}, {Offset: x.TarSize(), Length: 1}, {Offset: 1, Length: 1<<63 - 1}} {
		if _, err := prefetch(NewReader(x, d, nil, newMemory(0)), outside); err == nil {
			t.Errorf("%+v is taken", outside)
		}
	}
}
