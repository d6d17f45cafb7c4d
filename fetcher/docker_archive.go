package fetcher

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerLayers are Docker's media types of layers, by format.
var dockerLayers = map[format]string{
	plain: "application/vnd.docker.image.rootfs.diff.tar",
	gzip:  "application/vnd.docker.image.rootfs.diff.tar.gzip",
	zstd:  "application/vnd.docker.image.rootfs.diff.tar.zstd",
}

// dockerManifestFile lists the images of a docker archive.
const dockerManifestFile = "manifest.json"

// A dockerArchive is an image in an archive that docker save has written, or another tool for docker load
// (github.com/moby/moby, image/tarexport; its specification is image/spec/spec.md there). There are no manifests in it,
// so one is made of what it lists, as docker push does. A layer that is not compressed has its diff ID for its digest. One
// that is, as crane and kaniko write them, is read once to learn its digest, and so is each of an archive of old.
type dockerArchive struct {
	ref       Reference
	files     *archive
	documents map[digest.Digest][]byte   // manifests and configs
	blobs     map[digest.Digest]string   // names of layers
	digests   map[int64]digest.Digest    // of compressed layers, by where they are
	old       bool                       // configs are made as well
	tags      map[digest.Digest][]string // by manifest
	digest    func(context.Context, TarFile) (digest.Digest, error)
}

// A dockerItem is an image as manifest.json has it.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string

	newest string // ID of the newest layer, in the place of the others, in an archive that has no manifest.json
}

func (f *Fetcher) newDockerArchive(ref Reference, files *archive) *dockerArchive {
	compute := f.opts.Digest
	if compute == nil {
		compute = fileDigest
	}
	return &dockerArchive{
		ref: ref, files: files, digest: compute,
		documents: map[digest.Digest][]byte{}, blobs: map[digest.Digest]string{}, digests: map[int64]digest.Digest{},
		tags: map[digest.Digest][]string{},
	}
}

func (a *dockerArchive) roots(ctx context.Context) ([]v1.Descriptor, error) {
	items, err := dockerItems(a.files)
	if err != nil {
		return nil, err
	}
	picked, err := a.pick(items)
	if err != nil {
		return nil, err
	}
	var roots []v1.Descriptor
	for _, item := range picked {
		d, err := a.manifestOf(ctx, item)
		if err != nil {
			return nil, err
		}
		roots = append(roots, d)
	}
	return roots, nil
}

// dockerItems returns the images that an archive lists.
func dockerItems(files *archive) ([]dockerItem, error) {
	if !files.has(dockerManifestFile) && files.has(repositoriesFile) {
		return oldDockerItems(files)
	}
	b, err := readFile(files, dockerManifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var items []dockerItem
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, errorf(ErrMalformed, "%s of %s is not valid: %s", dockerManifestFile, files.location(), printable(err.Error()))
	}
	if slices.ContainsFunc(items, func(item dockerItem) bool { return item.Config == "" }) {
		return nil, errorf(ErrMalformed, "%s of %s lists something else than images", dockerManifestFile, files.location())
	}
	return items, nil
}

// dockerLayer matches the names of layers in archives of Docker's.
var dockerLayer = regexp.MustCompile(`^(?:[0-9a-f]{64}(?:/layer)?\.tar|blobs/sha256/[0-9a-f]{64})$`)

func (a *archive) hasDockerLayers() bool {
	for name := range a.members {
		if dockerLayer.MatchString(name) {
			return true
		}
	}
	return false
}

// pick returns the images that the reference names. Several of one name are taken as an index.
func (a *dockerArchive) pick(items []dockerItem) ([]dockerItem, error) {
	if len(items) == 0 {
		return nil, errorf(ErrNotFound, "%s holds no image", a.files.location())
	}
	if n, ok := strings.CutPrefix(a.ref.tag, "@"); ok {
		if i, err := strconv.Atoi(n); err == nil && i < len(items) {
			return items[i : i+1], nil
		}
		return nil, errorf(ErrNotFound, "%s has no image @%s: it holds %d, and the first is @0", a.files.location(), n, len(items))
	}
	if a.ref.tag == "" && len(items) > 1 {
		return nil, errorf(ErrReference, "%s holds several images; say which: %s", a.files.location(), listed(itemNames(items)))
	}
	var picked []dockerItem
	for _, item := range items {
		if a.ref.tag == "" || item.named(a.ref.tag) {
			picked = append(picked, item)
		}
	}
	if len(picked) == 0 {
		return nil, errorf(ErrNotFound, "%s has no image %s; it has %s", a.files.location(), a.ref.tag, listed(itemNames(items)))
	}
	if len(picked) > maxDocuments {
		return nil, errorf(ErrMalformed, "%s has more than %d images %s", a.files.location(), maxDocuments, a.ref.tag)
	}
	return picked, nil
}

func (item *dockerItem) named(name string) bool {
	for _, tag := range item.RepoTags {
		if sameName(name, tag) {
			return true
		}
	}
	return false
}

// itemNames returns what images can be asked for by.
func itemNames(items []dockerItem) []string {
	var names []string
	for i, item := range items {
		if len(item.RepoTags) == 0 {
			names = append(names, fmt.Sprintf("@%d", i))
		}
		names = append(names, item.RepoTags...)
	}
	return names
}

// sameName tells whether two names are the same for Docker.
func sameName(a, b string) bool {
	one, errOne := parseDocker(a)
	other, errOther := parseDocker(b)
	return errOne == nil && errOther == nil && one == other
}

// manifestOf makes the manifest of an image, and keeps it with the config.
func (a *dockerArchive) manifestOf(ctx context.Context, item dockerItem) (v1.Descriptor, error) {
	load := a.configOf
	if item.newest != "" {
		load, a.old = a.oldConfigOf, true
	}
	raw, layers, err := load(ctx, item)
	if err != nil {
		return v1.Descriptor{}, err
	}
	described := a.keepConfig(item, raw)
	config, err := parseConfig(a.ref.Name(), raw)
	if err != nil {
		if wrong := verify("config of "+a.ref.Name(), described.Digest, raw); wrong != nil {
			err = wrong // which is why
		}
		return v1.Descriptor{}, err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return v1.Descriptor{}, layersMismatch(a.ref, config.RootFS.DiffIDs, len(layers))
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest,
		Config: described, Layers: []v1.Descriptor{},
	}
	for i, name := range layers {
		if err := context.Cause(ctx); err != nil {
			return v1.Descriptor{}, err
		}
		l, err := a.layer(ctx, name, config.RootFS.DiffIDs[i])
		if err != nil {
			return v1.Descriptor{}, err
		}
		m.Layers = append(m.Layers, l)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := a.keep(m.MediaType, b)
	a.tags[d.Digest] = append(a.tags[d.Digest], item.RepoTags...)
	return d, nil
}

func (a *dockerArchive) names(root digest.Digest) []string {
	var all []string
	for _, tag := range a.tags[root] {
		if r, err := parseDocker(tag); err == nil {
			all = append(all, r.Name())
		}
	}
	return all
}

// digestName matches names that are made of the digest of the content.
var digestName = regexp.MustCompile(`^(?:blobs/sha256/([0-9a-f]{64})|([0-9a-f]{64})\.json)$`)

// configOf reads the config of an image, and returns it with the names of the layers.
func (a *dockerArchive) configOf(_ context.Context, item dockerItem) ([]byte, []string, error) {
	b, err := readFile(a.files, item.Config, maxConfig)
	return b, item.Layers, err
}

// keepConfig keeps the config of an image. Where its name is a digest, that is its own: whoever asks for it is told whether it
// has that.
func (a *dockerArchive) keepConfig(item dockerItem, b []byte) v1.Descriptor {
	d := a.keep(dockerConfig, b)
	if m := digestName.FindStringSubmatch(clean(item.Config)); m != nil {
		d.Digest = digest.NewDigestFromEncoded(digest.SHA256, m[1]+m[2])
		a.documents[d.Digest] = b
	}
	return d
}

func (a *dockerArchive) keep(mediaType string, b []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	a.documents[d.Digest] = b
	return d
}

// layer describes the layer that is stored under a name.
func (a *dockerArchive) layer(ctx context.Context, name string, diffID digest.Digest) (v1.Descriptor, error) {
	stored, m, err := a.files.find(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	file, err := a.files.open(stored)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer file.Close()
	what := fmt.Sprintf("layer %s of %s", printable(name), a.ref.Name())
	format, err := tarFormat(file, what)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{Size: file.size, Digest: diffID, MediaType: dockerLayers[format]}
	if format != plain {
		if d.Digest = a.digests[m.offset]; d.Digest == "" {
			if d.Digest, err = a.storedDigest(ctx, file, stored); err != nil {
				return v1.Descriptor{}, fmt.Errorf("%s: %w", what, err)
			}
			a.digests[m.offset] = d.Digest
		}
	}
	a.blobs[d.Digest] = stored
	return d, nil
}

// storedDigest returns the digest of a layer as it is stored. Where its name in the archive is one, that is it: the
// layer is compared with it when it is indexed.
func (a *dockerArchive) storedDigest(ctx context.Context, file openFile, name string) (digest.Digest, error) {
	if m := digestName.FindStringSubmatch(name); m != nil && m[1] != "" {
		return digest.NewDigestFromEncoded(digest.SHA256, m[1]), nil
	}
	return a.digest(ctx, TarFile{a.files.location() + ":" + name, a.files.stamp(), &Blob{impl: &fileBlob{file}}})
}

// fileDigest computes the digest of a file.
func fileDigest(ctx context.Context, file TarFile) (digest.Digest, error) {
	r, err := file.Blob.Open(ctx, 0, file.Blob.Size())
	if err != nil {
		return "", err
	}
	defer r.Close()
	return digest.FromReader(r)
}

func (a *dockerArchive) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	return a.document("manifest", d)
}

func (a *dockerArchive) config(_ context.Context, d digest.Digest) ([]byte, error) {
	return a.document("config", d)
}

func (a *dockerArchive) document(what string, d digest.Digest) ([]byte, error) {
	if b := a.documents[d]; b != nil {
		return b, verify(what+" of "+a.ref.Name(), d, b)
	}
	return nil, errorf(ErrNotFound, "%s %s of %s is not there", what, d, a.ref.Name())
}

func (a *dockerArchive) blob(l Layer) (*Blob, error) {
	name, ok := a.blobs[l.Digest]
	if !ok {
		return nil, errorf(ErrNotFound, "layer %s of %s is not there", l.Digest, a.ref.Name())
	}
	return readBlobFile(a.files, name, a.ref, l)
}
