package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgfs/index/inflate"
	img "imgfs/internal/testimage"
)

// smallLayer is a tar with all that entries can have, and a gzip of it with several spans, small as it is.
func smallLayer(t testing.TB) (tar, blob []byte) {
	t.Helper()
	tar = img.Tar(
		img.Dir("dir/", img.Mode(0o1777)),
		img.File("dir/file", "content", img.Xattr("user.a", "value"), img.Mtime(time.Unix(-8, 5e8)), img.Owner(MaxID, 0)),
		img.Symlink("link", "dir/file"),
		img.Char("device", 5, 1),
		img.SparsePAX10("sparse", 10, []img.Segment{{Offset: 1, Data: "ab"}, {Offset: 5, Data: "cde"}}),
		img.File("zeros", zeros(4<<20)),
	)
	return tar, img.Gzip(tar)
}

func TestAnIndexCutShortOrTooLongIsDamaged(t *testing.T) {
	_, blob := smallLayer(t)
	good := mustBuild(t, blob)
	for n := range good {
		if _, err := Open(bytes.NewReader(good), int64(n)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if _, err := Open(bytes.NewReader(good[:n]), int64(len(good))); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes of %d: %v", n, len(good), err)
		}
	}
	long := append(bytes.Clone(good), 0)
	if _, err := Open(bytes.NewReader(long), int64(len(long))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestAnIndexOfAnotherVersionIsStale(t *testing.T) {
	_, blob := smallLayer(t)
	b := mustBuild(t, blob)
	binary.LittleEndian.PutUint32(b[len(magic):], version+1)
	if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
}

func TestOpenFailsWithWhatTheFileFailsWith(t *testing.T) {
	broken := errors.New("disk is broken")
	if _, err := Open(failingReaderAt{broken}, 1000); !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

type failingReaderAt struct{ err error }

func (f failingReaderAt) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// A table that is damaged in a way that its digest doesn't tell must not lead outside of the file, the blob, the frames
// or the tar.
func TestImpossibleTablesAreRefused(t *testing.T) {
	_, blob := smallLayer(t)
	x := mustOpen(t, mustBuild(t, blob))
	body := x.t.states[0].off + 1<<20
	second := func(x *table) *piece { // which comes right after the first
		p := x.pieces[0]
		p.off += int64(p.len)
		x.pieces = append(x.pieces, p)
		return &x.pieces[1]
	}
	tests := map[string]func(x *table){
		"format":                        func(x *table) { x.format = "rar" },
		"blob digest":                   func(x *table) { x.blob = "sha256:1" },
		"diff ID":                       func(x *table) { x.diffID = "" },
		"size":                          func(x *table) { x.size = -1 },
		"huge size":                     func(x *table) { x.size = maxSize + 1 },
		"size before the last span":     func(x *table) { x.size = 1 },
		"piece before the body":         func(x *table) { x.pieces[0].off = headSize - 1 },
		"piece after the body":          func(x *table) { x.pieces[0].off = 1 << 62 },
		"piece over the end":            func(x *table) { x.pieces[0].off = body - 1 },
		"huge piece in the file":        func(x *table) { x.pieces[0].len = 1 << 31 },
		"huge piece":                    func(x *table) { x.pieces[0].raw = maxPiece + 1 },
		"piece of nothing":              func(x *table) { x.pieces[0].len = 0 },
		"piece of no entries":           func(x *table) { x.pieces[0].count = 0 },
		"more entries than fit":         func(x *table) { x.pieces[0].count = x.pieces[0].raw/minEntry + 1 },
		"more entries than a piece has": func(x *table) { x.pieces[0].count, x.pieces[0].raw = maxPieceEntries+1, maxPiece },
		"piece over the one before":     func(x *table) { second(x).off-- },
		"piece after all pieces":        func(x *table) { second(x).off = body },
		"no states":                     func(x *table) { x.states = nil },
		"more states than spans have":   func(x *table) { x.states = append(x.states, x.states[0]) },
		"states before the body":        func(x *table) { x.states[0].off = headSize - 1 },
		"states after the body":         func(x *table) { x.states[0].off = body },
		"huge states":                   func(x *table) { x.states[0].raw = maxStates + 1 },
		"huge states in the file":       func(x *table) { x.states[0].len = 2*maxStates + 1 },
		"span past the blob":            func(x *table) { x.spans[len(x.spans)-1].bits++; x.size = x.spans[len(x.spans)-1].in / 8 },
		"span before its predecessor":   func(x *table) { x.spans[1].out = x.spans[2].out + 1 },
		"span before it in the blob":    func(x *table) { x.spans[2].in = x.spans[1].in },
		"member within a byte":          func(x *table) { x.spans[1].place = atStart; x.spans[1].in |= 1 },
		"no place":                      func(x *table) { x.spans[1].place = 3 },
		"frames of another format":      func(x *table) { x.spans[1].place = inFrames; x.spans[1].bits &^= 7 },
		"span decoded over the bounds":  func(x *table) { x.spans[1].out, x.spans[2].out, x.tarSize = 0, maxSpan+1, maxSpan+1 },
		"span over the bounds":          func(x *table) { x.spans[2].bits = 8*maxSpan + 1; x.size = maxSize },
		"span of too many bytes":        func(x *table) { x.spans[2].bits = 8 * maxSpan; x.spans[2].in |= 1; x.size = maxSize },
	}
	if got, err := parseTable(x.t.appendTo(nil), body); err != nil || !cmp.Equal(got, x.t, cmp.AllowUnexported(table{}, piece{}, stored{}, span{})) {
		t.Fatal(got, err)
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			c := *x.t
			c.pieces, c.states, c.spans = slices.Clone(c.pieces), slices.Clone(c.states), slices.Clone(c.spans)
			change(&c)
			if _, err := parseTable(c.appendTo(nil), body); !errors.Is(err, errTable) {
				t.Error(err)
			}
		})
	}
}

func TestATableCutShortOrTooLongIsRefused(t *testing.T) {
	_, blob := smallLayer(t)
	x := mustOpen(t, mustBuild(t, blob))
	b := x.t.appendTo(nil)
	for n := range b {
		if _, err := parseTable(b[:n], 1<<20); !errors.Is(err, errTable) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := parseTable(append(b, 0), 1<<20); !errors.Is(err, errTable) {
		t.Error(err)
	}
}

// seal makes an index of a body and a table.
func seal(body, table []byte) []byte {
	return slices.Concat(head(), body, table, trailer(table))
}

// An index whose digests are right and whose parts aren't is not one that Build has written.
func TestADeceitfulIndexIsDamaged(t *testing.T) {
	_, blobBytes := smallLayer(t)
	good := mustBuild(t, blobBytes)
	x := mustOpen(t, good)
	body := good[headSize : len(good)-len(x.t.appendTo(nil))-trailerSize]
	tests := map[string]func(x *table){
		"length of a piece":            func(x *table) { x.pieces[0].raw++ },
		"more entries than there are":  func(x *table) { x.pieces[0].count++ },
		"fewer entries than there are": func(x *table) { x.pieces[0].count-- },
		"length of states":             func(x *table) { x.states[0].raw++ },
		"states that aren't any":       func(x *table) { x.states[0] = x.pieces[0].stored },
		"checkpoint that isn't one":    func(x *table) { x.spans[0].bits += 3; x.spans[1].in += 3; x.spans[1].bits -= 3 },
		"no state where there must be": func(x *table) { x.spans[1].place = atStart; x.spans[0].bits &^= 7; x.spans[1].in &^= 7 },
		"another format":               func(x *table) { x.format = Tar },
		"piece that isn't a zstd frame": func(x *table) {
			x.pieces[0].off++
			x.pieces[0].len--
			x.pieces[0].sum = sha256.Sum256(good[x.pieces[0].off:][:x.pieces[0].len])
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			c := *mustOpen(t, good).t
			change(&c)
			c.spans[0].sum, c.spans[1].sum = sha256.Sum256(sliceOf(blobBytes, c.in(0))), sha256.Sum256(sliceOf(blobBytes, c.in(1)))
			b := seal(body, c.appendTo(nil))
			x, err := Open(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				_, err = entriesOf(x)
			}
			if err == nil {
				_, err = NewReader(x, &blob{bytes: blobBytes}, nil, newMemory(0)).ReadAt(make([]byte, 10), c.spans[1].out)
			}
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
		})
	}
}

func TestASpanOfAnotherLengthIsDamaged(t *testing.T) {
	_, blobBytes := smallLayer(t)
	good := mustBuild(t, blobBytes)
	x := mustOpen(t, good).t
	body := good[headSize : len(good)-len(x.appendTo(nil))-trailerSize]
	for n := range min(int(x.out(1).n), 300) - 1 {
		x.spans[1].out++ // a byte more of it is the span's before
		b := seal(body, x.appendTo(nil))
		z := NewReader(mustOpen(t, b), &blob{bytes: blobBytes}, nil, newMemory(0))
		if _, err := z.ReadAt(make([]byte, 1), x.spans[1].out); !errors.Is(err, ErrDamaged) {
			t.Errorf("shorter by %d: %v", n+1, err)
		}
	}
}

func sliceOf(b []byte, r byteRange) []byte { return b[r.off:][:r.n] }

func zeros(n int) string { return strings.Repeat("\x00", n) }

func TestEntriesMayStopEarly(t *testing.T) {
	_, blob := smallLayer(t)
	n := 0
	for _, err := range mustOpen(t, mustBuild(t, blob)).Entries() {
		check(t, err)
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Error(n)
	}
}

func TestManyEntriesComeInPieces(t *testing.T) {
	var files []img.Entry
	for i := range 3*maxPieceEntries + 1 {
		files = append(files, img.File(fmt.Sprint(i), ""))
	}
	x := mustOpen(t, mustBuild(t, tarOf(files...)))
	if len(x.t.pieces) < 4 {
		t.Errorf("%d pieces", len(x.t.pieces))
	}
	i := 0
	for e, err := range x.Entries() {
		check(t, err)
		if e.Name != fmt.Sprint(i) {
			t.Fatalf("%s, not %d", e.Name, i)
		}
		i++
	}
	if i != len(files) {
		t.Errorf("%d entries", i)
	}
}

func TestTheLargestEntryFitsIntoAPiece(t *testing.T) {
	var sparseMap, content strings.Builder
	count := 0
	for ; sparseMap.Len() < maxSpecial-50; count++ {
		fmt.Fprintf(&sparseMap, "%d\n1\n", 2*count)
		content.WriteByte('x')
	}
	b := tarOf(sparse1(fmt.Sprint(4*count), fmt.Sprintf("%d\n%s", count, sparseMap.String()), content.String()))
	list, err := entriesOf(mustOpen(t, mustBuild(t, b)))
	check(t, err)
	if len(list) != 1 || len(list[0].Extents) != count {
		t.Errorf("%d entries", len(list))
	}
}

func FuzzIndex(f *testing.F) {
	_, blobBytes := smallLayer(f)
	good := mustBuild(f, blobBytes)
	x := mustOpen(f, good)
	table := x.t.appendTo(nil)
	body := good[headSize : len(good)-len(table)-trailerSize]
	f.Add(body, table)
	f.Add(good, []byte{})
	f.Add([]byte{}, table)
	plain := mustBuild(f, img.Tar(img.File("f", "x")))
	f.Add(plain[:100], plain[100:])
	f.Fuzz(func(t *testing.T, body, table []byte) {
		useIndex(t, body, make([]byte, 10000), nil)
		useIndex(t, seal(body, table), make([]byte, 10000), nil)
		t2, err := parseTable(table, headSize+int64(len(body)))
		if err == nil && !bytes.Equal(t2.appendTo(nil), table) {
			t.Error("parsed and encoded, the table differs")
		}
	})
}

// useIndex opens bytes as an index, and does with it what can be done: nothing may panic.
func useIndex(t *testing.T, b, blobBytes, frames []byte) {
	x, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrStale) {
			t.Error(err)
		}
		return
	}
	if _, err := entriesOf(x); err != nil && !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if err := x.Check(bytes.NewReader(frames)); err != nil && !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	z := NewReader(x, &blob{bytes: blobBytes}, bytes.NewReader(frames), newMemory(0))
	for _, off := range []int64{0, x.TarSize() / 2, x.TarSize() - 1} {
		if n, err := z.ReadAt(make([]byte, 10), max(off, 0)); n < 10 && err == nil {
			t.Errorf("%d bytes and no error", n)
		}
	}
}

func FuzzEntries(f *testing.F) {
	_, blob := smallLayer(f)
	list, err := entriesOf(mustOpen(f, mustBuild(f, blob)))
	check(f, err)
	p := newPieceEncoder()
	for i := range list {
		p.add(&list[i])
	}
	parts, count := p.take()
	f.Add(bytes.Join(parts, nil), uint16(count))
	f.Fuzz(func(t *testing.T, piece []byte, count uint16) {
		list, err := decodePiece(piece, count)
		if err != nil {
			return
		}
		for i := range list {
			p.add(&list[i])
		}
		parts, _ := p.take()
		again, err := decodePiece(bytes.Join(parts, nil), count)
		if err != nil || !cmp.Equal(again, list) {
			t.Errorf("%v: decoded, encoded and decoded, %v is %v", err, list, again)
		}
	})
}

// decodePiece gives the entries of a piece of a huge tar.
func decodePiece(piece []byte, count uint16) (list []Entry, err error) {
	var d pieceDecoder
	d.start(piece, uint32(count), 1<<40)
	for d.left > 0 {
		b := newBatch()
		if err := d.fill(b); err != nil {
			return nil, err
		}
		list = append(list, b.entries...)
	}
	return list, nil
}

func FuzzTar(f *testing.F) {
	for _, b := range goTestdata(f) {
		if len(b) < 20000 {
			f.Add(b)
		}
	}
	segments := []img.Segment{{Offset: 0, Data: "a"}, {Offset: 2, Data: "b"}, {Offset: 4, Data: "c"}, {Offset: 6, Data: "d"}, {Offset: 8, Data: "ef"}}
	f.Add(tarOf(img.SparsePAX10("sparse", 10, segments)))
	f.Add(tarOf(img.SparsePAX01("sparse", 10, segments)))
	f.Add(tarOf(img.SparseGNU("sparse", 10, segments)))
	f.Add(tarOf(img.File("a", "x", img.Mtime(time.Unix(-2, 5e8)), img.Xattr("a", "b"), img.LibarchiveXattr("c", "hi"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Changed headers have wrong checksums, and would end it all: mend them.
		for i := 0; i+blockSize <= len(b); i += blockSize {
			mend((*block)(b[i:]))
		}
		compareWalks(t, b)
	})
}

// mend sets a block's checksum, if it looks like a header.
func mend(b *block) {
	if b[156] == 0 && b[257] == 0 || b[0] == 0 {
		return
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func TestTheDecoderStaysWithinTheBoundsOfASpan(t *testing.T) {
	if in, out := inflate.MaxSpan(spanSize); in > maxSpan || out > maxSpan {
		t.Errorf("%d bytes compressed, %d decoded", in, out)
	}
}
