package index

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

// largeFrame is a tar of some spans, and a zstd file that can't be entered.
func largeFrame(t testing.TB) (tar, blob []byte) {
	t.Helper()
	tar = img.Tar(bigFiles(6 << 20)...)
	return tar, img.Zstd(tar)
}

func TestAFrameLargerThanASpanGoesToTheFrames(t *testing.T) {
	tar, _ := largeFrame(t)
	blob := img.Zstd(tar[300_000:])
	opened := 0
	var out, frames bytes.Buffer
	all := append(img.Zstd(tar[:300_000]), blob...)
	check(t, Build(bytes.NewReader(all), wantOf(all), Output{&out, func() (io.Writer, error) { opened++; return &frames, nil }}))
	x := mustOpen(t, out.Bytes())
	if opened != 1 || x.FramesSize() != int64(frames.Len()) || frames.Len() == 0 {
		t.Errorf("opened %d times, %d bytes, %d written", opened, x.FramesSize(), frames.Len())
	}
	if x.t.spans[0].place != atStart || x.t.spans[1].place != inFrames || x.NumSpans() != 2+len(tar[300_000:])/spanSize {
		t.Errorf("%d spans, the first in %d and %d", x.NumSpans(), x.t.spans[0].place, x.t.spans[1].place)
	}
}

func TestFramesThatAreSmallEnoughNeedNoOthers(t *testing.T) {
	tar, _ := largeFrame(t)
	for _, size := range []int{5000, 100_000, spanSize, maxSpan} {
		var blob []byte
		for rest := tar; len(rest) > 0; {
			n := min(size, len(rest))
			blob = append(blob, img.Zstd(rest[:n])...)
			rest = rest[n:]
		}
		var out bytes.Buffer
		check(t, Build(bytes.NewReader(blob), wantOf(blob), Output{Index: &out}))
		x := mustOpen(t, out.Bytes())
		if x.FramesSize() != 0 {
			t.Errorf("frames of %d: %d bytes of frames", size, x.FramesSize())
		}
		for i := range x.NumSpans() - 1 {
			if n := x.t.out(i).n; n > int64(max(size, spanSize)) || n+int64(size) < spanSize {
				t.Errorf("frames of %d: span %d of %d bytes", size, i, n)
			}
		}
	}
}

// TestLargeFramesMayFollowEachOther has frames none of which is longer than a span may be, until they are decoded.
func TestLargeFramesMayFollowEachOther(t *testing.T) {
	tar := theLongSample().tar
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	check(t, err)
	var b []byte
	for i := 0; i < len(tar); i += 6 << 20 {
		b = zip.EncodeAll(tar[i:min(i+6<<20, len(tar))], b)
	}
	if len(b) < maxPending+4*pageSize {
		t.Fatalf("%d bytes are too few", len(b))
	}
	index, frames := mustBuildBoth(t, b)
	got := make([]byte, len(tar))
	_, err = NewReader(mustOpen(t, index), &blob{bytes: b}, bytes.NewReader(frames), newMemory(0)).ReadAt(got, 0)
	if check(t, err); !bytes.Equal(got, tar) {
		t.Error("other bytes")
	}
}

func TestALargeFrameNeedsAFileOfFrames(t *testing.T) {
	_, blob := largeFrame(t)
	if err := Build(bytes.NewReader(blob), wantOf(blob), Output{Index: io.Discard}); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func TestBuildFailsWithWhatTheFramesFailWith(t *testing.T) {
	_, blob := largeFrame(t)
	full := errors.New("disk full")
	_, frames := mustBuildBoth(t, blob)
	for _, n := range []int{0, len(frames) / 2, len(frames) - 1} {
		open := func() (io.Writer, error) { return &failingWriter{n, full}, nil }
		if err := Build(bytes.NewReader(blob), wantOf(blob), Output{io.Discard, open}); !errors.Is(err, full) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	open := func() (io.Writer, error) { return nil, full }
	if err := Build(bytes.NewReader(blob), wantOf(blob), Output{io.Discard, open}); !errors.Is(err, full) {
		t.Errorf("not opened: %v", err)
	}
}

func TestFramesThatAreNotWhatTheyWereAreDamage(t *testing.T) {
	tar, blobBytes := largeFrame(t)
	b, frames := mustBuildBoth(t, blobBytes)
	x := mustOpen(t, b)
	broken := errors.New("disk is broken")
	changed := bytes.Clone(frames)
	changed[len(changed)/2] ^= 4
	for name, test := range map[string]struct {
		frames io.ReaderAt
		err    error
	}{
		"missing": {nil, ErrDamaged},
		"empty":   {strings.NewReader(""), ErrDamaged},
		"short":   {bytes.NewReader(frames[:len(frames)-1]), ErrDamaged},
		"changed": {bytes.NewReader(changed), ErrDamaged},
		"broken":  {failingReaderAt{broken}, broken},
	} {
		got := make([]byte, len(tar))
		n, err := NewReader(x, &blob{bytes: blobBytes}, test.frames, newMemory(0)).ReadAt(got, 0)
		if !errors.Is(err, test.err) || !bytes.Equal(got[:n], tar[:n]) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

func TestZstdFilesThatCannotBeReadAreRefused(t *testing.T) {
	good := img.Zstd(img.Tar(img.File("f", "content")))
	changed := func(i int, b byte) []byte {
		c := bytes.Clone(good)
		c[(i+len(c))%len(c)] = b
		return c
	}
	frame := func(s string) []byte { return []byte(frameMagic + s) }
	tests := []struct {
		name string
		blob []byte
		err  error
		says string
	}{
		{"dictionary", frame("\x23\x39\x30\x00\x00\x00\x01\x00\x00"), ErrUnsupported, "at byte 0 needs dictionary 12345"},
		{"window over the limit", frame("\x00\x89\x01\x00\x00"), ErrUnsupported, "window of 150994944 bytes"},
		{"content over the limit in one segment", frame("\xa0\x01\x00\x00\x08\x01\x00\x00"), ErrUnsupported, "window of 134217729 bytes"},
		{"reserved bit", changed(4, 0x08), ErrMalformed, "reserved bit"},
		{"reserved block", frame("\x00\x00\x07\x00\x00"), ErrMalformed, "unknown type of block"},
		{"large block", frame("\x00\x58\x09\x00\x10"), ErrMalformed, "block of 131073 bytes"},
		{"wrong checksum", changed(-1, good[len(good)-1]^1), ErrMalformed, "CRC"},
		{"wrong size", frame("\x20\x05\x01\x00\x00"), ErrMalformed, "size"},
		{"garbage behind", append(bytes.Clone(good), "garbage"...), ErrMalformed, "not a zstd frame"},
		{"zero behind", append(bytes.Clone(good), 0), ErrMalformed, "not a zstd frame"},
		{"no tar inside", img.Zstd(bytes.Repeat([]byte("text"), 1000)), ErrMalformed, "not a tar"},
		{"long skippable frame", append(img.ZstdSkippable(nil)[:4], "\xff\xff\xff\xffand less"...), ErrMalformed, "unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Build(bytes.NewReader(test.blob), wantOf(test.blob), Output{Index: io.Discard})
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), digest.FromBytes(test.blob).String()) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAZstdFileCutShortIsRefused(t *testing.T) {
	tar := img.Tar(img.File("f", "content"))
	whole := append(append(img.ZstdSkippable([]byte("first")), img.Zstd(tar[:700])...), img.Zstd(tar[700:])...)
	second := len(whole) - len(img.Zstd(tar[700:]))
	ends := map[int]bool{13: true, second: true}
	for n := 4; n < len(whole); n++ {
		err := Build(bytes.NewReader(whole[:n]), wantOf(whole[:n]), Output{Index: io.Discard})
		if !ends[n] && !(errors.Is(err, ErrMalformed) && errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Fatalf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
}

// What is between the frames, and in frames of nothing, takes no memory however long it is.
func TestMemoryOfBuildDoesNotGrowWithWhatIsBetweenFrames(t *testing.T) {
	tar := img.Tar(img.File("f", "content"))
	nothing := append(img.ZstdSkippable(make([]byte, 1000)), "\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"...)
	// A frame of raw blocks, all of which are empty but for the last.
	empty := append([]byte("\x28\xb5\x2f\xfd\x00\x58"), bytes.Repeat([]byte{0, 0, 0}, 3<<20)...)
	last := len(tar) << 3
	empty = append(append(empty, byte(last|1), byte(last>>8), byte(last>>16)), tar...)
	for name, b := range map[string][]byte{
		"between frames": append(append(img.Zstd(tar[:512]), bytes.Repeat(nothing, 20_000)...), img.Zstd(tar[512:])...),
		"empty blocks":   append(img.Zstd(nil), empty...),
	} {
		index, frames := mustBuildBoth(t, b)
		got := make([]byte, len(tar))
		_, err := NewReader(mustOpen(t, index), &blob{bytes: b}, bytes.NewReader(frames), newMemory(0)).ReadAt(got, 0)
		if check(t, err); !bytes.Equal(got, tar) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

func FuzzZstd(f *testing.F) {
	tar := img.Tar(img.File("f", strings.Repeat("content", 100)))
	for _, shape := range img.ZstdShapes() {
		if b := shape.Write(tar); len(b) < 20_000 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var out, frames bytes.Buffer
		if sniff(b[:min(len(b), magicSize)]) != Zstd {
			return
		}
		err := Build(bytes.NewReader(b), Want{Size: -1}, Output{&out, func() (io.Writer, error) { return &frames, nil }})
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Error(err)
			}
			return
		}
		z := NewReader(mustOpen(t, out.Bytes()), &blob{bytes: b}, bytes.NewReader(frames.Bytes()), newMemory(0))
		h := digest.Canonical.Hash()
		_, err = io.Copy(h, io.NewSectionReader(z, 0, 1<<40))
		if check(t, err); digest.NewDigest(digest.Canonical, h) != z.x.DiffID() {
			t.Error("other bytes")
		}
	})
}
