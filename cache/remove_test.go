package cache

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// twoImages fills a cache with two images that share a layer. One of the other
// layers has frames. What is in it is named by a word each, as names tells.
func twoImages(t *testing.T) *house {
	h := newHouse(t)
	layer := func(name string) digest.Digest {
		d := digest.FromString(name)
		h.putBlob(sourceOf([]byte(name)))
		of := []Kind{Indexes}
		if name == "perl" {
			of = append(of, Frames)
		}
		for _, kind := range of {
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

// target is what a ref points to.
func target(h *house, ref string) digest.Digest {
	h.t.Helper()
	r, err := h.Ref(ref)
	must(h.t, err)
	return r.Digest
}

// inner is the manifest in the list that a points to.
func inner(h *house) digest.Digest {
	h.t.Helper()
	b, err := h.Document(target(h, "a"))
	must(h.t, err)
	var list struct {
		Manifests []struct{ Digest digest.Digest }
	}
	must(h.t, json.Unmarshal(b, &list))
	return list.Manifests[0].Digest
}

func TestRemove(t *testing.T) {
	for _, tt := range []struct {
		name string
		what func(h *house) Selection
		want string // what is left
	}{
		{"everything", func(*house) Selection { return Selection{} }, ""},
		{"blobs only", func(*house) Selection { return Selection{Kinds: []Kind{Blobs}} },
			"d:config-a d:config-b d:manifest d:manifest d:manifest f:perl i:base i:perl i:python r:a r:b"},
		{"indexes only", func(*house) Selection { return Selection{Kinds: []Kind{Indexes}} },
			"b:base b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest f:perl r:a r:b"},
		{"indexes and frames", func(*house) Selection { return Selection{Kinds: []Kind{Indexes, Frames}} },
			"b:base b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest r:a r:b"},
		{"a layer", func(*house) Selection { return Selection{Digest: digest.FromString("base")} },
			"b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest f:perl i:perl i:python r:a r:b"},
		{"a layer's blob", func(*house) Selection { return Selection{Digest: digest.FromString("base"), Kinds: []Kind{Blobs}} },
			"b:perl b:python d:config-a d:config-b d:manifest d:manifest d:manifest f:perl i:base i:perl i:python r:a r:b"},
		{"a manifest, the ref to it, and what it alone reaches", func(h *house) Selection { return Selection{Digest: target(h, "b")} },
			"b:base b:python d:config-a d:manifest d:manifest i:base i:python r:a"},
		{"a list of manifests, and what it alone reaches", func(h *house) Selection { return Selection{Digest: target(h, "a")} },
			"b:base b:perl d:config-b d:manifest f:perl i:base i:perl r:b"},
		{"a manifest in a list, which stays", func(h *house) Selection { return Selection{Digest: inner(h)} },
			"b:base b:perl d:config-b d:manifest d:manifest f:perl i:base i:perl r:a r:b"},
		{"a name with a digest", func(h *house) Selection { return Selection{Ref: "c@" + target(h, "b").String()} },
			"b:base b:python d:config-a d:manifest d:manifest i:base i:python r:a"},
		{"a ref, and what it alone reaches", func(*house) Selection { return Selection{Ref: "a"} },
			"b:base b:perl d:config-b d:manifest f:perl i:base i:perl r:b"},
		{"a ref's blobs", func(*house) Selection { return Selection{Ref: "b", Kinds: []Kind{Blobs}} },
			"b:base b:python d:config-a d:config-b d:manifest d:manifest d:manifest f:perl i:base i:perl i:python r:a r:b"},
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
			if diff := gocmp.Diff(names(t, before), names(t, slices.Concat(left, done.Removed))); diff != "" || len(done.InUse) > 0 {
				t.Errorf("what is left and what was removed is not all (%d in use):\n%s", len(done.InUse), diff)
			}
		})
	}
}

func TestRemoveOfWhatIsNotThere(t *testing.T) {
	h := twoImages(t)
	d := digest.FromString("c")
	for _, s := range []Selection{{Ref: "c"}, {Ref: "oci:/tmp/c:v1"}, {Ref: "c@" + d.String()}, {Digest: d}} {
		_, err := h.Remove(s)
		wantAbsent(t, err)
		if name := cmp.Or(s.Ref, d.String()); !strings.Contains(fmt.Sprint(err), "nothing is cached for "+name) {
			t.Errorf("error %v does not tell what was looked for", err)
		}
	}
	if _, err := h.Remove(Selection{Ref: "a", Digest: d}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a ref and a digest at once: %v", err)
	}
}

func TestRemoveReachesTheLayersOfSchema1(t *testing.T) {
	h := newHouse(t)
	d := digest.FromString("base")
	tmp, err := h.Create(Indexes, d)
	must(t, err)
	write(t, tmp, []byte("base"))
	must(t, tmp.Commit())
	text := fmt.Sprintf(`{"schemaVersion": 1, "fsLayers": [{"blobSum": %q}]}`, d)
	must(t, h.PutDocument(digest.FromString(text), []byte(text)))
	must(t, h.PutRef(Ref{Name: "old", Digest: digest.FromString(text)}))
	r, err := h.Remove(Selection{Ref: "old"})
	must(t, err)
	if got := names(t, r.Removed); got != "d:manifest i:base r:old" {
		t.Errorf("removed %s", got)
	}
}

func TestRemoveLeavesWhatADocumentWithoutARefReaches(t *testing.T) {
	h := twoImages(t)
	_, err := h.Remove(Selection{Ref: "b", Kinds: []Kind{Refs}})
	must(t, err)
	_, err = h.Remove(Selection{Ref: "a"})
	must(t, err)
	left, err := h.List()
	must(t, err)
	if got, want := names(t, left), "b:base b:perl d:config-b d:manifest f:perl i:base i:perl"; got != want {
		t.Errorf("left: %s\nwant: %s", got, want)
	}
}

func TestRemoveLeavesTheWayToWhatIsInUse(t *testing.T) {
	for name, what := range map[string]func(h *house) Selection{
		"a ref":    func(*house) Selection { return Selection{Ref: "b"} },
		"a digest": func(h *house) Selection { return Selection{Digest: target(h, "b")} },
	} {
		t.Run(name, func(t *testing.T) {
			h := twoImages(t)
			blob, err := h.again().Blob(digest.FromString("perl"), 4, nil)
			must(t, err)
			defer blob.Close()
			_, err = h.Remove(Selection{Ref: "a"})
			must(t, err)
			s := what(h)
			for _, step := range []struct {
				name, inUse, left string
				then              func() error
			}{
				{"mounted", "b:perl", "b:perl d:config-b d:manifest r:b", blob.Close},
				{"not mounted any more", "", "", func() error { return nil }},
			} {
				done, err := h.Remove(s)
				must(t, err)
				left, err := h.List()
				must(t, err)
				if got := names(t, done.InUse); got != step.inUse {
					t.Errorf("%s: in use: %s, want %s", step.name, got, step.inUse)
				}
				if got := names(t, left); got != step.left {
					t.Errorf("%s: left: %s, want %s", step.name, got, step.left)
				}
				must(t, step.then())
			}
		})
	}
}

func TestRemoveSkipsWhatIsInUse(t *testing.T) {
	h := twoImages(t)
	other := h.again()
	index, err := other.OpenIndex(digest.FromString("base"))
	must(t, err)
	blob, err := other.Blob(digest.FromString("perl"), 4, nil)
	must(t, err)
	frames, err := other.OpenFrames(digest.FromString("perl"))
	must(t, err)
	done, err := h.Remove(Selection{})
	must(t, err)
	if got, want := names(t, done.InUse), "b:perl f:perl i:base"; got != want {
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
	must(t, errors.Join(index.Close(), frames.Close(), blob.Close()))
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

// The lock of a map is held by a process that is stopped.
func TestListDoesNotWaitForTheLockOfAMap(t *testing.T) {
	h := newHouse(t)
	s := h.blob(8 << 20)
	b := h.open(h.Cache, s)
	wantRange(t, b, s.data, 4<<20, 5<<20)
	must(t, b.landed())
	f, err := os.OpenFile(h.path(s), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	if ok, err := tryLock(f, unix.F_WRLCK, logByte, 1); !ok || err != nil {
		t.Fatalf("the lock is not to be had: %v", err)
	}
	if it := h.item(Blobs, s.digest); it.Size != 8<<20 || it.Cached != 1<<20 || !it.InUse {
		t.Errorf("%+v", it)
	}
	if cached, size, err := h.HasBlob(s.digest); cached != 1<<20 || size != 8<<20 || err != nil {
		t.Errorf("HasBlob = %d, %d, %v", cached, size, err)
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
