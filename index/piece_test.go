package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"strings"
	"testing"
)

// pieceOf is a piece of an entry with one kind, and what is in the other columns.
func pieceOf(columns map[int]string) string {
	var head []byte
	var all string
	for i := range numColumns {
		if i < colText {
			head = binary.AppendUvarint(head, uint64(len(columns[i])))
		}
		all += columns[i]
	}
	return string(head) + all
}

func TestADamagedPieceIsToldWhateverItsDigestSays(t *testing.T) {
	// A file "f" of five bytes at the start of the tar's second block. The tar has 1000 bytes.
	good := map[int]string{
		colKinds: "0\x01\x00\x00\x00\x00", colKind: "\x00", colShared: "\x00", colRest: "\x01", colTime: "\x00", colOffset: "\x00",
		colTimes: "\x00\x00", colSize: "\x05", colText: "f",
	}
	tests := map[string]map[int]string{
		"no columns":                     nil,
		"cut short":                      {colText: ""},
		"too long":                       {colText: "fx"},
		"more times than are used":       {colTimes: zeros(4)},
		"more kinds than are used":       {colKinds: "0\x01" + zeros(4) + "1\x01" + zeros(4)},
		"number not in its short form":   {colRest: "\x81\x00"},
		"number of 65 bits":              {colSize: strings.Repeat("\x80", 9) + "\x02"},
		"name longer than names can be":  {colRest: "\x81\x80\x04", colText: "f" + zeros(MaxName)},
		"name before the one before":     {colShared: "\x01"},
		"name after the one before":      {colShared: "\x02"},
		"mode over 12 bits":              {colKinds: "0\x01\x80\x20" + zeros(3)},
		"unknown flag":                   {colKinds: "0\x09" + zeros(4)},
		"unknown content":                {colKinds: "0\x03" + zeros(4)},
		"user id of none":                {colKinds: "0\x01\x00\xff\xff\xff\xff\x0f" + zeros(2)},
		"attributes out of order":        {colKinds: "0\x01" + zeros(3) + "\x02\x01b\x00\x01a\x00"},
		"attribute twice":                {colKinds: "0\x01" + zeros(3) + "\x02\x01a\x00\x01a\x00"},
		"kind that isn't there":          {colKind: "\x01"},
		"time that isn't there":          {colTime: "\x01"},
		"a second in nanoseconds":        {colTimes: "\x00\x80\x94\xeb\xdc\x03"},
		"content of nothing":             {colSize: "\x00"},
		"content before the tar":         {colOffset: "\x81\x08"},
		"content past the tar":           {colOffset: "\xd0\x07"},
		"content over the tar's end":     {colSize: "\xe9\x03"},
		"extent past the size":           {colKinds: "0\x02" + zeros(4), colOffset: "", colExtents: "\x01\x00\x00\x06"},
		"extent of nothing":              {colKinds: "0\x02" + zeros(4), colOffset: "", colExtents: "\x01\x00\x00\x00"},
		"extent before the tar":          {colKinds: "0\x02" + zeros(4), colOffset: "", colExtents: "\x01\x00\x81\x08\x05"},
		"extent past the tar":            {colKinds: "0\x02" + zeros(4), colOffset: "", colExtents: "\x01\x00\xd0\x07\x05"},
		"more extents than there can be": {colKinds: "0\x02" + zeros(4), colOffset: "", colExtents: "\xff\xff\xff\xff\x0f"},
		"size over 63 bits":              {colKinds: "0\x02" + zeros(4), colOffset: "", colSize: strings.Repeat("\xff", 9) + "\x01", colExtents: "\x00"},
	}
	if err := readPiece(t, pieceOf(good), 1); err != nil {
		t.Fatal(err)
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			columns := maps.Clone(good)
			maps.Copy(columns, change)
			if change == nil {
				clear(columns)
			}
			if err := readPiece(t, pieceOf(columns), 1); !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		if err := readPiece(t, "", 1); !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}

// readPiece reads the entries of an index with one piece, which may be nonsense, of a tar of 1000 bytes.
func readPiece(t *testing.T, raw string, count uint32) error {
	t.Helper()
	var body bytes.Buffer
	w, err := newWriter(&body, Tar)
	check(t, err)
	s, err := w.store(w.zip, []byte(raw))
	check(t, err)
	w.table.blob, w.table.diffID = wantOf(nil).Blob, wantOf(nil).Blob
	w.table.size, w.table.tarSize = 1000, 1000
	w.table.spans = []span{{bits: 8000}}
	w.table.pieces = []piece{{s, count}}
	b := seal(body.Bytes()[headSize:], w.table.appendTo(nil))
	x, err := Open(bytes.NewReader(b), int64(len(b)))
	if err == nil {
		_, err = entriesOf(x)
	}
	return err
}

// Names that have much in common take few bytes of a piece, but no fewer of the memory of who decodes it.
func TestThePiecesOfLongNamesAreSmall(t *testing.T) {
	const count = 3 * maxPieceText / MaxName
	e := Entry{Type: TypeDir, Name: strings.Repeat("./", MaxName/2)}
	p := newPieceEncoder()
	for range count {
		p.add(&e)
	}
	parts, _ := p.take()
	if _, err := decodePiece(bytes.Join(parts, nil), count); err != errEntry {
		t.Errorf("over %d bytes of names: %v", maxPieceText, err)
	}

	var body bytes.Buffer
	w, err := newWriter(&body, Tar)
	check(t, err)
	for range count {
		check(t, w.entry(&e))
	}
	check(t, w.flush())
	list, err := entriesOf(&Index{r: bytes.NewReader(body.Bytes()), t: &w.table})
	check(t, err)
	if len(list) != count || list[count-1].Name != e.Name {
		t.Errorf("%d entries", len(list))
	}
}
