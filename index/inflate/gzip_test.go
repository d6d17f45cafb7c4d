package inflate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"

	"imgfs/index/inflate"
)

// hello is a member's stream, and what it decodes to.
func hello() *writer {
	w := &writer{}
	lit, _ := fixedCodes()
	w.block(true, 1)
	w.literals(lit, []byte("hello"))
	w.symbol(lit, 256)
	return w
}

// head returns a member's header with the given flags and what they announce.
func head(flags byte, more ...[]byte) []byte {
	return slices.Concat([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3}, slices.Concat(more...))
}

// withCRC appends a header's CRC, changed by so much.
func withCRC(header []byte, change uint16) []byte {
	return binary.LittleEndian.AppendUint16(header, uint16(crc32.ChecksumIEEE(header))+change)
}

func TestHeadersOfMembers(t *testing.T) {
	extra := []byte{4, 0, 'B', 'C', 0, 0}
	name, comment := []byte("layer.tar\x00"), []byte("a comment\x00")
	long := bytes.Repeat([]byte{'x'}, 120_000)
	for _, c := range []struct {
		name   string
		header []byte
		reason string // "" where the header is good
	}{
		{"plain", head(0), ""},
		{"text", head(1), ""},
		{"extra field", head(4, extra), ""},
		{"longest extra field", head(4, []byte{255, 255}, make([]byte, 65535)), ""},
		{"name", head(8, name), ""},
		{"comment", head(16, comment), ""},
		{"all of them", withCRC(head(1+2+4+8+16, extra, name, comment), 0), ""},
		{"CRC alone", withCRC(head(2), 0), ""},
		{"long name", head(8, long, []byte{0}), ""},
		{"wrong CRC", withCRC(head(2+4, extra), 1), "wrong CRC of a member's header"},
		{"name without end", head(8, long, long), "member's header is longer than 128 KiB"},
		{"unknown flag", head(32), "unknown flags"},
		{"unknown method", []byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0}, "unknown method of compression"},
		{"other magic", []byte{0x1f, 0x8c, 8, 0, 0, 0, 0, 0, 0, 0}, "not a gzip member"},
		{"zeros", make([]byte, 10), "not a gzip member"},
	} {
		w := hello()
		file := member(c.header, w.bytes, w.want)
		if c.reason == "" {
			check(t, file, w.want, 1, 1000)
			check(t, append(file, file...), append(w.want, w.want...), 1, 1000)
			continue
		}
		for _, before := range [][]byte{nil, hello().member()} {
			_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(append(before, file...)), nil))
			var corrupt *inflate.CorruptError
			if !errors.As(err, &corrupt) {
				t.Errorf("%s: error is %v", c.name, err)
			} else if corrupt.Reason != c.reason && (before == nil || corrupt.Reason != "more bytes after the last member") {
				t.Errorf("%s: reason is %q, want %q", c.name, corrupt.Reason, c.reason)
			}
		}
	}
}

func TestWhatFollowsTheLastMember(t *testing.T) {
	file := hello().member()
	for _, c := range []struct {
		name string
		tail []byte
		ok   bool
	}{
		{"nothing", nil, true},
		{"a zero", make([]byte, 1), true},
		{"zeros of a tape block", make([]byte, 10_240), true},
		{"many zeros", make([]byte, 300_000), true},
		{"garbage", []byte("garbage"), false},
		{"one byte", []byte{1}, false},
		{"garbage after zeros", append(make([]byte, 100_000), 1), false},
		{"a member after zeros", append(make([]byte, 512), file...), false},
		{"half a magic", []byte{0x1f}, false},
		{"another magic", []byte{0x1f, 0x9d, 0x90}, false},
	} {
		got, cps, err := checkpoints(bytes.NewReader(slices.Concat(file, c.tail)), 1)
		if !bytes.Equal(got, []byte("hello")) || c.ok != (err == nil) {
			t.Errorf("%s: got %q, error %v", c.name, got, err)
		}
		if !c.ok && !errors.Is(err, inflate.ErrCorrupt) {
			t.Errorf("%s: error is %v", c.name, err)
		}
		if end := cps[len(cps)-1].In / 8; end != int64(len(file)) {
			t.Errorf("%s: the last member ends at %d, want %d", c.name, end, len(file))
		}
		if c.ok {
			check(t, slices.Concat(file, c.tail), []byte("hello"), 1, 1000)
		}
	}
}

func TestTrailersAreChecked(t *testing.T) {
	good := hello().member()
	for i := range 8 {
		file := bytes.Clone(good)
		file[len(file)-8+i]++
		_, err := io.ReadAll(inflate.NewReader(bytes.NewReader(append(file, good...)), nil))
		want := "wrong CRC of a member"
		if i >= 4 {
			want = "wrong size of a member"
		}
		var corrupt *inflate.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Reason != want {
			t.Errorf("byte %d: error is %v", i, err)
		}
	}
}

func TestAMatchDoesNotReachIntoTheMemberBefore(t *testing.T) {
	lit, dist := fixedCodes()
	first := &writer{}
	first.stored(true, randomBytes(newRand(1), 40_000))
	second := &writer{want: []byte("earlier")} // what the writer's match is to copy
	second.block(true, 1)
	second.match(lit, dist, 257, 0, 3, 0)
	second.symbol(lit, 256)
	file := append(first.member(), member(plainHeader, second.bytes, second.want[7:])...)

	_, cps, err := checkpoints(bytes.NewReader(file), 30_000)
	var corrupt *inflate.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Reason != "match that begins before its member" {
		t.Fatalf("error is %v", err)
	}
	for _, cp := range cps[:len(cps)-1] {
		if _, err := decodeGuarded(40_003-cp.Out, file[cp.In/8:], &cp, -1); !errors.Is(err, inflate.ErrCorrupt) {
			t.Errorf("from byte %d: error is %v", cp.Out, err)
		}
	}
}
