package index

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgfs/index/inflate"
)

func TestStatesSurviveTheirEncoding(t *testing.T) {
	window := bytes.Repeat([]byte("w"), inflate.WindowSize)
	ends := append(append([]byte("first"), make([]byte, inflate.WindowSize-9)...), "last"...)
	all := []inflate.Run{{Off: 0, Len: inflate.WindowSize}}
	var alternate []inflate.Run
	for i := 0; i < inflate.WindowSize; i += 1 + maxGap + 1 {
		alternate = append(alternate, inflate.Run{Off: i, Len: 1})
	}
	sparse := make([]byte, inflate.WindowSize)
	for _, r := range alternate {
		sparse[r.Off] = byte(r.Off)
	}
	states := []inflate.Checkpoint{
		{Window: window[:0]},
		{Window: window, Used: all},
		{Window: window[:1], Used: []inflate.Run{{Off: 0, Len: 1}}, Block: []byte("block"), BlockBit: 7},
		{Window: window[:0], Block: window[:maxHeader]},
		{Window: ends, Used: []inflate.Run{{Off: 0, Len: 5}, {Off: inflate.WindowSize - 4, Len: 4}}},
		{Window: []byte("a\x00b\x00\x00c\x00\x00\x00d\x00"), Used: []inflate.Run{{Off: 0, Len: 1}, {Off: 2, Len: 1}, {Off: 5, Len: 1}, {Off: 9, Len: 1}}},
		{Window: sparse, Used: alternate},
	}
	var b []byte
	for i := range states {
		var err error
		b, err = appendState(b, &states[i])
		check(t, err)
	}
	if len(b) > maxStates {
		t.Errorf("%d bytes", len(b))
	}
	d, room := decoder{b: b}, [inflate.WindowSize]byte{}
	for i := range states {
		var got inflate.Checkpoint
		parseState(&d, &got, &room)
		check(t, d.err)
		states[i].Used = nil
		if !cmp.Equal(got, states[i]) {
			t.Errorf("%d: %s", i, cmp.Diff(states[i], got))
		}
	}
	if len(d.b) > 0 {
		t.Errorf("%d bytes left", len(d.b))
	}
}

func TestStatesThatCannotBeAreRefused(t *testing.T) {
	for _, bad := range []string{
		"",
		"\x00", "\x00\x00", "\x00\x00\x00", // cut short
		"\x08\x00\x00\x00",              // a bit that is none
		"\x01\x00\x00\x00",              // a bit of no block
		"\x00\x02a",                     // a block cut short
		"\x00\x00\x81\x80\x02\x00",      // a window too large
		"\x00\x00\x01\x01\x00\x02ab",    // a run over the end of the window
		"\x00\x00\x01\x01\x02\x00",      // and one behind it
		"\x00\x00\x02\x01\x00\x02a",     // bytes cut short
		"\x00\x00\x02\x02\x00\x01\x00a", // runs cut short
	} {
		d := decoder{b: []byte(bad)}
		if parseState(&d, &inflate.Checkpoint{}, new([inflate.WindowSize]byte)); d.err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
