package testimage

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A Tampering makes an image wrong in one place.
type Tampering struct {
	Name string
	// Wrong are the nodes that are not what they should be then. "manifest" is the document, as "index" and "config" are;
	// "layer 1" is the blob of the lowest layer, and "diff ID 1" the tar in it; "diff IDs" and "history" are their numbers.
	Wrong []string
	// Missing says that the node cannot be had at all.
	Missing bool
	do      func(*victim)
}

// Of returns b, tampered with. It has to be an index of an index of an image of three layers, all of gzip, with a history.
// All other documents than those that are wrong match what names them.
func (t Tampering) Of(b Bundle) Bundle {
	v := &victim{Bundle: Bundle{Root: b.Root, Blobs: maps.Clone(b.Blobs), Types: maps.Clone(b.Types)}}
	for d := b.Root.Digest; len(v.chain) < len(documents); {
		v.chain = append(v.chain, d)
		var doc struct {
			Manifests []struct{ Digest digest.Digest }
			Config    struct{ Digest digest.Digest }
			Layers    []struct{ Digest digest.Digest }
		}
		decode(v.Blobs[d], &doc)
		if d = doc.Config.Digest; len(doc.Manifests) > 0 {
			d = doc.Manifests[0].Digest
		}
		for _, l := range doc.Layers {
			v.layers = append(v.layers, l.Digest)
		}
	}
	t.do(v)
	return v.Bundle
}

// The documents of a victim, by their place in its chain.
const (
	outer = iota
	inner
	manifest
	config
)

var documents = [...]string{outer: "index", inner: "index", manifest: "manifest", config: "config"}

// A victim is what is being tampered with.
type victim struct {
	Bundle
	chain  []digest.Digest // of documents, from the root to the config
	layers []digest.Digest
}

type object = map[string]any

// rewrite changes a document, and what names it, up to the root.
func (v *victim) rewrite(i int, change func(object)) {
	var doc object
	decode(v.Blobs[v.chain[i]], &doc)
	change(doc)
	content := encode(doc)
	d := digest.FromBytes(content)
	v.Blobs[d] = content
	if mediaType := v.Types[v.chain[i]]; mediaType != "" {
		v.Types[d] = mediaType
	}
	v.chain[i] = d
	if i == outer {
		v.Root.Digest, v.Root.Size = d, int64(len(content))
		return
	}
	v.rewrite(i-1, func(parent object) {
		named := descriptor(parent, i)
		named["digest"], named["size"] = d, len(content)
	})
}

// descriptor returns what a document says of the next one in the chain.
func descriptor(doc object, next int) object {
	if next == config {
		return doc["config"].(object)
	}
	return doc["manifests"].([]any)[0].(object)
}

// relayer gives a layer another blob, with a manifest that says so.
func (v *victim) relayer(n int, blob []byte) {
	d := digest.FromBytes(blob)
	v.Blobs[d] = blob
	v.rewrite(manifest, func(m object) {
		l := m["layers"].([]any)[n].(object)
		l["digest"], l["size"] = d, len(blob)
	})
}

// layer returns a copy of a layer's blob.
func (v *victim) layer(n int) []byte { return bytes.Clone(v.Blobs[v.layers[n]]) }

// flip changes a byte of a document, which can be read still, and only is another one.
func (v *victim) flip(i int) {
	mark := `"schemaVersion":`
	if i == config {
		mark = `"architecture":"`
	}
	b := bytes.Clone(v.Blobs[v.chain[i]])
	b[bytes.Index(b, []byte(mark))+len(mark)] ^= 1
	v.Blobs[v.chain[i]] = b
}

// resize has what names a document say another size.
func (v *victim) resize(i int) {
	v.rewrite(i-1, func(doc object) { descriptor(doc, i)["size"] = 7 })
}

// diffIDs changes the list of diff IDs.
func (v *victim) diffIDs(change func([]any) []any) {
	v.rewrite(config, func(c object) {
		rootfs := c["rootfs"].(object)
		rootfs["diff_ids"] = change(rootfs["diff_ids"].([]any))
	})
}

// Tamperings returns all that there are.
func Tamperings() []Tampering {
	return slices.Concat(tamperedDocuments(), tamperedLayers(), tamperedNumbers())
}

func tamperedDocuments() []Tampering {
	var all []Tampering
	for i, node := range documents {
		name := []string{"the outer index", "the inner index", "the manifest", "the config"}[i]
		all = append(all, Tampering{Name: "a byte of " + name, Wrong: []string{node}, do: func(v *victim) { v.flip(i) }})
		if i > outer {
			all = append(all,
				Tampering{Name: "the size of " + name, Wrong: []string{node}, do: func(v *victim) { v.resize(i) }},
				Tampering{Name: name + " is not there", Wrong: []string{node}, Missing: true, do: func(v *victim) { delete(v.Blobs, v.chain[i]) }})
		}
	}
	return append(all,
		Tampering{Name: "the media type of the manifest", Wrong: []string{"manifest"}, do: func(v *victim) {
			v.rewrite(inner, func(doc object) { descriptor(doc, manifest)["mediaType"] = DockerManifest })
		}},
		Tampering{Name: "a manifest that is none", Wrong: []string{"manifest"}, do: func(v *victim) {
			v.rewrite(manifest, func(m object) { clear(m) })
		}})
}

func tamperedLayers() []Tampering {
	return []Tampering{
		{Name: "a byte of a layer", Wrong: []string{"layer 2"}, do: func(v *victim) {
			b := v.layer(1)
			b[len(b)/2] ^= 1
			v.Blobs[v.layers[1]] = b
		}},
		{Name: "a layer cut short", Wrong: []string{"layer 1"}, do: func(v *victim) {
			b := v.layer(0)
			v.Blobs[v.layers[0]] = b[:len(b)-1]
		}},
		{Name: "a layer with something behind it", Wrong: []string{"layer 3"}, do: func(v *victim) {
			v.Blobs[v.layers[2]] = append(v.layer(2), 0)
		}},
		{Name: "a layer in the place of another", Wrong: []string{"layer 1"}, do: func(v *victim) { v.Blobs[v.layers[0]] = v.layer(1) }},
		{Name: "a layer that is not there", Wrong: []string{"layer 2"}, Missing: true, do: func(v *victim) { delete(v.Blobs, v.layers[1]) }},
		{Name: "the size of a layer", Wrong: []string{"layer 1"}, do: func(v *victim) {
			v.rewrite(manifest, func(m object) { m["layers"].([]any)[0].(object)["size"] = 7 })
		}},
		{Name: "a gzip CRC", Wrong: []string{"diff ID 1"}, do: func(v *victim) {
			b := v.layer(0)
			b[len(b)-8] ^= 1
			v.relayer(0, b)
		}},
		{Name: "garbage behind gzip", Wrong: []string{"diff ID 2"}, do: func(v *victim) { v.relayer(1, append(v.layer(1), "garbage"...)) }},
		{Name: "gzip cut short", Wrong: []string{"diff ID 3"}, do: func(v *victim) {
			b := v.layer(2)
			v.relayer(2, b[:len(b)-1])
		}},
		{Name: "another tar", Wrong: []string{"diff ID 1"}, do: func(v *victim) { v.relayer(0, Gzip(Tar(File("another", "")))) }},
	}
}

func tamperedNumbers() []Tampering {
	return []Tampering{
		{Name: "a diff ID", Wrong: []string{"diff ID 2"}, do: func(v *victim) {
			v.diffIDs(func(ids []any) []any { ids[1] = digest.FromString("another"); return ids })
		}},
		{Name: "two diff IDs", Wrong: []string{"diff ID 1", "diff ID 2"}, do: func(v *victim) {
			v.diffIDs(func(ids []any) []any { ids[0], ids[1] = ids[1], ids[0]; return ids })
		}},
		{Name: "a diff ID too few", Wrong: []string{"diff IDs"}, do: func(v *victim) {
			v.diffIDs(func(ids []any) []any { return ids[1:] })
		}},
		{Name: "a diff ID too many", Wrong: []string{"diff IDs"}, do: func(v *victim) {
			v.diffIDs(func(ids []any) []any { return append(ids, ids[0]) })
		}},
		{Name: "a step too few", Wrong: []string{"history"}, do: func(v *victim) {
			v.rewrite(config, func(c object) { c["history"] = c["history"].([]any)[1:] })
		}},
		{Name: "a step too many", Wrong: []string{"history"}, do: func(v *victim) {
			v.rewrite(config, func(c object) { c["history"] = append(c["history"].([]any), object{"created_by": "nobody"}) })
		}},
	}
}

// decode parses JSON that has been written here, or by a tool that is trusted.
func decode(b []byte, v any) {
	if err := json.Unmarshal(b, v); err != nil {
		panic(err)
	}
}
