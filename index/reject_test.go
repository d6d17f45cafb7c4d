package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// sparse1 is a file in version 1.0 of GNU's PAX form, with the given map.
func sparse1(realSize, sparseMap, content string) []byte {
	return join(
		pax(paxSparseMajor, "1", paxSparseMinor, "0", paxSparseName, "sparse", paxSparseRealSize, realSize),
		rawHeader{name: "GNUSparseFile.0/sparse", typ: TypeRegular}.with(sparseMap+string(make([]byte, padding(int64(len(sparseMap)))))+content))
}

// sparse01 is a file in version 0.1.
func sparse01(size, blocks, sparseMap, content string) []byte {
	return join(
		pax(paxSparseMajor, "0", paxSparseMinor, "1", paxSparseSize, size, paxSparseNumBlocks, blocks, paxSparseMap, sparseMap),
		file("sparse", content))
}

// sparseOld is a file in the old GNU form, with what comes from byte 345 on.
func sparseOld(tail, content string) []byte {
	return rawHeader{name: "sparse", typ: typeGNUSparse, magic: gnuMagic, tail: tail}.with(content)
}

// oldTail is access and change time, some fields nobody uses, four fragments, and the real size.
func oldTail(extended byte, realSize string, numbers ...string) string {
	s := strings.Repeat("\x00", 386-345)
	for _, n := range numbers {
		s += fmt.Sprintf("%-12s", n)
	}
	s += strings.Repeat("\x00", 96+386-345-len(s))
	return s + string(extended) + fmt.Sprintf("%-12s", realSize)
}

func TestMalformedTarsAreRefusedWithTheirEntry(t *testing.T) {
	good := file("good", "x")
	long := strings.Repeat("n", MaxPath+1)
	tests := []struct {
		name  string
		tar   []byte
		entry string
		err   string
	}{
		{"no tar", bytes.Repeat([]byte("text"), 200), "", "not a tar: wrong header checksum"},
		{"less than a block", []byte("text"), "", "cut short"},
		{"wrong checksum", join(good, rawHeader{name: "bad", sum: "0001234"}.block()), "good", "before byte 1536 of the tar: wrong header checksum"},
		{"header cut short", join(good, file("cut", "")[:100]), "good", "cut short"},
		{"content cut short", join(good, file("cut", "content")[:515]), "cut", "cut short"},
		{"size past the stream", join(good, rawHeader{name: "big", typ: '0', size: octal(1 << 30)}.block(), endOfTar), "big", "cut short"},
		{"absurd size", join(good, rawHeader{name: "big", typ: '0', size: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}.block()), "big", "size 9223372036854775807"},
		{"negative size", rawHeader{name: "neg", typ: '0', size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}.block(), "neg", "size -1"},
		{"negative size of a directory", rawHeader{name: "neg", typ: '5', size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}.block(), "neg", "size -1"},
		{"negative PAX size", join(pax(paxSize, "-1"), file("neg", "")), "neg", "size -1"},
		{"number over 63 bits", join(good, rawHeader{name: "big", typ: '0', size: "\x80\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"}.block()), "good", "malformed number"},
		{"no octal number", join(good, rawHeader{name: "bad", typ: '0', mode: "0000888"}.block()), "good", "malformed number"},
		{"user id 2^32-1", join(pax(paxUID, "4294967295"), file("f", "")), "f", "user id 4294967295"},
		{"group id 2^32-1", join(pax(paxGID, "4294967295"), file("f", "")), "f", "group id 4294967295"},
		{"negative user id", rawHeader{name: "f", typ: '0', uid: "\xff\xff\xff\xff\xff\xff\xff\xff"}.block(), "f", "user id -1"},
		{"user id that is none", join(pax(paxUID, "root"), file("f", "")), "f", `PAX uid "root": malformed number`},
		{"device number over 32 bits", rawHeader{name: "d", typ: '3', major: "\x80\x00\x00\x01\x00\x00\x00\x00"}.block(), "d", "device number 4294967296:0"},
		{"NUL in a PAX path", join(pax(paxPath, "a\x00b"), file("f", "")), "PaxHeaders.0/x", "path has a NUL"},
		{"NUL in a PAX link target", join(pax(paxLinkpath, "a\x00b"), file("f", "")), "PaxHeaders.0/x", "linkpath has a NUL"},
		{"NUL in a sparse name", join(pax(paxSparseName, "a\x00b"), file("f", "")), "PaxHeaders.0/x", "GNU.sparse.name has a NUL"},
		{"NUL in an attribute's name", join(pax(paxXattr+"a\x00b", "v"), file("f", "")), "PaxHeaders.0/x", "malformed PAX record"},
		{"encoded NUL in an attribute's name", join(pax(paxXattrArchive+"a%00b", "dg"), file("f", "")), "f", "attribute name"},
		{"malformed percent sign", join(pax(paxXattrArchive+"a%zz", "dg"), file("f", "")), "f", "invalid URL escape"},
		{"malformed base64", join(pax(paxXattrArchive+"a", "d!"), file("f", "")), "f", "illegal base64"},
		{"attribute twice", join(pax(paxXattrArchive+"a", "dg", paxXattrArchive+"%61", "dg"), file("f", "")), "f", `attribute "a" twice`},
		{"attribute without a name", join(pax(paxXattr, "v"), file("f", "")), "f", "attribute name"},
		{"long attribute name", join(pax(paxXattr+strings.Repeat("a", 256), "v"), file("f", "")), "f", "attribute name"},
		{"long attribute", join(pax(paxXattr+"a", strings.Repeat("v", maxXattrValue+1)), file("f", "")), "f", `attribute "a" of 65537 bytes`},
		{"malformed time", join(pax(paxMtime, "1.5x"), file("f", "")), "f", "malformed number"},
		{"time below all", join(pax(paxMtime, "-9223372036854775808.5"), file("f", "")), "f", "malformed number"},
		{"malformed access time", join(pax(paxAtime, "noon"), file("f", "")), "f", "malformed number"},
		{"record without a length", join(rawHeader{typ: 'x', name: "x"}.with("path=a\n"), file("f", "")), "x", "malformed PAX record"},
		{"record that is too long", join(rawHeader{typ: 'x', name: "x"}.with("99 path=a\n"), file("f", "")), "x", "malformed PAX record"},
		{"record without an end", join(rawHeader{typ: 'x', name: "x"}.with("9 path=a "), file("f", "")), "x", "malformed PAX record"},
		{"malformed global record", join(rawHeader{typ: 'g', name: "g"}.with("9 path=a "), file("f", "")), "g", "malformed PAX record"},
		{"long PAX header", join(rawHeader{typ: 'x', name: "x", size: octal(maxSpecial + 1)}.block(), make([]byte, 2<<20)), "x", "over 1 MiB"},
		{"long GNU name", join(rawHeader{typ: 'L', name: "L", magic: gnuMagic, size: octal(maxSpecial + 1)}.block(), make([]byte, 2<<20)), "L", "over 1 MiB"},
		{"GNU name cut short", rawHeader{typ: 'L', name: "L", magic: gnuMagic, size: octal(600)}.with("abc"), "L", "cut short"},
		{"path of 4097 bytes", join(pax(paxPath, long), file("f", "")), long, "name of 4097 bytes"},
		{"GNU path of 4097 bytes", join(rawHeader{typ: 'L', magic: gnuMagic}.with(long), file("f", "")), long, "name of 4097 bytes"},
		{"target of 4097 bytes", join(rawHeader{typ: 'K', magic: gnuMagic}.with(long), rawHeader{name: "l", typ: '2'}.block()), "l", "target of 4097 bytes"},
		{"zeros, then a header", join(good, make([]byte, blockSize), good), "good", "after a single block of zeros"},
		{"zeros, then half a block", join(good, make([]byte, blockSize+100)), "good", "cut short"},
		{"sparse, version 1.0: no map", sparse1("10", "", ""), "sparse", "cut short"},
		{"sparse, version 1.0: no number", sparse1("10", "x\n", ""), "sparse", "sparse map"},
		{"sparse, version 1.0: fewer than it says", sparse1("10", "9223372036854775807\n0\n1\n", "x"), "sparse", "cut short"},
		{"sparse, version 1.0: too much content", sparse1("10", "1\n0\n1\n", "xy"), "sparse", "does not match"},
		{"sparse, version 1.0: too little content", sparse1("10", "1\n0\n3\n", "xy"), "sparse", "sparse map"},
		{"sparse, version 1.0: overlap", sparse1("10", "2\n0\n2\n1\n2\n", "wxyz"), "sparse", "sparse map"},
		{"sparse, version 1.0: past the size", sparse1("10", "1\n9\n2\n", "xy"), "sparse", "sparse map"},
		{"sparse, version 1.0: negative", sparse1("10", "1\n-1\n2\n", "xy"), "sparse", "sparse map"},
		{"sparse, version 1.0: overflow", sparse1("10", "1\n9223372036854775807\n2\n", "xy"), "sparse", "sparse map"},
		{"sparse, version 1.0: map over 1 MiB", sparse1("10", strings.Repeat("0", 3<<20), ""), "sparse", "over 1 MiB"},
		{"sparse: negative size", sparse1("-10", "0\n", ""), "sparse", "sparse map"},
		{"sparse: size that is none", sparse1("ten", "0\n", ""), "sparse", "malformed number"},
		{"sparse, version 0.1: wrong count", sparse01("10", "2", "0,1", "x"), "sparse", "sparse map"},
		{"sparse, version 0.1: huge count", sparse01("10", "9223372036854775807", "0,1", "x"), "sparse", "sparse map"},
		{"sparse, version 0.1: odd", sparse01("10", "1", "0,1,", "x"), "sparse", "sparse map"},
		{"sparse, version 0.1: no number", sparse01("10", "1", "0,x", "x"), "sparse", "sparse map"},
		{"sparse, version 0.0: out of turn", join(pax(paxSparseNumBytes, "1", paxSparseOffset, "0"), file("f", "")), "PaxHeaders.0/x", "malformed PAX record"},
		{"sparse, version 0.0: two in one", join(pax(paxSparseOffset, "1,2"), file("f", "")), "PaxHeaders.0/x", "malformed PAX record"},
		{"sparse, old: not GNU", rawHeader{name: "s", typ: 'S'}.block(), "s", "not in the format of GNU tar"},
		{"sparse, old: past the size", sparseOld(oldTail(0, "12", "0", "13"), "0123456789a"), "sparse", "sparse map"},
		{"sparse, old: no number", sparseOld(oldTail(0, "12", "0", "x"), ""), "sparse", "malformed number"},
		{"sparse, old: extension is missing", sparseOld(oldTail(1, "12", "0", "1"), ""), "sparse", "cut short"},
		{"sparse, old: no end of extensions", join(sparseOld(oldTail(1, "12"), ""), bytes.Repeat(join(make([]byte, 504), []byte{1}, make([]byte, 7)), 2100)), "sparse", "over 1 MiB"},
		{"sparse directory", join(pax(paxSparseMajor, "1", paxSparseMinor, "0"), rawHeader{name: "d/", typ: '5'}.block()), "d/", "type without content"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := walk(t, test.tar)
			var e *EntryError
			if !errors.As(err, &e) || !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			if e.Entry != test.entry || !strings.Contains(e.Err.Error(), test.err) || e.Blob != "sha256:test" {
				t.Errorf("error %.300v, want entry %.100q and %q", err, test.entry, test.err)
			}
			compareWalks(t, test.tar)
		})
	}
}

func TestOddTarsAreRead(t *testing.T) {
	many := strings.Repeat("0\n0\n", 2000)
	tests := []struct {
		name string
		tar  []byte
		want []string // each entry: type, name, size, extents
	}{
		{"nothing", nil, nil},
		{"only the end", endOfTar, nil},
		{"one block of zeros", make([]byte, blockSize), nil},
		{"no end", file("f", "x"), []string{"0 f 1 [{0 512 1}]"}},
		{"no padding at the end", file("f", "x")[:513], []string{"0 f 1 [{0 512 1}]"}},
		{"half of the padding", file("f", "x")[:600], []string{"0 f 1 [{0 512 1}]"}},
		{"entries after the end", join(file("f", "x"), endOfTar, file("g", "y")), []string{"0 f 1 [{0 512 1}]"}},
		{"garbage after the end", join(file("f", "x"), endOfTar, []byte("garbage")), []string{"0 f 1 [{0 512 1}]"}},
		{"empty name", file("", ""), []string{"0  0 []"}},
		{"NUL type", rawHeader{name: "f"}.with("x"), []string{"0 f 1 [{0 512 1}]"}},
		{"NUL type and a slash: its size is no content", join(rawHeader{name: "d/", size: octal(9)}.block(), file("f", "")), []string{"5 d/ 0 []", "0 f 0 []"}},
		{"type 7", rawHeader{name: "f", typ: '7'}.with("x"), []string{"0 f 1 [{0 512 1}]"}},
		{"unknown type with content", join(rawHeader{name: "u", typ: 'Z'}.with("x"), file("f", "")), []string{"Z u 1 [{0 512 1}]", "0 f 0 []"}},
		{"directory with a size", join(rawHeader{name: "d", typ: '5', size: octal(4096)}.block(), file("f", "")), []string{"5 d 0 []", "0 f 0 []"}},
		{"hard link with a size", join(rawHeader{name: "h", typ: '1', size: octal(4096)}.block(), file("f", "")), []string{"1 h 0 []", "0 f 0 []"}},
		{"path in pieces", rawHeader{name: "b", prefix: "a", typ: '0'}.block(), []string{"0 a/b 0 []"}},
		{"star's prefix is shorter", rawHeader{name: "b", typ: '0', tail: "a" + strings.Repeat("\x00", 130) + "00000000000 00000000000 " + strings.Repeat("\x00", 8) + "tar\x00"}.block(), []string{"0 a/b 0 []"}},
		{"prefix in a GNU header of Go before 1.8", rawHeader{name: "b", typ: '0', magic: gnuMagic, tail: "apath"}.block(), []string{"0 apath/b 0 []"}},
		{"sum of signed bytes", rawHeader{name: "\xff", typ: '0', signed: true}.block(), []string{"0 \xff 0 []"}},
		{"GNU names", join(rawHeader{typ: 'L', magic: gnuMagic}.with("long\x00er"), rawHeader{typ: 'K', magic: gnuMagic}.with("target\x00"), rawHeader{name: "l", typ: '2'}.block()), []string{"2 long 0 []"}},
		{"PAX name over GNU's", join(rawHeader{typ: 'L', magic: gnuMagic}.with("gnu\x00"), pax(paxPath, "pax"), file("f", "")), []string{"0 gnu 0 []"}},
		{"only the last PAX header counts", join(pax(paxPath, "first"), pax(paxUID, "1"), file("f", "")), []string{"0 f 0 []"}},
		{"PAX header with nothing after it", pax(paxPath, "first"), nil},
		{"PAX size over the header's", join(pax(paxSize, "1"), rawHeader{name: "f", typ: '0', size: octal(4096)}.block(), padded("x"), file("g", "")), []string{"0 f 1 [{0 1536 1}]", "0 g 0 []"}},
		{"empty PAX value leaves the header's", join(pax(paxPath, ""), file("f", "")), []string{"0 f 0 []"}},
		{"global header changes nothing", join(paxOf('g', paxPath, "g", paxUID, "seven"), file("f", "")), []string{"0 f 0 []"}},
		{"global header makes what came before forgotten", join(pax(paxPath, "p"), paxOf('g', "comment", "c"), file("f", "")), []string{"0 f 0 []"}},
		{"sparse, version 1.0", sparse1("10", "2\n1\n2\n5\n3\n", "abcde"), []string{"0 sparse 10 [{1 2048 2} {5 2050 3}]"}},
		{"sparse, version 1.0, map of many blocks", sparse1("10", "2000\n"+many, ""), []string{"0 sparse 10 []"}},
		{"sparse, version 0.1", sparse01("10", "2", "1,2,5,3", "abcde"), []string{"0 sparse 10 [{1 1536 2} {5 1538 3}]"}},
		{"sparse, version 0.0", join(pax(paxSparseSize, "10", paxSparseNumBlocks, "1", paxSparseOffset, "4", paxSparseNumBytes, "2"), file("sparse", "ab")), []string{"0 sparse 10 [{4 1536 2}]"}},
		{"sparse, a hole only", sparse01("10", "0", "", ""), []string{"0 sparse 10 []"}},
		{"sparse, unknown version", join(pax(paxSparseMajor, "2", paxSparseMinor, "0"), file("f", "x")), []string{"0 f 1 [{0 1536 1}]"}},
		{"sparse, old", sparseOld(oldTail(0, "12", "1", "2", "5", "3"), "abcde"), []string{"0 sparse 10 [{1 512 2} {5 514 3}]"}},
		{"sparse, old, extended", join(rawHeader{name: "s", typ: 'S', magic: gnuMagic, size: octal(3), tail: oldTail(1, "12", "1", "2")}.block(), padded(fmt.Sprintf("%-12s%-12s", "5", "1")), padded("abc")), []string{"0 s 10 [{1 1024 2} {5 1026 1}]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			list, err := walk(t, test.tar)
			check(t, err)
			var got []string
			for _, e := range list {
				got = append(got, fmt.Sprintf("%c %s %d %v", e.Type, e.Name, e.Size, e.Extents))
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			compareWalks(t, test.tar)
		})
	}
}

func TestPAXRecordsAreKept(t *testing.T) {
	list, err := walk(t, join(
		pax(paxMtime, "-1.25", paxUID, "4294967294", paxGID, "3000000", paxMajor, "300000", paxMinor, "5",
			paxXattr+"user.b", "\x00\xff=\n", paxXattr+"user.empty", "", paxXattrArchive+"user.a%3Db%20", "aGk", paxXattrArchive+"user.b", "aGk="),
		rawHeader{name: "c", typ: '3', mode: "0107777"}.block()))
	check(t, err)
	want := Entry{Name: "c", Type: '3', Mode: 0o7777, UID: MaxID, GID: 3000000, MtimeSec: -2, MtimeNsec: 750000000, Major: 300000, Minor: 5,
		Xattrs: []Xattr{{"user.a=b ", "hi"}, {"user.b", "\x00\xff=\n"}, {"user.empty", ""}}}
	if len(list) != 1 || fmt.Sprintf("%+v", list[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v, want %+v", list, want)
	}
}

// A failing reader gives some bytes and an error.
func failing(b []byte, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(b), errReader{err})
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
