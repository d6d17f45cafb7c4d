package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"imgfs/index/inflate"
)

// seeds are files for the fuzzers to start from.
func seeds(f *testing.F) (files [][]byte) {
	rng := newRand(11)
	for range 12 {
		file, _ := randomFile(rng, 6, 400)
		files = append(files, file)
	}
	for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
		files = append(files, gzipped(f, text(3000), 1000, stdLevel(level)))
	}
	w := hello()
	all := withCRC(head(1+2+4+8+16, []byte{2, 0, 'a', 'b'}, []byte("name\x00"), []byte("comment\x00")), 0)
	return append(files, append(member(all, w.bytes, w.want), make([]byte, 100)...), bytes.Repeat(w.member(), 5))
}

// maxFuzz is the most bytes the fuzzers decode of one input.
const maxFuzz = 1 << 18

// FuzzReader compares whole files with the standard library, and every span with the whole file.
func FuzzReader(f *testing.F) {
	for _, file := range seeds(f) {
		f.Add(file, int64(100))
		f.Add(file, int64(1))
	}
	f.Fuzz(func(t *testing.T, file []byte, span int64) {
		want, wantErr := fuzzStdRead(file)
		if len(want) == maxFuzz {
			return
		}
		span = 1 + max(span, 0)%100_000 + int64(len(want))/100 // so that there are not too many
		got, cps, err := checkpoints(bytes.NewReader(file), span)
		if short := min(len(got), len(want)); !bytes.Equal(got[:short], want[:short]) {
			t.Fatalf("the first %d bytes differ", short)
		}
		if err != nil && !errors.Is(err, inflate.ErrCorrupt) {
			t.Fatalf("error is %v", err)
		}
		switch {
		case err == nil && wantErr == nil:
			if err := checkSpan(file, want, span); err != nil {
				t.Fatal(err)
			}
		case err == nil:
			end := cps[len(cps)-1].In / 8
			if got2, err2 := fuzzStdRead(file[:end]); err2 != gzip.ErrHeader && (err2 != nil || !bytes.Equal(got, got2)) {
				t.Fatalf("we read it, the standard library says %v", err2)
			}
		case wantErr == nil && !stricter(err):
			t.Fatalf("the standard library reads it, we say %v", err)
		}
	})
}

// fuzzStdRead reads a file by the standard library, up to maxFuzz bytes.
func fuzzStdRead(file []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxFuzz))
}

// stricter reports whether an error is about something that RFC 1952 or zlib forbid and the standard library does not
// look at.
func stricter(err error) bool {
	var corrupt *inflate.CorruptError
	if !errors.As(err, &corrupt) {
		return false
	}
	return corrupt.Reason == "unknown flags" || corrupt.Reason == "block whose code for lengths is not complete"
}

// FuzzDecode decodes spans from hostile checkpoints, to hostile ends: no byte outside dst may change, and where the standard library
// knows how to start there too, the bytes are the same.
func FuzzDecode(f *testing.F) {
	for _, file := range seeds(f) {
		_, cps, err := checkpoints(bytes.NewReader(file), 50)
		if err != nil {
			f.Fatal(err)
		}
		for i, cp := range cps[:len(cps)-1] {
			next := cps[i+1]
			f.Add(uint(next.Out-cp.Out), file[cp.In/8:(next.In+7)/8], cp.In, cp.Member, cp.Block, cp.BlockBit, cp.Window)
		}
	}
	f.Fuzz(func(t *testing.T, n uint, src []byte, in int64, member bool, block []byte, blockBit uint8, window []byte) {
		if len(block) == 0 {
			block = nil
		}
		cp := inflate.Checkpoint{In: in, Member: member, Block: block, BlockBit: blockBit, Window: window}
		got, err := decodeGuarded(int64(n%maxFuzz), src, &cp, -1)
		if err != nil && !errors.Is(err, inflate.ErrCorrupt) {
			t.Fatalf("error is %v", err)
		}
		if _, err := decodeGuarded(int64(n%maxFuzz), src, &cp, int64(n/maxFuzz)); err != nil && !errors.Is(err, inflate.ErrCorrupt) {
			t.Fatalf("with an end, error is %v", err)
		}
		if err == nil && in%8 == 0 && !member && block == nil {
			want, _ := io.ReadAll(io.LimitReader(flate.NewReaderDict(bytes.NewReader(src), window), int64(len(got))))
			if short := min(len(got), len(want)); !bytes.Equal(got[:short], want[:short]) {
				t.Fatalf("the first %d bytes differ", short)
			}
		}
	})
}
