package inflate_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	klauspost "github.com/klauspost/compress/gzip"

	"imgfs/index/inflate"
)

// text is data as compressors like it: repetitions near and far, and something new between.
func text(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	words := make([][]byte, 2000)
	for i := range words {
		words[i] = randomBytes(rng, 1+rng.IntN(20))
	}
	var b []byte
	for len(b) < n {
		switch rng.IntN(20) {
		case 0:
			b = append(b, bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(600))...)
		case 1:
			b = append(b, randomBytes(rng, rng.IntN(30))...)
		default:
			b = append(b, words[int(rng.ExpFloat64()*100)%len(words)]...)
		}
	}
	return b[:n]
}

// A compressor is anything that gzip writers are.
type compressor interface {
	io.WriteCloser
	Flush() error
}

// gzipped compresses data. The writer is flushed every so many bytes, or never if that is 0.
func gzipped(t testing.TB, data []byte, flush int, open func(io.Writer) (compressor, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	for err == nil && len(data) > 0 {
		n := len(data)
		if flush > 0 {
			n = min(n, flush)
		}
		if _, err = w.Write(data[:n]); err == nil && flush > 0 {
			err = w.Flush()
		}
		data = data[n:]
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func stdLevel(level int) func(io.Writer) (compressor, error) {
	return func(w io.Writer) (compressor, error) { return gzip.NewWriterLevel(w, level) }
}

func klauspostLevel(level int) func(io.Writer) (compressor, error) {
	return func(w io.Writer) (compressor, error) { return klauspost.NewWriterLevel(w, level) }
}

func TestWhatCompressorsWriteIsReadFromEveryCheckpoint(t *testing.T) {
	random := randomBytes(rand.New(rand.NewPCG(5, 6)), 80_000)
	for name, data := range map[string][]byte{
		"nothing": nil, "one byte": {'x'}, "text": text(250_000), "noise": random, "zeros": make([]byte, 400_000),
	} {
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			for _, flush := range []int{0, 10_000} {
				check(t, gzipped(t, data, flush, stdLevel(level)), data, 5_000, 100_000, 1<<20)
				check(t, gzipped(t, data, flush, klauspostLevel(level)), data, 5_000, 100_000)
			}
		}
		check(t, gzipped(t, data, 0, klauspostLevel(klauspost.StatelessCompression)), data, 5_000, 100_000)
		t.Log(name)
	}
}

func TestMembersOfAllSizesAreReadFromEveryCheckpoint(t *testing.T) {
	data := text(500_000)
	empty := gzipped(t, nil, 0, stdLevel(6)) // bgzip ends its files with one
	for _, size := range []int{1, 100, 65280, 300_000} {
		var file []byte
		part := data[:min(len(data), size*200)]
		for chunk := range slices.Chunk(part, size) {
			file = append(file, gzipped(t, chunk, 0, stdLevel(6))...)
			file = append(file, empty...)
		}
		check(t, file, part, 100, 1000, 70_000, 1<<20)
	}
}

func TestRandomStreamsAreReadFromEveryCheckpoint(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 7))
		file, want := randomFile(rng, rng.IntN(20), 1+rng.IntN(20_000))
		if got, err := stdRead(file); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the test's own writer is wrong: %v", seed, err)
		}
		check(t, file, want, 1+int64(len(want)/200), 1000+rng.Int64N(3000), 40_000)
	}
}

// stdRead reads a file by the standard library.
func stdRead(file []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestALongBlockIsEnteredInside(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for name, dynamic := range map[string]bool{"fixed": false, "dynamic": true} {
		w := &writer{}
		lit, dist := fixedCodes()
		if dynamic {
			lit, dist = randomCodes(rng)
			w.block(true, 2)
			w.codes(lit, dist)
		} else {
			w.block(true, 1)
		}
		w.random(rng, lit, dist, 2_000_000)
		check(t, w.member(), w.want, 3000, 100_000)
		_, cps, err := checkpoints(bytes.NewReader(w.member()), 100_000)
		if err != nil {
			t.Fatal(err)
		}
		inside := 0
		for _, cp := range cps {
			if cp.Block != nil {
				inside++
			}
		}
		if inside < 5 {
			t.Errorf("%s: %d checkpoints inside the block, want 5 or more", name, inside)
		}
	}
}

func TestSpansStayBoundedWhateverTheInput(t *testing.T) {
	lit, dist := fixedCodes()
	emptyStored := &writer{}
	for range 1_000_000 {
		emptyStored.stored(false, nil)
	}
	emptyStored.stored(true, nil)

	emptyFixed := &writer{}
	for i := range 500_000 {
		emptyFixed.block(i == 499_999, 1)
		emptyFixed.symbol(lit, 256)
	}

	run := &writer{}
	run.block(true, 1)
	run.literals(lit, []byte{0})
	for range 100_000 {
		run.match(lit, dist, 285, 0, 0, 0)
	}
	run.symbol(lit, 256)

	nothing := &writer{}
	nothing.stored(true, nil)
	longNames := member(slices.Concat([]byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{'n'}, 120_000), []byte{0}), nothing.bytes, nil)

	full := &writer{}
	for i := range 50 {
		full.stored(i == 49, make([]byte, 65535))
	}

	for name, c := range map[string]struct{ file, want []byte }{
		"empty stored blocks": {emptyStored.member(), nil},
		"empty fixed blocks":  {emptyFixed.member(), nil},
		"one long run":        {run.member(), run.want},
		"empty members":       {bytes.Repeat(nothing.member(), 200_000), nil},
		"long names":          {bytes.Repeat(longNames, 30), nil},
		"full stored blocks":  {full.member(), full.want},
	} {
		t.Run(name, func(t *testing.T) { check(t, c.file, c.want, 10_000, 1<<20) })
	}
}

func TestTheSourceMayPortionItsBytesAsItLikes(t *testing.T) {
	want := text(300_000)
	file := append(gzipped(t, want[:200_000], 0, stdLevel(6)), gzipped(t, want[200_000:], 7000, stdLevel(1))...)
	_, wantCheckpoints, err := checkpoints(bytes.NewReader(file), 20_000)
	if err != nil {
		t.Fatal(err)
	}
	for name, portion := range map[string]func(io.Reader) io.Reader{
		"one byte":      iotest.OneByteReader,
		"half":          iotest.HalfReader,
		"data with EOF": iotest.DataErrReader,
		"bare":          func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	} {
		got, cps, err := checkpoints(portion(bytes.NewReader(file)), 20_000)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: wrong bytes, or error: %v", name, err)
		}
		if !reflect.DeepEqual(cps, wantCheckpoints) {
			t.Errorf("%s: checkpoints differ", name)
		}
	}
}

func TestReadKeepsTheContractOfReaders(t *testing.T) {
	want := text(300_000)
	file := gzipped(t, want, 0, stdLevel(6))
	if err := iotest.TestReader(inflate.NewReader(bytes.NewReader(file), nil), want); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	z := inflate.NewReader(bytes.NewReader(file), nil)
	head := make([]byte, 1000)
	if _, err := io.ReadFull(z, head); err != nil {
		t.Fatal(err)
	}
	if n, err := z.WriteTo(&b); err != nil || n != int64(len(want)-len(head)) || !bytes.Equal(b.Bytes(), want[len(head):]) {
		t.Errorf("WriteTo after Read: %d bytes, error %v", n, err)
	}
}

func TestErrorsOfOthersArePassedOn(t *testing.T) {
	want := text(300_000)
	file := gzipped(t, want, 0, stdLevel(6))
	ours := errors.New("ours")

	broken := io.MultiReader(bytes.NewReader(file[:len(file)/2]), iotest.ErrReader(ours))
	got, err := io.ReadAll(inflate.NewReader(broken, nil))
	if err != ours {
		t.Errorf("the source's error became %v", err)
	}
	if !bytes.HasPrefix(want, got) {
		t.Error("wrong bytes before the source's error")
	}

	calls := 0
	z := inflate.NewReader(bytes.NewReader(file), &inflate.Options{Span: 10_000, Checkpoint: func(inflate.Checkpoint) error {
		calls++
		if calls == 3 {
			return ours
		}
		return nil
	}})
	for range 2 {
		if _, err := io.Copy(io.Discard, z); err != ours {
			t.Errorf("the callback's error became %v", err)
		}
	}
	if calls != 3 {
		t.Errorf("callback called %d times, want 3", calls)
	}

	if _, err := inflate.NewReader(bytes.NewReader(file), nil).WriteTo(failingWriter{ours}); err != ours {
		t.Errorf("the destination's error became %v", err)
	}
	if _, err := io.ReadAll(inflate.NewReader(idleReader{}, nil)); err != io.ErrNoProgress {
		t.Errorf("a source that gives nothing for ever: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

type idleReader struct{}

func (idleReader) Read([]byte) (int, error) { return 0, nil }

func TestASourceMayFailAnywhere(t *testing.T) {
	ours := errors.New("ours")
	for name, c := range smallFiles(t) {
		for n := range len(c.file) + 1 {
			file := append(bytes.Clone(c.file[:n]), make([]byte, 3*(n/len(c.file)))...)
			z := inflate.NewReader(io.MultiReader(bytes.NewReader(file), iotest.ErrReader(ours)), nil)
			got, err := io.ReadAll(z)
			if err != ours || !bytes.HasPrefix(c.want, got) {
				t.Fatalf("%s, after %d bytes: wrong bytes, or error: %v", name, n, err)
			}
		}
	}
}

func TestSpansThatAreNotGivenOrAbsurd(t *testing.T) {
	want := text(5 << 20)
	file := gzipped(t, want, 0, stdLevel(6))
	_, cps, err := checkpoints(bytes.NewReader(file), inflate.DefaultSpan)
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range []int64{0, -1, math.MinInt64} {
		if _, got, err := checkpoints(bytes.NewReader(file), span); err != nil || !reflect.DeepEqual(got, cps) {
			t.Errorf("span of %d: not the checkpoints of the default, or error: %v", span, err)
		}
	}
	if _, got, err := checkpoints(bytes.NewReader(file), math.MaxInt64); err != nil || len(got) != 2 {
		t.Errorf("largest span: %d checkpoints, error %v", len(got), err)
	}
	if in, out := inflate.MaxSpan(math.MaxInt64); in <= 0 || out <= 0 {
		t.Errorf("largest span: at most %d bytes to %d", in, out)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	file := append(gzipped(t, []byte("x"), 0, stdLevel(6)), "garbage"...)
	_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(file), nil))
	var corrupt *inflate.CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, inflate.ErrCorrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("error is %v", err)
	}
	if corrupt.Offset != int64(len(file)-len("garbage")) || !strings.Contains(err.Error(), "after the last member") {
		t.Errorf("error is %v", err)
	}
}

// TestMatchesEndAnywhereInTheBuffer lets the decoder's buffer of 128 KiB end at every place of matches of all kinds.
func TestMatchesEndAnywhereInTheBuffer(t *testing.T) {
	lit, dist := fixedCodes()
	noise := randomBytes(newRand(12), 65_000)
	for _, distSymbol := range []int{0, 1, 4, 6, 8, 10, 29} {
		for shift := range maxMatch + 1 {
			w := &writer{}
			w.stored(false, noise)
			w.stored(false, noise[:64_000+shift])
			w.block(true, 1)
			for len(w.want) < 160_000 { // so much that the fast loop still has input
				w.match(lit, dist, 285, 0, distSymbol, 0)
			}
			w.symbol(lit, 256)
			got, err := io.ReadAll(inflate.NewReader(bytes.NewReader(w.member()), nil))
			if err != nil || !bytes.Equal(got, w.want) {
				t.Fatalf("distance symbol %d, shift %d: wrong bytes, or error: %v", distSymbol, shift, err)
			}
		}
	}
}

// maxMatch is the longest match (RFC 1951, section 3.2.5).
const maxMatch = 258
