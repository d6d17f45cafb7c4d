package testimage

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// read is what archive/tar makes of a tar: headers and contents.
func read(t *testing.T, b []byte) (headers []*tar.Header, contents []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return headers, contents
		}
		if err != nil {
			t.Fatalf("entry %d: %v", len(headers), err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("content of %q: %v", h.Name, err)
		}
		headers, contents = append(headers, h), append(contents, string(content))
	}
}

func TestArchiveTarReadsWhatWasMeant(t *testing.T) {
	long := strings.Repeat("long/", 60) + "name"
	early := time.Unix(-2, 250_000_000)
	for _, test := range []struct {
		name string
		in   Entry
		want tar.Header // of which the fields that aren't zero are compared
	}{
		{"a file", File("a", "hello"), tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 5, Mode: 0o644}},
		{"an owner", File("a", "", Owner(1, 2)), tar.Header{Typeflag: tar.TypeReg, Uid: 1, Gid: 2}},
		{"a big owner", File("a", "", Owner(1<<31, 1<<32-2)), tar.Header{Typeflag: tar.TypeReg, Uid: 1 << 31, Gid: 1<<32 - 2}},
		{"all in binary", File("a", "hi", Base256(), Owner(7, 8)), tar.Header{Typeflag: tar.TypeReg, Size: 2, Uid: 7, Gid: 8}},
		{"a directory", Dir("d/", Mode(0o1777)), tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o1777}},
		{"a symlink", Symlink("s", "t"), tar.Header{Typeflag: tar.TypeSymlink, Linkname: "t", Mode: 0o777}},
		{"a hard link", Link("l", "t"), tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "t"}},
		{"a FIFO", Fifo("f"), tar.Header{Typeflag: tar.TypeFifo}},
		{"a terminal", Char("tty", 4, 1), tar.Header{Typeflag: tar.TypeChar, Devmajor: 4, Devminor: 1}},
		{"a disk", Block("sda", 8, 1), tar.Header{Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 1}},
		{"a whiteout", Whiteout("etc/x"), tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.x"}},
		{"an opaque marker", Opaque("etc/"), tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh..wh..opq"}},
		{"a long name in PAX", File(long, "x"), tar.Header{Typeflag: tar.TypeReg, Name: long, Size: 1}},
		{"a long name of GNU", File(long, "x", GNU()), tar.Header{Typeflag: tar.TypeReg, Name: long, Size: 1}},
		{"a long target in PAX", Symlink("s", long), tar.Header{Typeflag: tar.TypeSymlink, Linkname: long}},
		{"a long target of GNU", Symlink("s", long, GNU()), tar.Header{Typeflag: tar.TypeSymlink, Linkname: long}},
		{"a time", File("a", "", Mtime(time.Unix(5, 7))), tar.Header{Typeflag: tar.TypeReg, ModTime: time.Unix(5, 7)}},
		{"a time before 1970", File("a", "", Mtime(early)), tar.Header{Typeflag: tar.TypeReg, ModTime: early}},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers, contents := read(t, Tar(test.in))
			if len(headers) != 1 || int64(len(contents[0])) != headers[0].Size {
				t.Fatalf("read %d entries, contents %q", len(headers), contents)
			}
			got, want := headers[0], test.want
			if want.Name == "" {
				want.Name = got.Name
			}
			if want.Mode == 0 {
				want.Mode = got.Mode
			}
			if want.ModTime.IsZero() {
				want.ModTime = time.Unix(defaultMtime, 0)
			}
			got.Format, got.PAXRecords, got.Uname, got.Gname = 0, nil, "", ""
			got.AccessTime, got.ChangeTime = time.Time{}, time.Time{}
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestXattrsAreRecords(t *testing.T) {
	headers, _ := read(t, Tar(File("a", "", Xattr("user.a", "1\x002"), LibarchiveXattr("user.b c", "3"))))
	want := map[string]string{"SCHILY.xattr.user.a": "1\x002", "LIBARCHIVE.xattr.user.b%20c": "Mw"}
	if diff := cmp.Diff(want, headers[0].PAXRecords); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSparseFilesReadWithTheirHoles(t *testing.T) {
	var many []Segment
	for i := range int64(60) {
		many = append(many, Segment{i * 1000, "data"})
	}
	for name, sparse := range map[string]func(string, int64, []Segment, ...Option) Entry{
		"old GNU": SparseGNU, "PAX 0.0": SparsePAX00, "PAX 0.1": SparsePAX01, "PAX 1.0": SparsePAX10,
	} {
		for _, segments := range [][]Segment{{{70_000, ""}}, {{10, "abc"}}, many} {
			const size = 70_000
			want := make([]byte, size)
			for _, s := range segments {
				copy(want[s.Offset:], s.Data)
			}
			headers, contents := read(t, Tar(sparse("sparse", size, segments), File("next", "n")))
			if len(headers) != 2 || headers[0].Name != "sparse" || contents[0] != string(want) || contents[1] != "n" {
				t.Errorf("%s of %d segments reads otherwise", name, len(segments))
			}
		}
	}
}

func TestHostileHeadersAreWrittenAsTold(t *testing.T) {
	_, err := tar.NewReader(bytes.NewReader(Tar(File("a", "", Field(148, "000000\x00 "))))).Next()
	if err != tar.ErrHeader {
		t.Errorf("a wrong checksum: %v", err)
	}
	headers, _ := read(t, Tar(File("a", "", Field(100, "0000755\x00"))))
	if headers[0].Mode != 0o755 {
		t.Errorf("mode is %o", headers[0].Mode)
	}
	headers, _ = read(t, Tar(File("a", ""), End(), File("b", "")))
	if len(headers) != 1 {
		t.Errorf("%d entries before the end", len(headers))
	}
	headers, _ = read(t, Tar(GlobalPAX("comment", "x"), File("a", "", Type('Z'))))
	if len(headers) != 2 || headers[0].Typeflag != tar.TypeXGlobalHeader || headers[1].Typeflag != 'Z' {
		t.Errorf("read %v", headers)
	}
}
