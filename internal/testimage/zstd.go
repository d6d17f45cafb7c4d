package testimage

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A ZstdShape is a way in which some program makes zstd files.
type ZstdShape struct {
	Name  string
	Write func(b []byte) []byte
}

// ZstdShapes are the shapes of layers that are about, the odd ones too.
func ZstdShapes() []ZstdShape {
	return []ZstdShape{
		{"zstd, one frame", zstdStream},
		{"zstd, one frame with its size", func(b []byte) []byte { return Zstd(b) }},
		{"zstd, not compressed", zstdRaw},
		{"zstd, many frames", func(b []byte) []byte { return zstdFrames(b, 1<<20, nil) }},
		{"zstd, tiny frames", func(b []byte) []byte { return zstdFrames(b, 5_000, nil) }},
		{"pzstd", pzstd},
		{"zstd:chunked", zstdChunked},
		{"zstd, a large frame among small ones", zstdMixed},
		{"zstd, empty frames", zstdEmpty},
		{"zstd, long skippable frames", zstdSkippable},
	}
}

// Zstd is a zstd file of one frame, which says how large it is and has a checksum.
func Zstd(b []byte) []byte { return encoder().EncodeAll(b, nil) }

// encoder compresses what is whole already. The options are right, so there is no error.
var encoder = sync.OnceValue(func() *zstd.Encoder {
	z, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	return z
})

// ZstdSkippable is a skippable frame (RFC 8878, section 3.1.2).
func ZstdSkippable(content []byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("\x5e\x2a\x4d\x18"), uint32(len(content)))
	return append(b, content...)
}

// zstdStream is a zstd file as zstd's program writes what comes through a pipe: the frame doesn't say how large
// it is.
func zstdStream(b []byte) []byte {
	var out bytes.Buffer
	z, _ := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	for chunk := range slices.Chunk(b, 100_000) {
		z.Write(chunk)
	}
	z.Close()
	return out.Bytes()
}

// zstdRaw is a zstd frame of raw blocks, and one byte repeated.
func zstdRaw(b []byte) []byte {
	out := []byte("\x28\xb5\x2f\xfd\x00\x58") // a window of 2 MiB
	for chunk := range slices.Chunk(b, 128<<10) {
		kind := 0
		if bytes.Equal(chunk, bytes.Repeat(chunk[:1], len(chunk))) {
			kind = 1
		}
		head := len(chunk)<<3 | kind<<1
		out = append(out, byte(head), byte(head>>8), byte(head>>16))
		if kind == 1 {
			chunk = chunk[:1]
		}
		out = append(out, chunk...)
	}
	return append(out, 1, 0, 0) // an empty block, the last
}

// zstdFrames is a zstd file with a frame for every n bytes, and something before each.
func zstdFrames(b []byte, n int, before func(frame []byte) []byte) []byte {
	var out []byte
	for chunk := range slices.Chunk(b, n) {
		f := Zstd(chunk)
		if before != nil {
			out = append(out, before(f)...)
		}
		out = append(out, f...)
	}
	return out
}

// pzstd is a zstd file as pzstd writes it: before each frame there is a skippable one with its size.
func pzstd(b []byte) []byte {
	return zstdFrames(b, 3<<20, func(frame []byte) []byte {
		s := ZstdSkippable(binary.LittleEndian.AppendUint32(nil, uint32(len(frame))))
		s[0] = 0x50
		return s
	})
}

// zstdChunked is a zstd file as podman writes it with zstd:chunked: frames for files and what is between them, then a list
// of them in a skippable frame, and a footer in another one.
func zstdChunked(b []byte) []byte {
	var out []byte
	for i := 0; len(b) > 0; i++ {
		n := min(len(b), []int{512, 70_000, 1024, 200, 1_500_000}[i%5])
		out = append(out, zstdFrames(b[:n], n, nil)...)
		b = b[n:]
	}
	return slices.Concat(out, ZstdSkippable(make([]byte, 10_000)), ZstdSkippable([]byte("GNUlInUx")))
}

// zstdMixed is a zstd file with frames that can be entered, and one that can't.
func zstdMixed(b []byte) []byte {
	first, large := len(b)/10, len(b)/2
	return slices.Concat(zstdFrames(b[:first], 50_000, nil), zstdStream(b[first:first+large]), zstdFrames(b[first+large:], 300_000, nil))
}

// zstdEmpty is a zstd file with frames of nothing, here and there.
func zstdEmpty(b []byte) []byte {
	nothing := []byte("\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00")
	many := bytes.Repeat(nothing, 100_000)
	return slices.Concat(many, zstdFrames(b, 200_000, func([]byte) []byte { return nothing }), many)
}

// zstdSkippable is a zstd file whose frames are far from each other.
func zstdSkippable(b []byte) []byte {
	return zstdFrames(b, 1<<20, func([]byte) []byte { return ZstdSkippable(make([]byte, 5<<18)) })
}
