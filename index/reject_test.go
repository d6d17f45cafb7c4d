package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	img "imgfs/internal/testimage"
)

// sparse1 is a file in version 1.0 of GNU's PAX form, with the given map.
func sparse1(realSize, sparseMap, content string) img.Entry {
	padded := sparseMap + string(make([]byte, padding(int64(len(sparseMap)))))
	return img.File("GNUSparseFile.0/sparse", padded+content,
		img.PAX(paxSparseMajor, "1"), img.PAX(paxSparseMinor, "0"), img.PAX(paxSparseName, "sparse"), img.PAX(paxSparseRealSize, realSize))
}

// sparse01 is a file in version 0.1.
func sparse01(size, blocks, sparseMap, content string) img.Entry {
	return img.File("sparse", content,
		img.PAX(paxSparseMajor, "0"), img.PAX(paxSparseMinor, "1"), img.PAX(paxSparseSize, size), img.PAX(paxSparseNumBlocks, blocks), img.PAX(paxSparseMap, sparseMap))
}

// Where some fields of a header are, for img.Field.
const (
	modeField   = 100
	uidField    = 108
	sizeField   = 124
	sumField    = 148
	prefixField = 345
	mapField    = 386 // of an old sparse file
	moreField   = 482 // whether a sparse map goes on in the next block
)

func TestMalformedTarsAreRefusedWithTheirEntry(t *testing.T) {
	good := img.File("good", "x")
	long := strings.Repeat("n", MaxName+1)
	extension := make([]byte, blockSize) // of an old sparse map
	extension[504] = 1                   // there is another
	tests := []struct {
		name  string
		tar   []byte
		entry string
		err   string
	}{
		{"no tar", bytes.Repeat([]byte("text"), 200), "", "not a tar: wrong header checksum"},
		{"less than a block", []byte("text"), "", "cut short"},
		{"wrong checksum", tarOf(good, img.File("bad", "", img.Field(sumField, "0001234"))), "good", "before byte 1536 of the tar: wrong header checksum"},
		{"header cut short", tarOf(good, img.Blocks(tarOf(img.File("cut", ""))[:100])), "good", "cut short"},
		{"content cut short", tarOf(good, img.Blocks(tarOf(img.File("cut", "content"))[:515])), "cut", "cut short"},
		{"size past the stream", tarOf(good, img.File("big", "", img.Size(1<<30)), img.End()), "big", "cut short"},
		{"absurd size", tarOf(good, img.File("big", "", img.Field(sizeField, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"))), "big", "size 9223372036854775807"},
		{"negative size", tarOf(img.File("neg", "", img.Field(sizeField, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))), "neg", "size -1"},
		{"negative size of a directory", tarOf(img.Dir("neg", img.Field(sizeField, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))), "neg", "size -1"},
		{"negative PAX size", tarOf(img.File("neg", "", img.PAX(paxSize, "-1"))), "neg", "size -1"},
		{"number over 63 bits", tarOf(good, img.File("big", "", img.Field(sizeField, "\x80\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))), "good", "malformed number"},
		{"no octal number", tarOf(good, img.File("bad", "", img.Field(modeField, "0000888"))), "good", "malformed number"},
		{"user id 2^32-1", tarOf(img.File("f", "", img.PAX(paxUID, "4294967295"))), "f", "user id 4294967295"},
		{"group id 2^32-1", tarOf(img.File("f", "", img.PAX(paxGID, "4294967295"))), "f", "group id 4294967295"},
		{"negative user id", tarOf(img.File("f", "", img.Field(uidField, "\xff\xff\xff\xff\xff\xff\xff\xff"))), "f", "user id -1"},
		{"user id that is none", tarOf(img.File("f", "", img.PAX(paxUID, "root"))), "f", `PAX uid "root": malformed number`},
		{"device number over 32 bits", tarOf(img.Char("d", 1<<32, 0)), "d", "device number 4294967296:0"},
		{"NUL in a PAX path", tarOf(img.File("f", "", img.PAX(paxPath, "a\x00b"))), "PaxHeaders/entry", "path has a NUL"},
		{"NUL in a PAX link target", tarOf(img.File("f", "", img.PAX(paxLinkpath, "a\x00b"))), "PaxHeaders/entry", "linkpath has a NUL"},
		{"NUL in a sparse name", tarOf(img.File("f", "", img.PAX(paxSparseName, "a\x00b"))), "PaxHeaders/entry", "GNU.sparse.name has a NUL"},
		{"NUL in an attribute's name", tarOf(img.File("f", "", img.PAX(paxXattr+"a\x00b", "v"))), "PaxHeaders/entry", "malformed PAX record"},
		{"attribute without a name", tarOf(img.File("f", "", img.PAX(paxXattr, "v"))), "f", "attribute name"},
		{"long attribute name", tarOf(img.File("f", "", img.PAX(paxXattr+strings.Repeat("a", 256), "v"))), "f", "attribute name"},
		{"long attribute", tarOf(img.File("f", "", img.PAX(paxXattr+"a", strings.Repeat("v", maxXattrValue+1)))), "f", `attribute "a" of 65537 bytes`},
		{"malformed time", tarOf(img.File("f", "", img.PAX(paxMtime, "1.5x"))), "f", "malformed number"},
		{"time below all", tarOf(img.File("f", "", img.PAX(paxMtime, "-9223372036854775808.5"))), "f", "malformed number"},
		{"malformed access time", tarOf(img.File("f", "", img.PAX(paxAtime, "noon"))), "f", "malformed number"},
		{"record without a length", tarOf(img.File("x", "path=a\n", img.Type(typePAX)), img.File("f", "")), "x", "malformed PAX record"},
		{"record that is too long", tarOf(img.File("x", "99 path=a\n", img.Type(typePAX)), img.File("f", "")), "x", "malformed PAX record"},
		{"record without an end", tarOf(img.File("x", "9 path=a ", img.Type(typePAX)), img.File("f", "")), "x", "malformed PAX record"},
		{"malformed global record", tarOf(img.File("g", "9 path=a ", img.Type(typePAXGlobal)), img.File("f", "")), "g", "malformed PAX record"},
		{"long PAX header", tarOf(img.File("x", "", img.Type(typePAX), img.Size(maxSpecial+1)), img.Blocks(make([]byte, 2<<20))), "x", "over 1 MiB"},
		{"long GNU name", tarOf(img.File("L", "", img.Type(typeLongName), img.GNU(), img.Size(maxSpecial+1)), img.Blocks(make([]byte, 2<<20))), "L", "over 1 MiB"},
		{"GNU name cut short", tarOf(img.File("L", "abc", img.Type(typeLongName), img.GNU(), img.Size(600))), "L", "cut short"},
		{"path of 65537 bytes", tarOf(img.File(long, "")), long, "name of 65537 bytes"},
		{"GNU path of 65537 bytes", tarOf(img.File(long, "", img.GNU())), long, "name of 65537 bytes"},
		{"target of 65537 bytes", tarOf(img.Symlink("l", long, img.GNU())), "l", "target of 65537 bytes"},
		{"zeros, then a header", tarOf(good, img.Blocks(make([]byte, blockSize)), good), "good", "after a single block of zeros"},
		{"zeros, then half a block", tarOf(good, img.Blocks(make([]byte, blockSize+100))), "good", "cut short"},
		{"sparse, version 1.0: no map", tarOf(sparse1("10", "", "")), "sparse", "cut short"},
		{"sparse, version 1.0: no number", tarOf(sparse1("10", "x\n", "")), "sparse", "sparse map"},
		{"sparse, version 1.0: fewer than it says", tarOf(sparse1("10", "9223372036854775807\n0\n1\n", "x")), "sparse", "cut short"},
		{"sparse, version 1.0: too much content", tarOf(sparse1("10", "1\n0\n1\n", "xy")), "sparse", "does not match"},
		{"sparse, version 1.0: too little content", tarOf(sparse1("10", "1\n0\n3\n", "xy")), "sparse", "sparse map"},
		{"sparse, version 1.0: overlap", tarOf(sparse1("10", "2\n0\n2\n1\n2\n", "wxyz")), "sparse", "sparse map"},
		{"sparse, version 1.0: past the size", tarOf(sparse1("10", "1\n9\n2\n", "xy")), "sparse", "sparse map"},
		{"sparse, version 1.0: negative", tarOf(sparse1("10", "1\n-1\n2\n", "xy")), "sparse", "sparse map"},
		{"sparse, version 1.0: overflow", tarOf(sparse1("10", "1\n9223372036854775807\n2\n", "xy")), "sparse", "sparse map"},
		{"sparse, version 1.0: map over 1 MiB", tarOf(sparse1("10", strings.Repeat("0", 3<<20), "")), "sparse", "over 1 MiB"},
		{"sparse: negative size", tarOf(sparse1("-10", "0\n", "")), "sparse", "sparse map"},
		{"sparse: size that is none", tarOf(sparse1("ten", "0\n", "")), "sparse", "malformed number"},
		{"sparse, version 0.1: wrong count", tarOf(sparse01("10", "2", "0,1", "x")), "sparse", "sparse map"},
		{"sparse, version 0.1: huge count", tarOf(sparse01("10", "9223372036854775807", "0,1", "x")), "sparse", "sparse map"},
		{"sparse, version 0.1: odd", tarOf(sparse01("10", "1", "0,1,", "x")), "sparse", "sparse map"},
		{"sparse, version 0.1: no number", tarOf(sparse01("10", "1", "0,x", "x")), "sparse", "sparse map"},
		{"sparse, version 0.0: out of turn", tarOf(img.File("f", "", img.PAX(paxSparseNumBytes, "1"), img.PAX(paxSparseOffset, "0"))), "PaxHeaders/entry", "malformed PAX record"},
		{"sparse, version 0.0: two in one", tarOf(img.File("f", "", img.PAX(paxSparseOffset, "1,2"))), "PaxHeaders/entry", "malformed PAX record"},
		{"sparse, old: not GNU", tarOf(img.File("s", "", img.Type(typeGNUSparse))), "s", "not in the format of GNU tar"},
		{"sparse, old: past the size", tarOf(img.SparseGNU("sparse", 10, []img.Segment{{Data: "0123456789a"}})), "sparse", "sparse map"},
		{"sparse, old: no number", tarOf(img.SparseGNU("sparse", 10, nil, img.Field(mapField, "x"))), "sparse", "malformed number"},
		{"sparse, old: extension is missing", tarOf(img.SparseGNU("sparse", 10, nil, img.Field(moreField, "\x01"))), "sparse", "cut short"},
		{"sparse, old: no end of extensions", tarOf(img.SparseGNU("sparse", 10, nil, img.Field(moreField, "\x01")), img.Blocks(bytes.Repeat(extension, 2100))), "sparse", "over 1 MiB"},
		{"sparse directory", tarOf(img.Dir("d/", img.PAX(paxSparseMajor, "1"), img.PAX(paxSparseMinor, "0"))), "d/", "type without content"},
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
	spelling := strings.Repeat("./", 2100) + "g"
	tests := []struct {
		name string
		tar  []byte
		want []string // each entry: type, name, size, extents
	}{
		{"nothing", nil, nil},
		{"only the end", tarOf(img.End()), nil},
		{"one block of zeros", tarOf(img.Blocks(make([]byte, blockSize))), nil},
		{"no end", tarOf(img.File("f", "x")), []string{"0 f 1 [{0 512 1}]"}},
		{"no padding at the end", tarOf(img.File("f", "x"))[:513], []string{"0 f 1 [{0 512 1}]"}},
		{"half of the padding", tarOf(img.File("f", "x"))[:600], []string{"0 f 1 [{0 512 1}]"}},
		{"entries after the end", tarOf(img.File("f", "x"), img.End(), img.File("g", "y")), []string{"0 f 1 [{0 512 1}]"}},
		{"garbage after the end", tarOf(img.File("f", "x"), img.End(), img.Blocks([]byte("garbage"))), []string{"0 f 1 [{0 512 1}]"}},
		{"empty name", tarOf(img.File("", "")), []string{"0  0 []"}},
		{"NUL type", tarOf(img.File("f", "x", img.Type(0))), []string{"0 f 1 [{0 512 1}]"}},
		{"NUL type and a slash: its size is no content", tarOf(img.File("d/", "", img.Type(0), img.Size(9)), img.File("f", "")), []string{"5 d/ 0 []", "0 f 0 []"}},
		{"type 7", tarOf(img.File("f", "x", img.Type(typeCont))), []string{"0 f 1 [{0 512 1}]"}},
		{"unknown type with content", tarOf(img.File("u", "x", img.Type('Z')), img.File("f", "")), []string{"Z u 1 [{0 512 1}]", "0 f 0 []"}},
		{"directory with a size", tarOf(img.Dir("d", img.Size(4096)), img.File("f", "")), []string{"5 d 0 []", "0 f 0 []"}},
		{"hard link with a size", tarOf(img.Link("h", "", img.Size(4096)), img.File("f", "")), []string{"1 h 0 []", "0 f 0 []"}},
		{"path in pieces", tarOf(img.File("b", "", img.Field(prefixField, "a"))), []string{"0 a/b 0 []"}},
		{"star's prefix is shorter", tarOf(img.File("b", "", img.Field(prefixField, "a"+zeros(130)+"00000000000 00000000000 "+zeros(8)+"tar\x00"))), []string{"0 a/b 0 []"}},
		{"prefix in a GNU header of Go before 1.8", tarOf(img.File("b", "", img.GNU(), img.Field(prefixField, "apath"))), []string{"0 apath/b 0 []"}},
		{"sum of signed bytes", tarOf(img.File("\xff", "", img.Field(sumField, "007236\x00 "))), []string{"0 \xff 0 []"}},
		{"GNU names", tarOf(img.File("", "long\x00er", img.Type(typeLongName), img.GNU()), img.File("", "target\x00", img.Type(typeLongLink), img.GNU()), img.Symlink("l", "")), []string{"2 long 0 []"}},
		{"long spelling of a short name", tarOf(img.File(spelling, "")), []string{"0 " + spelling + " 0 []"}},
		{"long GNU spelling", tarOf(img.Link(spelling, spelling, img.GNU())), []string{"1 " + spelling + " 0 []"}},
		{"long link target of what isn't a link", tarOf(img.File("f", "", img.PAX(paxLinkpath, strings.Repeat("t", MaxName+1)))), []string{"0 f 0 []"}},
		{"PAX name over GNU's", tarOf(img.File("", "gnu\x00", img.Type(typeLongName), img.GNU()), img.File("f", "", img.PAX(paxPath, "pax"))), []string{"0 gnu 0 []"}},
		{"only the last PAX header counts", tarOf(img.File("x", "14 path=first\n", img.Type(typePAX)), img.File("f", "", img.PAX(paxUID, "1"))), []string{"0 f 0 []"}},
		{"PAX header with nothing after it", tarOf(img.File("x", "14 path=first\n", img.Type(typePAX))), nil},
		{"PAX size over the header's", tarOf(img.File("f", "", img.Size(4096), img.PAX(paxSize, "1")), img.Blocks(append([]byte("x"), make([]byte, 511)...)), img.File("g", "")), []string{"0 f 1 [{0 1536 1}]", "0 g 0 []"}},
		{"empty PAX value leaves the header's", tarOf(img.File("f", "", img.PAX(paxPath, ""))), []string{"0 f 0 []"}},
		{"global header changes nothing", tarOf(img.GlobalPAX(paxPath, "g", paxUID, "seven"), img.File("f", "")), []string{"0 f 0 []"}},
		{"global header makes what came before forgotten", tarOf(img.File("x", "10 path=p\n", img.Type(typePAX)), img.GlobalPAX("comment", "c"), img.File("f", "")), []string{"0 f 0 []"}},
		{"sparse, version 1.0", tarOf(sparse1("10", "2\n1\n2\n5\n3\n", "abcde")), []string{"0 sparse 10 [{1 2048 2} {5 2050 3}]"}},
		{"sparse, version 1.0, map of many blocks", tarOf(sparse1("10", "2000\n"+many, "")), []string{"0 sparse 10 []"}},
		{"sparse, version 0.1", tarOf(sparse01("10", "2", "1,2,5,3", "abcde")), []string{"0 sparse 10 [{1 1536 2} {5 1538 3}]"}},
		{"sparse, version 0.0", tarOf(img.SparsePAX00("sparse", 10, []img.Segment{{Offset: 4, Data: "ab"}})), []string{"0 sparse 10 [{4 1536 2}]"}},
		{"sparse, a hole only", tarOf(sparse01("10", "0", "", "")), []string{"0 sparse 10 []"}},
		{"sparse, unknown version", tarOf(img.File("f", "x", img.PAX(paxSparseMajor, "2"), img.PAX(paxSparseMinor, "0"))), []string{"0 f 1 [{0 1536 1}]"}},
		{"sparse, old", tarOf(img.SparseGNU("sparse", 10, []img.Segment{{Offset: 1, Data: "ab"}, {Offset: 5, Data: "cde"}})), []string{"0 sparse 10 [{1 512 2} {5 514 3}]"}},
		{"sparse, old, extended", tarOf(img.SparseGNU("s", 10, []img.Segment{{Offset: 0, Data: "a"}, {Offset: 2, Data: "b"}, {Offset: 4, Data: "c"}, {Offset: 6, Data: "d"}, {Offset: 8, Data: "ef"}})), []string{"0 s 10 [{0 1024 1} {2 1025 1} {4 1026 1} {6 1027 1} {8 1028 2}]"}},
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
	list, err := walk(t, tarOf(img.Char("c", 0, 0, img.Mode(0o107777),
		img.PAX(paxMtime, "-1.25"), img.PAX(paxUID, "4294967294"), img.PAX(paxGID, "3000000"), img.PAX(paxMajor, "300000"), img.PAX(paxMinor, "5"),
		img.Xattr("user.b", "\x00\xff=\n"), img.Xattr("user.empty", ""), img.PAX(paxXattrArchive+"user.a%3Db%20", "aGk"), img.PAX(paxXattrArchive+"user.b", "aGk="))))
	check(t, err)
	want := Entry{Name: "c", Type: '3', Mode: 0o7777, UID: MaxID, GID: 3000000, MtimeSec: -2, MtimeNsec: 750000000, Major: 300000, Minor: 5,
		Xattrs: []Xattr{{"user.a=b ", "hi"}, {"user.b", "\x00\xff=\n"}, {"user.empty", ""}}}
	if len(list) != 1 || fmt.Sprintf("%+v", list[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v, want %+v", list, want)
	}
}

func TestAttributesOfLibarchiveThatCannotBeReadAreIgnored(t *testing.T) {
	good := img.LibarchiveXattr("user.z", "z")
	for name, test := range map[string]struct {
		key, value string
		want       []Xattr
	}{
		"percent sign":    {"user.a%zz", "dg", nil},
		"base64":          {"user.a", "d!", nil},
		"NUL in the name": {"user.a%00b", "dg", nil},
		"no name":         {"", "dg", nil},
		"long name":       {strings.Repeat("a", maxXattrName+1), "dg", nil},
		"long value":      {"user.a", strings.Repeat("AAAA", maxXattrValue/3+1), nil},
		"the same twice":  {"user.%7A", "ew", nil},
		"SCHILY has it":   {"user.%62", "Yg", nil},
		"readable":        {"user.a", "dg==", []Xattr{{"user.a", "v"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := tarOf(img.File("f", "", good, img.Xattr("user.b", "right"), img.PAX(paxXattrArchive+test.key, test.value)))
			list, err := walk(t, b)
			check(t, err)
			want := append(test.want, Xattr{"user.b", "right"}, Xattr{"user.z", "z"})
			if d := cmp.Diff(want, list[0].Xattrs); d != "" {
				t.Error(d)
			}
			compareWalks(t, b)
		})
	}
}

func TestErrorsShowTheStartOfLongNamesAndValues(t *testing.T) {
	long := strings.Repeat("\xff", 900_000)
	for name, file := range map[string]img.Entry{
		"name":             img.File(long, ""),
		"number":           img.File("f", "", img.PAX(paxUID, long)),
		"attribute's name": img.File("f", "", img.PAX(paxXattr+long, "v")),
		"both":             img.File(long[:MaxName], "", img.PAX(paxMtime, long[MaxName:2*MaxName])),
	} {
		t.Run(name, func(t *testing.T) {
			err := Build(bytes.NewReader(tarOf(file)), Want{Size: -1}, Output{Index: io.Discard})
			if !errors.Is(err, ErrMalformed) || len(err.Error()) > 3000 || !strings.Contains(err.Error(), `\xff"…`) {
				t.Errorf("%d bytes: %.3000v", len(err.Error()), err)
			}
		})
	}
}

// A failing reader gives some bytes and an error.
func failing(b []byte, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(b), errReader{err})
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
