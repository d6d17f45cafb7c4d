package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	img "imgfs/internal/testimage"
)

// bigFiles are files for several spans, some of whose content compresses well and some not at all.
func bigFiles(size int) []img.Entry {
	r := rand.New(rand.NewPCG(3, 4))
	var files []img.Entry
	for i := 0; size > 0; i++ {
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
		files = append(files, img.File(fmt.Sprintf("dir/file%d", i), string(c)))
		size -= len(c)
	}
	return files
}

// A sample is a tar and a blob that holds it.
type sample struct{ tar, blob []byte }

var theSamples map[string]sample // made once: it takes a while

// samples are layers of several spans in all the forms that blobs come in, by their names.
func samples(t testing.TB) map[string]sample {
	t.Helper()
	if theSamples != nil {
		return theSamples
	}
	files := bigFiles(3 << 20)
	b := append(img.Tar(files...), "bytes after the end"...)
	nothing := img.Gzip(nil)
	theSamples = map[string]sample{
		"tar":           {b, b},
		"GNU gzip":      {b, pipe(t, b, "gzip", "-9")},
		"nothing first": {b, append(bytes.Repeat(nothing, 5<<18/len(nothing)), img.Gzip(b)...)},
		"many zeros":    {b, append(img.Gzip(b), make([]byte, maxPending+1<<20)...)},
	}
	for _, shape := range img.GzipShapes() {
		theSamples[shape.Name] = sample{b, shape.Write(b)}
	}
	large := img.Tar(append(bigFiles(5<<20), img.File("zeros", zeros(300_000)))...)
	for _, shape := range img.ZstdShapes() {
		theSamples[shape.Name] = sample{large, shape.Write(large)}
	}
	blob, tar := img.EStargz(files...)
	theSamples["eStargz"] = sample{tar, blob}
	return theSamples
}

// gzipSample is a layer as most are.
func gzipSample(t testing.TB) sample {
	t.Helper()
	return samples(t)["one member"]
}

func TestIndexTellsWhatIsInTheBlob(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			b, blob := s.tar, s.blob
			want, err := walk(t, b)
			check(t, err)
			x := mustOpen(t, mustBuild(t, blob))
			if x.Blob() != digest.FromBytes(blob) || x.Size() != int64(len(blob)) {
				t.Errorf("blob %s of %d bytes", x.Blob(), x.Size())
			}
			if x.DiffID() != digest.FromBytes(b) || x.TarSize() != int64(len(b)) {
				t.Errorf("tar %s of %d bytes", x.DiffID(), x.TarSize())
			}
			format := Gzip
			if name == "tar" {
				format = Tar
			} else if strings.Contains(name, "zstd") {
				format = Zstd
			}
			if x.Format() != format {
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
	for name, s := range samples(t) {
		blob := s.blob
		want, frames := mustBuildBoth(t, blob)
		for _, r := range []io.Reader{
			iotest.HalfReader(bytes.NewReader(blob)),
			iotest.DataErrReader(bytes.NewReader(blob)),
		} {
			var got, gotFrames bytes.Buffer
			check(t, Build(r, wantOf(blob), Output{&got, func() (io.Writer, error) { return &gotFrames, nil }}))
			if !bytes.Equal(got.Bytes(), want) || !bytes.Equal(gotFrames.Bytes(), frames) {
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
	b := img.Tar(img.File("f", "x"))
	blob := img.Gzip(b)
	want := Want{digest.SHA512.FromBytes(blob), -1, digest.SHA512.FromBytes(b)}
	var out bytes.Buffer
	check(t, Build(bytes.NewReader(blob), want, Output{Index: &out}))
	if x := mustOpen(t, out.Bytes()); x.Blob() != want.Blob || x.DiffID() != want.DiffID {
		t.Errorf("%s, %s", x.Blob(), x.DiffID())
	}
}

func TestWhatIsNotKnownIsFoundOut(t *testing.T) {
	b := img.Tar(img.File("f", "x"))
	var out bytes.Buffer
	check(t, Build(bytes.NewReader(b), Want{Size: -1}, Output{Index: &out}))
	if x := mustOpen(t, out.Bytes()); x.Blob() != digest.FromBytes(b) || x.Size() != int64(len(b)) {
		t.Errorf("%s, %d", x.Blob(), x.Size())
	}
}

func TestAMismatchSaysWhatWasExpectedAndFound(t *testing.T) {
	b := img.Tar(img.File("f", "x"))
	blob := img.Gzip(b)
	other := digest.FromString("other")
	damaged := bytes.Clone(blob)
	damaged[30] ^= 1
	late := append(append(bytes.Clone(blob), make([]byte, maxPending)...), 1)
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
		{"garbage after more zeros than are kept", late, Want{other, -1, ""}, MismatchError{other, "digest", other.String(), digest.FromBytes(late).String()}},
		{"not a tar", []byte("<html>error</html>"), Want{other, -1, ""}, MismatchError{other, "digest", other.String(), digest.FromString("<html>error</html>").String()}},
		{"zstd, and another digest", []byte("\x28\xb5\x2f\xfd"), Want{other, -1, ""}, MismatchError{other, "digest", other.String(), digest.FromString("\x28\xb5\x2f\xfd").String()}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Build(bytes.NewReader(test.blob), test.want, Output{Index: io.Discard})
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
	b := img.Gzip(img.Tar(img.File("f", "x")))
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
		{"no tar inside", img.Gzip(bytes.Repeat([]byte("text"), 1000)), ErrMalformed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Build(bytes.NewReader(test.blob), wantOf(test.blob), Output{Index: io.Discard})
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), digest.FromBytes(test.blob).String()) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestBuildFailsWithWhatTheReaderAndTheWriterFailWith(t *testing.T) {
	blob := gzipSample(t).blob
	for _, n := range []int{0, 2, 10, 1000, 1 << 20, len(blob)} {
		for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF} {
			err := Build(failing(blob[:n], broken), wantOf(blob), Output{Index: io.Discard})
			if !errors.Is(err, broken) || errors.Is(err, ErrMalformed) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	}
	full := errors.New("disk full")
	size := len(mustBuild(t, blob))
	for _, n := range []int{0, headSize, size / 3, size * 2 / 3, size - trailerSize - 1000, size - trailerSize, size - 1} {
		if err := Build(bytes.NewReader(blob), wantOf(blob), Output{Index: &failingWriter{n, full}}); !errors.Is(err, full) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// TestNothingOfABuildGoesOnAfterIt fails builds in each of their parts.
func TestNothingOfABuildGoesOnAfterIt(t *testing.T) {
	_, large := largeFrame(t)
	for _, blob := range [][]byte{gzipSample(t).blob, large, append(img.Gzip(tarOf(img.File("f", zeros(5<<20)))), "garbage"...)} {
		x, frames := &failingWriter{left: 1 << 30}, &failingWriter{left: 1 << 30}
		_ = Build(bytes.NewReader(blob), wantOf(blob), Output{x, func() (io.Writer, error) { return frames, nil }})
		wrote, framed := 1<<30-x.left, 1<<30-frames.left
		for i := range 4 {
			for _, ends := range [][3]int{{len(blob) * i / 3, wrote, framed}, {len(blob), wrote * i / 3, framed}, {len(blob), wrote, framed * i / 3}} {
				before := runtime.NumGoroutine()
				r := failing(blob[:ends[0]], context.Canceled)
				_ = Build(r, wantOf(blob), Output{
					&failingWriter{ends[1], context.Canceled},
					func() (io.Writer, error) { return &failingWriter{ends[2], context.Canceled}, nil },
				})
				for runtime.NumGoroutine() > before { // those that have done all they had to may still be there
					runtime.Gosched()
				}
			}
		}
	}
}

func TestBuildRefusesADigestThatIsNone(t *testing.T) {
	for _, want := range []Want{{Blob: "sha256:12"}, {Blob: "md5:d41d8cd98f00b204e9800998ecf8427e"}, {DiffID: "none"}} {
		if err := Build(strings.NewReader(""), want, Output{Index: io.Discard}); err == nil {
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
	check(t, Build(measured, Want{Size: -1}, Output{Index: io.Discard}))
}
