package testimage

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

func gunzip(t *testing.T, b []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryShapeHoldsTheSameBytes(t *testing.T) {
	b := Tar(File("a", string(bytes.Repeat([]byte("some text, "), 40_000))))
	for _, shape := range GzipShapes() {
		t.Run(shape.Name, func(t *testing.T) {
			r, err := gzip.NewReader(bytes.NewReader(shape.Write(b)))
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(b)) // gzip.Reader takes trailing zeros for an error, hence no ReadAll
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, b) {
				t.Errorf("reads otherwise: %v", err)
			}
		})
	}
}

func TestEStargzIsATarInMembers(t *testing.T) {
	blob, tar := EStargz(Dir("d/"), File("d/a", "hello"))
	if !bytes.Equal(gunzip(t, blob), tar) {
		t.Error("the blob is not the tar's")
	}
	headers, _ := read(t, tar)
	if len(headers) != 3 || headers[2].Name != "stargz.index.json" {
		t.Errorf("read %v", headers)
	}
	if footer := blob[len(blob)-51:]; footer[0] != 0x1f || string(footer[32:38]) != "STARGZ" {
		t.Errorf("footer %q", footer)
	}
}
