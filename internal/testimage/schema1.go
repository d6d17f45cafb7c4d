package testimage

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// DockerSchema1Plain is the media type of a manifest of schema 1 without signatures.
const DockerSchema1Plain = "application/vnd.docker.distribution.manifest.v1+json"

// A Step is a step of the history of a manifest of schema 1.
type Step struct {
	Command   string
	Layer     []byte // the blob; one that is to be thrown away has one as well
	ThrowAway bool
}

// Schema1 returns an image with a manifest of Docker's schema 1 of that history, the oldest step first. Its root has
// the digest that Docker computes: signed, that of the manifest without signatures.
func Schema1(signed bool, steps ...Step) Bundle {
	type layer struct {
		BlobSum digest.Digest `json:"blobSum"`
	}
	type history struct {
		V1Compatibility string `json:"v1Compatibility"`
	}
	m := struct {
		SchemaVersion int       `json:"schemaVersion"`
		Name          string    `json:"name"`
		Tag           string    `json:"tag"`
		Architecture  string    `json:"architecture"`
		FSLayers      []layer   `json:"fsLayers"`
		History       []history `json:"history"`
	}{SchemaVersion: 1, Name: "a", Tag: "t", Architecture: "amd64"}
	b := newBundle()
	parent := ""
	for i, s := range steps {
		v1 := map[string]any{
			"id": digest.FromString(parent + fmt.Sprint(i)).Encoded(), "created": fmt.Sprintf("2015-01-02T03:04:%02dZ", i),
			"container_config": map[string]any{"Cmd": []string{"/bin/sh", "-c", s.Command}},
		}
		if parent != "" {
			v1["parent"] = parent
		}
		if s.ThrowAway {
			v1["throwaway"] = true
		}
		if i == len(steps)-1 {
			v1["os"], v1["architecture"], v1["config"] = "linux", "amd64", map[string]any{"Env": []string{"A=b"}}
		}
		parent = v1["id"].(string)
		d := b.add(digest.SHA256, "", s.Layer)
		m.FSLayers = append([]layer{{d.Digest}}, m.FSLayers...)
		m.History = append([]history{{string(encode(v1))}}, m.History...)
	}
	payload := indented(m)
	mediaType, content := DockerSchema1Plain, payload
	if signed {
		mediaType, content = DockerSchema1, Sign(payload)
	}
	b.Root = b.addManifest(mediaType, payload)
	b.Blobs[b.Root.Digest] = content
	return b
}

func indented(v any) []byte {
	var out bytes.Buffer
	if err := json.Indent(&out, encode(v), "", "   "); err != nil {
		return []byte(err.Error())
	}
	return out.Bytes()
}

// Sign returns a JSON object with a signature in it, as Docker does; but the signature is none.
func Sign(object []byte) []byte {
	const tail = "\n}"
	head := bytes.TrimSuffix(object, []byte(tail))
	encoded := base64.RawURLEncoding.EncodeToString
	protected := fmt.Sprintf(`{"formatLength":%d,"formatTail":%q,"time":"2015-01-02T03:04:05Z"}`, len(head), encoded([]byte(tail)))
	return fmt.Appendf(nil, "%s,\n   \"signatures\": [\n      {\n         \"header\": {\"alg\": \"ES256\"},\n"+
		"         \"signature\": \"AAAA\",\n         \"protected\": %q\n      }\n   ]%s", head, encoded([]byte(protected)), tail)
}
