package inflate_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"testing"

	"imgfs/index/inflate"
)

// streams are DEFLATE streams for the fuzzers to start from.
func streams(f *testing.F) (all [][]byte) {
	rng := newRand(31)
	for i := range 12 {
		w := &writer{}
		for range i % 5 {
			w.randomBlock(rng, false, 300)
		}
		w.randomBlock(rng, true, 300)
		all = append(all, w.bytes)
	}
	for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, level)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write(text(5000)); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		all = append(all, b.Bytes())
	}
	return all
}

// FuzzStream compares what a stream decodes to with what zlib and the standard library make of it. One that is valid
// becomes a file, which is read from every checkpoint, and then damaged. Unlike files, streams have no CRC that a
// fuzzer would have to guess.
func FuzzStream(f *testing.F) {
	for _, stream := range streams(f) {
		f.Add(stream, int64(100), uint(len(stream)/2))
		f.Add(stream, int64(1), uint(4))
	}
	f.Fuzz(func(t *testing.T, stream []byte, span int64, at uint) {
		z := byZlib(t, zlibWay{}, stream)
		if len(z.bytes) == maxFuzz {
			return
		}
		std, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), maxFuzz))
		if z.outcome != zlibTakes {
			file := append(bytes.Clone(plainHeader), stream...)
			if z.outcome == zlibWantsMore {
				std = z.bytes
			}
			refused(t, file, std)
			return
		}
		if stdErr != nil || !bytes.Equal(std, z.bytes) {
			t.Fatalf("zlib reads %d bytes, the standard library %d, or others: %v", len(z.bytes), len(std), stdErr)
		}
		file := member(plainHeader, stream[:z.size], z.bytes)
		span = 1 + max(span, 0)%100_000 + int64(len(z.bytes))/100 // so that there are not too many
		if err := checkSpan(file, z.bytes, span); err != nil {
			t.Fatal(err)
		}
		damaged(t, file, z.bytes, span, at%uint(8*len(file)))
	})
}

// FuzzZlib reads what zlib makes of data, in any of its ways, from every checkpoint. The data is repeated, so that there
// is something to refer to at any distance.
func FuzzZlib(f *testing.F) {
	for _, data := range [][]byte{text(300), text(20_000), make([]byte, 1000), randomBytes(newRand(32), 40_000)} {
		for _, way := range []uint32{0x00080609, 0x00000601, 0x01080609, 0x02080609, 0x03080609, 0x04080609} {
			f.Add(data, uint8(3), way, int64(1000))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, times uint8, way uint32, span int64) {
		data = bytes.Repeat(data, 1+int(times)%64)
		data = data[:min(len(data), maxFuzz)]
		stream := byZlib(t, wayOf(way), data).bytes
		span = 1 + max(span, 0)%100_000 + int64(len(data))/100
		if err := checkSpan(member(plainHeader, stream, data), data, span); err != nil {
			t.Fatal(err)
		}
	})
}

// refused fails unless a file is refused, after bytes that are at least as far as they go those of want.
func refused(t *testing.T, file, want []byte) {
	t.Helper()
	got, err := io.ReadAll(io.LimitReader(inflate.NewReader(bytes.NewReader(file), nil), 2*maxFuzz))
	if !errors.Is(err, inflate.ErrCorrupt) {
		t.Fatalf("it is no file, we say %v", err)
	}
	if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("the first %d bytes differ", n)
	}
}

// damaged cuts a file at a bit's byte, and flips the bit: neither may lead to other bytes, and spans of the damaged file
// only to bytes of theirs or errors.
func damaged(t *testing.T, file, want []byte, span int64, bit uint) {
	t.Helper()
	_, cps, err := checkpoints(bytes.NewReader(file), span)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, file[:bit/8], want)
	file = bytes.Clone(file)
	file[bit/8] ^= 1 << (bit % 8)
	got, _, err := checkpoints(bytes.NewReader(file), span)
	if err == nil && !bytes.Equal(got, want) {
		t.Fatalf("bit %d flipped: other bytes, and no error", bit)
	}
	if err != nil && !errors.Is(err, inflate.ErrCorrupt) {
		t.Fatalf("bit %d flipped: error is %v", bit, err)
	}
	resumeAll(t, file, cps)
}
