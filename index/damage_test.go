package index

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	img "imgfs/internal/testimage"
)

// TestAnyChangedByteOfAnIndexIsNoticed changes each byte of small indexes, and of the frames that they are about, and
// reads all that there is.
func TestAnyChangedByteOfAnIndexIsNoticed(t *testing.T) {
	for name, l := range formatsOf(t) {
		t.Run(name, func(t *testing.T) {
			x, frames := mustBuildBoth(t, l.blob)
			want, err := entriesOf(mustOpen(t, x))
			check(t, err)
			check(t, sameLayer(x, frames, want, l))
			for _, file := range [][]byte{x, frames} {
				for i := range file {
					file[i] ^= 1 << (i % 8)
					if err := sameLayer(x, frames, want, l); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrStale) {
						t.Fatalf("byte %d of %d: %v", i, len(file), err)
					}
					file[i] ^= 1 << (i % 8)
				}
			}
		})
	}
}

// sameLayer tells whether an index gives what it should. It fails the way the index does, or else says what differs.
func sameLayer(b, frames []byte, want []Entry, l sample) error {
	x, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	list, err := entriesOf(x)
	if err != nil {
		return err
	}
	if !cmp.Equal(list, want) {
		return errors.New("other entries")
	}
	got := make([]byte, len(l.tar))
	n, err := NewReader(x, &blob{bytes: l.blob}, bytes.NewReader(frames), newMemory(0)).ReadAt(got, 0)
	if !bytes.Equal(got[:n], l.tar[:n]) {
		return errors.New("other bytes")
	}
	return err
}

// FuzzDamage changes bytes of an index or of its frames, and mends the digest of the table: whatever that says then, nothing
// may panic or be read from outside.
func FuzzDamage(f *testing.F) {
	tar := img.Tar(img.File("f", zeros(5<<20)))
	blobBytes := slices.Concat(img.Zstd(tar[:1000]), img.Zstd(tar[1000:]))
	good, frames := mustBuildBoth(f, blobBytes)
	start := len(good) - trailerSize - len(mustOpen(f, good).t.appendTo(nil))
	f.Add(uint16(start), byte(1), uint16(0), byte(0), uint16(0), byte(0))
	f.Add(uint16(len(good)), byte(1), uint16(0), byte(0), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, at1 uint16, to1 byte, at2 uint16, to2 byte, at3 uint16, to3 byte) {
		both := slices.Concat(good, frames)
		for at, to := range map[uint16]byte{at1: to1, at2: to2, at3: to3} {
			both[int(at)%len(both)] ^= to
		}
		bad := both[:len(good)]
		copy(bad[len(bad)-trailerSize:], trailer(bad[start:len(bad)-trailerSize]))
		useIndex(t, bad, blobBytes, both[len(good):])
	})
}
