package cache

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// twoImages fills a cache with two images that share a layer. What is in it
// is named by a word each, as names tells.
func twoImages(t *testing.T) *house {
	h := newHouse(t)
	layer := func(name string) digest.Digest {
		d := digest.FromString(name)
		for _, kind := range []Kind{Indexes, Blobs} {
			tmp, err := h.Create(kind, d)
			must(t, err)
			write(t, tmp, []byte(name))
			must(t, tmp.Commit())
		}
		return d
	}
	document := func(text string) digest.Digest {
		d := digest.FromString(text)
		must(t, h.PutDocument(d, []byte(text)))
		return d
	}
	image := func(config, layers string) digest.Digest {
		var list []string
		for name := range strings.FieldsSeq(layers) {
			list = append(list, fmt.Sprintf(`{"digest": %q}`, layer(name)))
		}
		return document(fmt.Sprintf(`{"config": {"digest": %q}, "layers": [%s]}`, document(config), strings.Join(list, ",")))
	}
	a := document(fmt.Sprintf(`{"manifests": [{"digest": %q}, {"digest": "bad"}]}`, image("config-a", "base python")))
	must(t, h.PutRef(Ref{Name: "a", Digest: a}))
	must(t, h.PutRef(Ref{Name: "b", Digest: image("config-b", "base perl")}))
	return h
}

// names tells what is in the cache: the first letter of the kind, and a word.
func names(t *testing.T, items []Item) string {
	t.Helper()
	words := map[digest.Digest]string{}
	for _, word := range []string{"base", "python", "perl", "config-a", "config-b"} {
		words[digest.FromString(word)] = word
	}
	var list []string
	for _, it := range items {
		word := words[it.Digest]
		switch {
		case it.Kind == Refs:
			word = it.Name
		case word == "":
			word = "manifest"
		}
		list = append(list, it.Kind.String()[:1]+":"+word)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestRemove(t *testing.T) {
	manifest := func(h *house, ref string) digest.Digest {
		r, err := h.Ref(ref)
		must(t, err)
		return r.Digest
	}
	for _, tt := range []struct {
		name string
		what func(h *house) Selection
		want string // what is left
	}{
		{"everything", func(*house) Selection { return Selection{} }, ""},
		{"blobs only", func(*house) Selection { return Selection{Kinds: []Kind{Blobs}} },
			"d:config-a d:config-b d:manifest d:manifest d:manifest i:base i:perl i:python r:a r:b"},
		{"indexes only", func(*house) Selection { return Selection{Kinds: []Kind{Indexes}} },
			"b:base b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest r:a r:b"},
		{"a layer", func(*house) Selection { return Selection{Digest: digest.FromString("base")} },
			"b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest i:perl i:python r:a r:b"},
		{"a layer's blob", func(*house) Selection { return Selection{Digest: digest.FromString("base"), Kinds: []Kind{Blobs}} },
			"b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest i:base i:perl i:python r:a r:b"},
		{"a manifest, and the ref to it", func(h *house) Selection { return Selection{Digest: manifest(h, "b")} },
			"b:base b:perl b:python d:config-a d:config-b d:manifest d:manifest i:base i:perl i:python r:a"},
		{"a ref, and what it alone reaches", func(*house) Selection { return Selection{Ref: "a"} },
			"b:base b:perl d:config-b d:manifest i:base i:perl r:b"},
		{"a ref's blobs", func(*house) Selection { return Selection{Ref: "b", Kinds: []Kind{Blobs}} },
			"b:base b:python d:config-a d:config-b d:manifest d:manifest d:manifest i:base i:perl i:python r:a r:b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := twoImages(t)
			before, err := h.List()
			must(t, err)
			done, err := h.Remove(tt.what(h))
			must(t, err)
			left, err := h.List()
			must(t, err)
			if got := names(t, left); got != tt.want {
				t.Errorf("left: %s\nwant: %s", got, tt.want)
			}
			if diff := cmp.Diff(names(t, before), names(t, slices.Concat(left, done.Removed))); diff != "" || len(done.InUse) > 0 {
				t.Errorf("what is left and what was removed is not all (%d in use):\n%s", len(done.InUse), diff)
			}
		})
	}
}

func TestRemoveOfWhatIsNotThere(t *testing.T) {
	h := twoImages(t)
	for _, s := range []Selection{{Ref: "c"}, {Digest: digest.FromString("c")}} {
		_, err := h.Remove(s)
		wantAbsent(t, err)
	}
}

func TestRemoveSkipsWhatIsInUse(t *testing.T) {
	h := twoImages(t)
	other := h.again()
	index, err := other.OpenIndex(digest.FromString("base"))
	must(t, err)
	blob, err := other.Blob(digest.FromString("perl"), 4, nil)
	must(t, err)
	done, err := h.Remove(Selection{})
	must(t, err)
	if got, want := names(t, done.InUse), "b:perl i:base"; got != want {
		t.Errorf("in use: %s, want %s", got, want)
	}
	left, err := h.List()
	must(t, err)
	for _, it := range left {
		if !it.InUse {
			t.Errorf("%v is left and not in use", it)
		}
	}
	wantRange(t, blob, []byte("perl"), 0, 4)
	must(t, index.Close())
	must(t, blob.Close())
	_, err = h.Remove(Selection{})
	must(t, err)
	if left, err := h.List(); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestListTellsWhatABlobReallyTakes(t *testing.T) {
	h := newHouse(t)
	s := h.blob(8 << 20)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 4<<20, 5<<20)
	must(t, b.Close())
	it := h.item(Blobs, s.digest)
	if it.Size != 8<<20 || it.Cached != 1<<20 || it.Disk < 1<<20 || it.Disk > 2<<20 || it.InUse || it.Time.IsZero() {
		t.Errorf("%+v", it)
	}
}

func TestListPassesOverWhatIsNotOurs(t *testing.T) {
	h := newHouse(t)
	must(t, os.WriteFile(h.dir+"/indexes/readme", nil, 0o600))
	must(t, os.Mkdir(h.dir+"/documents/sha256-"+strings.Repeat("0", 64), fs.ModePerm))
	if items, err := h.List(); len(items) != 0 || err != nil {
		t.Errorf("%v, %v", items, err)
	}
}
