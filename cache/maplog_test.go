package cache

import (
	"bytes"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// bitmap is what ranges must be equal to.
type bitmap []bool

func (m bitmap) set(p piece, to bool) {
	for i := p.lo; i < p.hi; i++ {
		m[i] = to
	}
}

func (m bitmap) ranges() (r ranges) {
	for i, there := range m {
		if n := len(r); there && n > 0 && r[n-1].hi == int64(i) {
			r[n-1].hi++
		} else if there {
			r = append(r, piece{int64(i), int64(i) + 1})
		}
	}
	return r
}

func (m bitmap) from(lo int64) (n int64) {
	for lo+n < int64(len(m)) && m[lo+n] {
		n++
	}
	return n
}

func (m bitmap) missing(lo, hi int64) piece {
	for lo < hi && m[lo] {
		lo++
	}
	end := lo
	for end < hi && !m[end] {
		end++
	}
	return piece{lo, end}
}

func (m bitmap) hull(lo, hi int64) piece {
	for lo < hi && m[lo] {
		lo++
	}
	for lo < hi && m[hi-1] {
		hi--
	}
	return piece{lo, hi}
}

func TestRangesAgainstABitmap(t *testing.T) {
	const size = 60
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		between := func() piece {
			lo := rnd.Int64N(size + 1)
			return piece{lo, lo + rnd.Int64N(size-lo+1)}
		}
		model, r := make(bitmap, size), ranges(nil)
		for range 60 {
			p, q := between(), between()
			if rnd.IntN(2) == 0 {
				r = r.add(p)
				model.set(p, true)
			} else {
				r = r.remove(p)
				model.set(p, false)
			}
			if want := model.ranges(); !equalRanges(r, want) {
				t.Fatalf("seed %d: %v, want %v", seed, r, want)
			}
			if got, want := r.from(q.lo), model.from(q.lo); got != want {
				t.Fatalf("seed %d: %v.from(%d) = %d, want %d", seed, r, q.lo, got, want)
			}
			if got, want := r.missing(q.lo, q.hi), model.missing(q.lo, q.hi); got != want {
				t.Fatalf("seed %d: %v.missing(%v) = %v, want %v", seed, r, q, got, want)
			}
			if got, want := r.hull(q.lo, q.hi), model.hull(q.lo, q.hi); got != want {
				t.Fatalf("seed %d: %v.hull(%v) = %v, want %v", seed, r, q, got, want)
			}
			checkCoalesce(t, r, model, q)
		}
	}
}

// checkCoalesce: with a gap of nothing, the first missing piece; with any gap
// allowed, the hull.
func checkCoalesce(t *testing.T, r ranges, model bitmap, q piece) {
	t.Helper()
	if q.lo == q.hi || model[q.lo] {
		return
	}
	if got, want := r.coalesce(q.lo, q.hi, 0), model.missing(q.lo, q.hi).hi; got != want {
		t.Fatalf("%v.coalesce(%v, 0) = %d, want %d", r, q, got, want)
	}
	if got, want := r.coalesce(q.lo, q.hi, 1000), model.hull(q.lo, q.hi).hi; got != want {
		t.Fatalf("%v.coalesce(%v, 1000) = %d, want %d", r, q, got, want)
	}
}

func equalRanges(a, b ranges) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A file that is kept in memory.
type memoryFile struct{ data []byte }

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.data).ReadAt(p, off)
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	if grow := off + int64(len(p)) - int64(len(f.data)); grow > 0 {
		f.data = append(f.data, make([]byte, grow)...)
	}
	return copy(f.data[off:], p), nil
}

// Whatever follows the header, replay accepts a prefix that is, byte for
// byte, what appending the same records makes; and appending there never
// brings back what stands behind.
func FuzzMapLog(f *testing.F) {
	const size = 1000
	header, crc := appendHeader(nil, size, logStart(size))
	one, crc := appendRecord(nil, crc, record{opPresent, piece{0, size}})
	two, _ := appendRecord(one, crc, record{opDropped, piece{10, 20}})
	f.Add(uint64(size), []byte(nil))
	f.Add(uint64(size), two)
	f.Add(uint64(size), two[:recordSize+5])
	f.Add(uint64(size), append(bytes.Repeat([]byte{0}, recordSize), two...))
	f.Add(uint64(5), two)
	f.Add(uint64(1)<<63, header)
	f.Fuzz(func(t *testing.T, size uint64, log []byte) {
		raw, crc := appendHeader(nil, int64(size), logStart(int64(size)))
		file := &memoryFile{data: raw}
		var l mapLog
		if _, err := l.readHeader(file); err != nil {
			if int64(size) >= 0 && int64(size) <= maxBlob {
				t.Fatalf("size %d: %v", size, err)
			}
			return
		}
		if size > 1<<20 {
			return // as good as others, and it would take memory
		}
		_, _ = file.WriteAt(log, l.next)
		var again []byte
		must(t, l.replay(file, func(r record) { again, crc = appendRecord(again, crc, r) }))
		if !bytes.HasPrefix(log, again) || l.next != logStart(int64(size))+int64(len(again)) || l.crc != crc {
			t.Fatalf("%d bytes were read as %d", len(log), len(again))
		}
		must(t, l.append(file, record{opDropped, piece{0, int64(size)}}))
		var last record
		more := mapLog{}
		_, err := more.readHeader(file)
		must(t, err)
		must(t, more.replay(file, func(r record) { last = r }))
		if more != l || last != (record{opDropped, piece{0, int64(size)}}) {
			t.Fatalf("after appending: %+v, want %+v; last record %v", more, l, last)
		}
	})
}

func FuzzHeader(f *testing.F) {
	header, _ := appendHeader(nil, 1000, logStart(1000))
	f.Add(header)
	f.Add([]byte(blobMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, first, crc, err := decodeHeader(b)
		if err != nil {
			return
		}
		again, crcAgain := appendHeader(nil, size, first)
		if crc != crcAgain || !bytes.HasPrefix(b, again) {
			t.Fatalf("%x becomes %x", b, again)
		}
	})
}

// A ref's file name is safe, gives back the name where it is short, and a ref
// put under any name is found again.
func FuzzRefName(f *testing.F) {
	for _, name := range []string{"alpine", "docker.io/library/alpine:3.20", "..", ".", "/", "a%2Fb", "~", "\x00", strings.Repeat("x", 300), "\xff"} {
		f.Add(name)
	}
	c, err := Open(f.TempDir(), nil)
	must(f, err)
	f.Cleanup(func() { c.Close() })
	f.Fuzz(func(t *testing.T, name string) {
		file := refFile(name)
		if len(file) > maxRefFile || strings.ContainsAny(file, "/\x00") || strings.HasPrefix(file, ".") || (file == "") != (name == "") {
			t.Fatalf("%q makes the file %q", name, file)
		}
		if back, err := url.PathUnescape(file); err != nil || back != name && !strings.Contains(file, "~") {
			t.Fatalf("%q makes %q, which makes %q (%v)", name, file, back, err)
		}
		r := Ref{Name: name, Digest: digest.FromString(name)}
		if c.PutRef(r) != nil {
			return
		}
		if got, err := c.Ref(name); err != nil || got != r {
			t.Fatalf("put %v, got %v, %v", r, got, err)
		}
		if refs, err := c.refs(); err != nil || len(refs) != 1 || refs[0] != r {
			t.Fatalf("put %v, listed %v, %v", r, refs, err)
		}
		if _, err := c.Remove(Selection{Ref: name}); err != nil {
			t.Fatal(err)
		}
	})
}
