package layers_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"imgfs/index"
	"imgfs/layers"
)

// The vocabulary of random layers. It is small, so that names meet.
var (
	fuzzNames   = []string{"a", "ab", "c", "lib", "..", ".wh.a", ".wh.ab", ".wh..wh..opq", ".wh.lib", ".wh..wh.x", "."}
	fuzzTargets = []string{"a", "/a/ab", "../ab", "lib", "c/../../a", "/", ".", "ab/c", "/lib/a", "a/./b/", "..", ".wh.a"}
	fuzzTypes   = []byte("0005555512346Z")
	fuzzXattrs  = []index.Xattr{
		{Name: "security.capability", Value: netRaw}, {Name: "security.capability", Value: "no"}, {Name: "user.a", Value: "1"}, {Name: "user.overlay.opaque"},
		{Name: "system.posix_acl_access", Value: acl("u6 U7 g4 m7 o4")}, {Name: "system.posix_acl_access", Value: acl("u7 g5 o5")},
		{Name: "system.posix_acl_access", Value: acl("g5 o5")}, {Name: "system.posix_acl_default", Value: acl("u7 g5 m5 o5")},
	}
)

// randomLayers turns any bytes into layers.
func randomLayers(b []byte) []layerIn {
	take := func(n int) int {
		if len(b) == 0 {
			return 0
		}
		c := int(b[0])
		b = b[1:]
		return c % n
	}
	content := make([]byte, 1<<10)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	in := []layerIn{{}}
	for len(b) > 0 {
		l := &in[len(in)-1]
		if take(16) == 15 && len(in) < 8 {
			in = append(in, layerIn{})
			continue
		}
		e := &index.Entry{
			Type: fuzzTypes[take(len(fuzzTypes))],
			Mode: uint32(take(256)) << 4, UID: uint32(take(4)), MtimeSec: int64(len(l.entries)),
		}
		for depth := 1 + take(3); depth > 0; depth-- {
			e.Name += "/" + fuzzNames[take(len(fuzzNames))]
		}
		switch e.Type {
		case '0':
			e.Size = int64(1 + take(200))
			e.Extents = []index.Extent{{Offset: int64(take(256)), Length: e.Size - int64(take(2)*take(1+int(e.Size)))}}
		case '1', '2':
			e.Linkname = fuzzTargets[take(len(fuzzTargets))]
		case '3':
			e.Major, e.Minor = uint32(take(3)), uint32(take(3))
		}
		if x := take(16); x < len(fuzzXattrs) {
			e.Xattrs = []index.Xattr{fuzzXattrs[x]}
			if x < take(len(fuzzXattrs)) {
				e.Xattrs = append(e.Xattrs, index.Xattr{Name: "user.z", Value: fmt.Sprint(take(3))})
			}
		}
		l.entries = append(l.entries, e)
	}
	for i := range in {
		in[i].digest = digest.FromString(fmt.Sprint(i))
		in[i].tar = bytes.NewReader(content)
	}
	return in
}

// mergeAll merges layers; where an entry is rejected it is taken out and they are merged again, until all is well.
func mergeAll(t testing.TB, in []layerIn) result {
	t.Helper()
	for {
		r := merge(t, in)
		var e *layers.EntryError
		if !errors.As(r.err, &e) {
			return r
		}
		drop(in, e)
	}
}

// drop takes out the first entry that an error can mean, which may not be the one that was rejected, but is as good.
func drop(in []layerIn, e *layers.EntryError) {
	for i := range in {
		if in[i].digest != e.Layer {
			continue
		}
		k := slices.IndexFunc(in[i].entries, func(x *index.Entry) bool { return x.Name == e.Entry })
		in[i].entries = slices.Delete(in[i].entries, k, k+1)
	}
}

func randomBytes(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 100+r.IntN(300))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestRandomLayersMergeAsTheModelSays(t *testing.T) {
	const rounds = 3000
	nodes := 0
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			nodes += mergeAll(t, randomLayers(randomBytes(seed))).tree.Len()
		})
	}
	if nodes < 4*rounds {
		t.Errorf("the trees have %d names in all: too few to tell anything", nodes)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("0 a file, then a directory; some bytes of text are as good as any others"))
	for seed := range uint64(20) {
		f.Add(randomBytes(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1000 {
			return
		}
		mergeAll(t, randomLayers(b))
	})
}
