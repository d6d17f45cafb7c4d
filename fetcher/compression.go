package fetcher

import (
	"bytes"
	"fmt"
	"io"
)

// A format is what the first bytes of a file show it to be.
type format int

const (
	plain format = iota // a tar, or nothing that is known here
	gzip
	zstd
	bzip2
	xz
)

// sniff tells a format by its magic number (RFC 1952, section 2.3.1; RFC 8878, sections 3.1.1 and 3.1.2; bzip2's and xz's
// descriptions of their formats).
func sniff(head []byte) format {
	for _, f := range []struct {
		magic string
		format
	}{
		{"\x1f\x8b", gzip}, {"\x28\xb5\x2f\xfd", zstd}, {"BZh", bzip2}, {"\xfd7zXZ\x00", xz},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.format
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18" {
		return zstd // a skippable frame
	}
	return plain
}

// IsZstd tells by its first bytes, four at least, whether a file is compressed with zstd.
func IsZstd(head []byte) bool { return sniff(head) == zstd }

// headSize is how many bytes of a file tell what it is: the first block of a tar.
const headSize = 512

// formatOf reads the beginning of a file.
func formatOf(r io.ReaderAt) (format, []byte, error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return plain, nil, err
	}
	return sniff(head[:n]), head[:n], nil
}

// isTarHead tells whether a file begins with a header of any tar but those of Version 7 Unix, which have no magic number.
func isTarHead(head []byte) bool {
	return len(head) >= headSize && string(head[257:262]) == "ustar"
}

// tarFormat returns the format of a file that has to be a tar, compressed in a way that can be read, or not at all.
func tarFormat(r io.ReaderAt, what string) (format, error) {
	f, _, err := formatOf(r)
	switch {
	case err != nil:
		return plain, fmt.Errorf("%s: %w", what, err)
	case f == bzip2, f == xz:
		name := map[format]string{bzip2: "bzip2", xz: "xz"}[f]
		return plain, unsupported("%s is compressed with %s, which cannot be read at random; decompress it, or use gzip or zstd", what, name)
	}
	return f, nil
}
