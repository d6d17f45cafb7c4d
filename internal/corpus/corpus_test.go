package corpus_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgfs/internal/corpus"
)

func TestTheCorpusIsWhatItSays(t *testing.T) {
	files, err := corpus.Small(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		file, tar, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		if len(tar) < 1<<20 || len(file) >= len(tar) {
			t.Errorf("%s: %d bytes of a tar of %d", f.Path, len(file), len(tar))
		}
		if got, err := decompress(f, file); err != nil || !bytes.Equal(got, tar) {
			t.Errorf("%s: not the tar, or error: %v", f.Path, err)
		}
	}
}

func decompress(f corpus.File, file []byte) ([]byte, error) {
	if f.Gzip() {
		z, err := stdgzip.NewReader(bytes.NewReader(file))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	z, err := zstd.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}
