package fetcher

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// BenchmarkReadAt reads ranges of 1 MiB; BenchmarkReadAt/http makes the same
// requests with a plain client, and checks nothing.
func BenchmarkReadAt(b *testing.B) {
	const rangeSize = 1 << 20
	content := noise(32 << 20)
	r := startRegistry(b)
	r.Push("a", "t", imageOf(content).Bundle())
	f, _ := newFetcher(b, Options{})
	blob := openBlob(b, f, r.Host()+"/a:t", 0)
	url := "http://" + r.Host() + "/v2/a/blobs/" + blob.impl.(*remoteBlob).layer.Digest.String()

	read := map[string]func(p []byte, off int64) error{
		"imgfs": func(p []byte, off int64) error {
			_, err := blob.ReadAt(p, off)
			return err
		},
		"http": func(p []byte, off int64) error {
			req, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+rangeSize-1))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.ReadFull(resp.Body, p)
			return err
		},
	}
	for _, name := range []string{"imgfs", "http"} {
		b.Run(name, func(b *testing.B) {
			p := make([]byte, rangeSize)
			b.SetBytes(rangeSize)
			b.ReportAllocs()
			for off := int64(0); b.Loop(); off = (off + rangeSize) % int64(len(content)) {
				if err := read[name](p, off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
