package index

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// bigTar is a tar of several spans, some of whose content compresses well and some not at all.
func bigTar(r *rand.Rand, size int) []byte {
	var b []byte
	for i := 0; len(b) < size; i++ {
		c := make([]byte, r.IntN(300<<10))
		if i%2 == 0 {
			for j := range c {
				c[j] = byte(r.Uint32())
			}
		} else {
			for j := range c {
				c[j] = "the quick brown fox"[(j*j>>7+r.IntN(3))%19]
			}
		}
		b = append(b, file(fmt.Sprintf("dir/file%d", i), string(c))...)
	}
	return append(b, endOfTar...)
}

// members compresses pieces of b, each into a member of its own, with empty members between them.
func members(t testing.TB, b []byte, size int) []byte {
	t.Helper()
	var out []byte
	for len(b) > 0 {
		n := min(size, len(b))
		out = append(out, gz(t, b[:n], 6)...)
		out = append(out, gz(t, nil, 6)...)
		b = b[n:]
	}
	return out
}

// named compresses with all that a member's header can have.
func named(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Name, w.Comment, w.Extra = "layer.tar", "no comment", []byte("extra")
	_, err := w.Write(b)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}

// A corpus is a tar and blobs that hold it.
type corpus struct {
	tar   []byte
	blobs map[string][]byte
}

var theCorpus corpus // made once: it takes a while

// shapes gives one tar in all the forms that blobs come in.
func shapes(t testing.TB) *corpus {
	t.Helper()
	c := &theCorpus
	if c.blobs != nil {
		return c
	}
	b := join(bigTar(rand.New(rand.NewPCG(3, 4)), 3<<20), []byte("bytes after the end"))
	c.tar = b
	c.blobs = map[string][]byte{
		"tar":            b,
		"gzip -1":        gz(t, b, 1),
		"gzip -6":        gz(t, b, 6),
		"stored":         gz(t, b, 0),
		"huffman only":   gz(t, b, gzip.HuffmanOnly),
		"header fields":  named(t, b),
		"small members":  members(t, b, 10000),
		"big members":    members(t, b, 3<<20),
		"nothing first":  append(bytes.Repeat(gz(t, nil, 6), 5<<18/len(gz(t, nil, 6))), gz(t, b, 6)...),
		"trailing zeros": append(gz(t, b, 6), make([]byte, maxPending+1<<20)...),
		"GNU gzip":       pipe(t, b, "gzip", "-9"),
	}
	return c
}

func TestIndexTellsWhatIsInTheBlob(t *testing.T) {
	c := shapes(t)
	b := c.tar
	want, err := walk(t, b)
	check(t, err)
	for name, blob := range c.blobs {
		t.Run(name, func(t *testing.T) {
			x := mustOpen(t, mustBuild(t, blob))
			if x.Blob() != digest.FromBytes(blob) || x.Size() != int64(len(blob)) {
				t.Errorf("blob %s of %d bytes", x.Blob(), x.Size())
			}
			if x.DiffID() != digest.FromBytes(b) || x.TarSize() != int64(len(b)) {
				t.Errorf("tar %s of %d bytes", x.DiffID(), x.TarSize())
			}
			if wantFormat := map[bool]Format{true: Tar, false: Gzip}[name == "tar"]; x.Format() != wantFormat {
				t.Errorf("format %s", x.Format())
			}
			got, err := entriesOf(x)
			check(t, err)
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if x.NumEntries() != len(want) {
				t.Errorf("%d entries", x.NumEntries())
			}
			if x.NumSpans() < 2 || x.NumSpans() > 2+2*len(b)>>20+3 {
				t.Errorf("%d spans", x.NumSpans())
			}
		})
	}
}

func TestBuildGivesTheSameBytesHoweverTheBlobArrives(t *testing.T) {
	for name, blob := range shapes(t).blobs {
		want := mustBuild(t, blob)
		for _, r := range []io.Reader{
			iotest.HalfReader(bytes.NewReader(blob)),
			iotest.DataErrReader(bytes.NewReader(blob)),
		} {
			var got bytes.Buffer
			check(t, Build(r, wantOf(blob), &got))
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: another index", name)
			}
		}
	}
}

func TestAnEmptyBlobIsAnEmptyTar(t *testing.T) {
	x := mustOpen(t, mustBuild(t, nil))
	if x.TarSize() != 0 || x.NumEntries() != 0 || x.NumSpans() != 0 || x.DiffID() != digest.FromBytes(nil) || x.Format() != Tar {
		t.Errorf("%d bytes, %d entries, %d spans, %s, %s", x.TarSize(), x.NumEntries(), x.NumSpans(), x.DiffID(), x.Format())
	}
}

func TestSHA512NamesLayersToo(t *testing.T) {
	b := join(file("f", "x"), endOfTar)
	blob := gz(t, b, 6)
	want := Want{digest.SHA512.FromBytes(blob), -1, digest.SHA512.FromBytes(b)}
	var out bytes.Buffer
	check(t, Build(bytes.NewReader(blob), want, &out))
	if x := mustOpen(t, out.Bytes()); x.Blob() != want.Blob || x.DiffID() != want.DiffID {
		t.Errorf("%s, %s", x.Blob(), x.DiffID())
	}
}

func TestWhatIsNotKnownIsFoundOut(t *testing.T) {
	b := join(file("f", "x"), endOfTar)
	var out bytes.Buffer
	check(t, Build(bytes.NewReader(b), Want{Size: -1}, &out))
	if x := mustOpen(t, out.Bytes()); x.Blob() != digest.FromBytes(b) || x.Size() != int64(len(b)) {
		t.Errorf("%s, %d", x.Blob(), x.Size())
	}
}

func TestAMismatchSaysWhatWasExpectedAndFound(t *testing.T) {
	b := join(file("f", "x"), endOfTar)
	blob := gz(t, b, 6)
	other := digest.FromString("other")
	damaged := bytes.Clone(blob)
	damaged[30] ^= 1
	n := int64(len(blob))
	tests := []struct {
		name string
		blob []byte
		want Want
		err  MismatchError
	}{
		{"another digest", blob, Want{other, n, ""}, MismatchError{other, "digest", other.String(), digest.FromBytes(blob).String()}},
		{"another diff ID", blob, Want{wantOf(blob).Blob, n, other}, MismatchError{wantOf(blob).Blob, "diff ID", other.String(), digest.FromBytes(b).String()}},
		{"too short", blob, Want{wantOf(blob).Blob, n + 1, ""}, MismatchError{wantOf(blob).Blob, "size", fmt.Sprint(n + 1), fmt.Sprint(n)}},
		{"too long", blob, Want{wantOf(blob).Blob, n - 1, ""}, MismatchError{wantOf(blob).Blob, "size", fmt.Sprint(n - 1), fmt.Sprintf("over %d", n-1)}},
		{"cut short", blob[:n-9], wantOf(blob), MismatchError{wantOf(blob).Blob, "size", fmt.Sprint(n), fmt.Sprint(n - 9)}},
		{"damaged", damaged, wantOf(blob), MismatchError{wantOf(blob).Blob, "digest", wantOf(blob).Blob.String(), digest.FromBytes(damaged).String()}},
		{"not a tar", []byte("<html>error</html>"), Want{other, -1, ""}, MismatchError{other, "digest", other.String(), digest.FromString("<html>error</html>").String()}},
		{"zstd, and another digest", []byte("\x28\xb5\x2f\xfd"), Want{other, -1, ""}, MismatchError{other, "digest", other.String(), digest.FromString("\x28\xb5\x2f\xfd").String()}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Build(bytes.NewReader(test.blob), test.want, io.Discard)
			var m *MismatchError
			if !errors.As(err, &m) || *m != test.err {
				t.Fatalf("error %v, want %v", err, &test.err)
			}
			for _, s := range []string{string(m.Blob), m.Expected, m.Found} {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %s", err, s)
				}
			}
		})
	}
}

func TestMalformedBlobsAreRefused(t *testing.T) {
	b := gz(t, join(file("f", "x"), endOfTar), 6)
	crc := bytes.Clone(b)
	crc[len(crc)-8] ^= 1
	size := bytes.Clone(b)
	size[len(size)-4] ^= 1
	tests := []struct {
		name string
		blob []byte
		err  error
	}{
		{"wrong CRC", crc, ErrMalformed},
		{"wrong size", size, ErrMalformed},
		{"cut short", b[:len(b)-1], ErrMalformed},
		{"garbage after the end", append(bytes.Clone(b), "garbage"...), ErrMalformed},
		{"garbage after zeros", append(append(bytes.Clone(b), make([]byte, 10<<20)...), 1), ErrMalformed},
		{"header alone", b[:10], ErrMalformed},
		{"no tar inside", gz(t, bytes.Repeat([]byte("text"), 1000), 6), ErrMalformed},
		{"zstd", []byte("\x28\xb5\x2f\xfd and more"), ErrUnsupported},
		{"zstd after a skippable frame", []byte("\x5a\x2a\x4d\x18\x00\x00\x00\x00"), ErrUnsupported},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Build(bytes.NewReader(test.blob), wantOf(test.blob), io.Discard)
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), digest.FromBytes(test.blob).String()) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestBuildFailsWithWhatTheReaderAndTheWriterFailWith(t *testing.T) {
	blob := gz(t, bigTar(rand.New(rand.NewPCG(7, 8)), 3<<20), 6)
	for _, n := range []int{0, 2, 10, 1000, 1 << 20, len(blob)} {
		for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF} {
			err := Build(failing(blob[:n], broken), wantOf(blob), io.Discard)
			if !errors.Is(err, broken) || errors.Is(err, ErrMalformed) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	}
	full := errors.New("disk full")
	size := len(mustBuild(t, blob))
	for _, n := range []int{0, headSize, size / 3, size * 2 / 3, size - trailerSize - 1000, size - trailerSize, size - 1} {
		if err := Build(bytes.NewReader(blob), wantOf(blob), &failingWriter{n, full}); !errors.Is(err, full) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestBuildRefusesADigestThatIsNone(t *testing.T) {
	for _, want := range []Want{{Blob: "sha256:12"}, {Blob: "md5:d41d8cd98f00b204e9800998ecf8427e"}, {DiffID: "none"}} {
		if err := Build(strings.NewReader(""), want, io.Discard); err == nil {
			t.Errorf("%+v is taken", want)
		}
	}
}

// A failingWriter takes some bytes, and then none.
type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, w.err
	}
	w.left -= len(p)
	return len(p), nil
}

func TestMemoryOfBuildDoesNotGrowWithTheTar(t *testing.T) {
	var once sync.Once
	zeros := newZeroTar(256 << 20)
	before := liveHeap()
	measured := io.TeeReader(zeros, writerFunc(func(p []byte) {
		if zeros.left < 64<<20 {
			once.Do(func() {
				if n := int64(liveHeap() - before); n > 24<<20 {
					t.Errorf("%d MiB of heap after 192 MiB", n>>20)
				}
			})
		}
	}))
	check(t, Build(measured, Want{Size: -1}, io.Discard))
}
