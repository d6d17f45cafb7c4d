package index

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

func TestDigestTellsWhatABlobIs(t *testing.T) {
	for name, s := range samples(t) {
		got, err := Digest(bytes.NewReader(s.blob), Want{Blob: digest.FromString("something else"), Size: 1})
		want := Sums{Blob: digest.FromBytes(s.blob), Size: int64(len(s.blob)), DiffID: digest.FromBytes(s.tar), TarSize: int64(len(s.tar))}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	blob := gzipSample(t).blob
	got, err := Digest(bytes.NewReader(blob), Want{Blob: digest.SHA512.FromString(""), DiffID: digest.SHA384.FromString("")})
	if err != nil || got.Blob != digest.SHA512.FromBytes(blob) || got.DiffID.Algorithm() != digest.SHA384 {
		t.Errorf("of other algorithms: %+v, %v", got, err)
	}
}

func TestDigestTellsWhatABlobIsAlsoWhereThereIsNoTarInIt(t *testing.T) {
	gzip, zstd := img.Gzip(img.Tar(img.File("f", "x"))), img.Zstd(img.Tar(img.File("f", "x")))
	flipped := func(b []byte, fromEnd int) []byte {
		c := bytes.Clone(b)
		c[len(c)-fromEnd] ^= 1
		return c
	}
	for name, blob := range map[string][]byte{
		"gzip with a wrong CRC":      flipped(gzip, 8),
		"gzip with a wrong size":     flipped(gzip, 4),
		"gzip cut short":             gzip[:len(gzip)-1],
		"gzip with garbage behind":   append(bytes.Clone(gzip), "garbage"...),
		"zstd with a wrong checksum": flipped(zstd, 1),
		"zstd cut short":             zstd[:len(zstd)-1],
		"zstd with garbage behind":   append(bytes.Clone(zstd), "garbage"...),
		"garbage behind many zeros":  append(append(bytes.Clone(gzip), make([]byte, 10<<20)...), 1),
	} {
		got, err := Digest(bytes.NewReader(blob), Want{})
		want := Sums{Blob: digest.FromBytes(blob), Size: int64(len(blob))}
		if !errors.Is(err, ErrMalformed) || got != want || !strings.Contains(err.Error(), want.Blob.String()) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	dictionary := []byte(frameMagic + "\x23\x39\x30\x00\x00\x00\x01\x00\x00")
	if got, err := Digest(bytes.NewReader(dictionary), Want{}); !errors.Is(err, ErrUnsupported) || got.Blob != digest.FromBytes(dictionary) {
		t.Errorf("zstd with a dictionary: %+v, %v", got, err)
	}
}

func TestDigestFailsWithWhatTheReaderFailsWith(t *testing.T) {
	blob := gzipSample(t).blob
	for _, n := range []int{0, 2, 1000, 1 << 20, len(blob)} {
		before := runtime.NumGoroutine()
		if got, err := Digest(failing(blob[:n], context.Canceled), Want{}); !errors.Is(err, context.Canceled) || got != (Sums{}) {
			t.Errorf("after %d bytes: %+v, %v", n, got, err)
		}
		for runtime.NumGoroutine() > before { // those that have done all they had to may still be there
			runtime.Gosched()
		}
	}
	if _, err := Digest(failing(nil, io.EOF), Want{Blob: "md5:d41d8cd98f00b204e9800998ecf8427e"}); err == nil {
		t.Error("a digest of an algorithm that is not there is taken")
	}
}
