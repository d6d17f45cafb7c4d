package fetcher

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Before version 1.10 docker save wrote no manifest.json, and no configs: an image was its newest layer, each layer is a
// directory of its ID with json and layer.tar, and json names the layer below (github.com/moby/moby, image/spec/v1.md).

// repositoriesFile names the images of such an archive: the ID of each by name and by tag. Later archives have it as well.
const repositoriesFile = "repositories"

// Bounds of an image in such an archive. Docker's own is 127 layers.
const (
	maxOldLayers = 256
	maxOldJSON   = 256 << 10 // bytes
)

var oldID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// oldDockerItems returns the images of such an archive, in the order of their names.
func oldDockerItems(files *archive) ([]dockerItem, error) {
	b, err := readFile(files, repositoriesFile, maxManifest)
	if err != nil {
		return nil, err
	}
	var repositories map[string]map[string]string
	if err := json.Unmarshal(b, &repositories); err != nil {
		return nil, errorf(ErrMalformed, "%s of %s is not valid: %s", repositoriesFile, files.location(), printable(err.Error()))
	}
	byID := map[string]*dockerItem{}
	for repo, tags := range repositories {
		for tag, id := range tags {
			if !oldID.MatchString(id) {
				return nil, errorf(ErrMalformed, "%s of %s has %q for the ID of an image", repositoriesFile, files.location(), printable(id))
			}
			if byID[id] == nil {
				byID[id] = &dockerItem{newest: id}
			}
			byID[id].RepoTags = append(byID[id].RepoTags, repo+":"+tag)
		}
	}
	var items []dockerItem
	for _, item := range byID {
		slices.Sort(item.RepoTags)
		items = append(items, *item)
	}
	slices.SortFunc(items, func(a, b dockerItem) int { return strings.Compare(a.RepoTags[0], b.RepoTags[0]) })
	return items, nil
}

// oldConfigOf makes the config of an image of such an archive, as docker load does, and returns it with the names of the layers.
// Their digests have to be computed for that.
func (a *dockerArchive) oldConfigOf(ctx context.Context, item dockerItem) ([]byte, []string, error) {
	s, err := a.oldSteps(item.newest)
	if err != nil {
		return nil, nil, err
	}
	var layers []string
	var diffIDs []digest.Digest
	for _, step := range slices.Backward(s.steps) {
		name := path.Join(step.ID, "layer.tar")
		d, err := a.oldDiffID(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		layers, diffIDs = append(layers, name), append(diffIDs, d)
	}
	config, err := s.config(diffIDs...)
	if err != nil {
		return nil, nil, errorf(ErrMalformed, "%s: layer %s is not valid: %s", a.ref.Name(), item.newest, printable(err.Error()))
	}
	return config, layers, nil
}

// oldSteps reads what the archive says of layers, the newest first.
func (a *dockerArchive) oldSteps(newest string) (*schema1, error) {
	s := &schema1{}
	for id := newest; id != ""; {
		if len(s.steps) == maxOldLayers {
			return nil, errorf(ErrMalformed, "%s has more than %d layers, or one that is below itself", a.ref.Name(), maxOldLayers)
		}
		b, err := readFile(a.files, path.Join(id, "json"), maxOldJSON)
		if err != nil {
			return nil, err
		}
		var step v1Step
		if err := json.Unmarshal(b, &step); err != nil || step.ID != id || step.Parent != "" && !oldID.MatchString(step.Parent) {
			return nil, errorf(ErrMalformed, "%s: what %s says of layer %s is not valid", a.ref.Name(), a.files.location(), id)
		}
		step.ThrowAway = false // here, there is a layer for each
		s.steps = append(s.steps, step)
		s.History = append(s.History, struct{ V1Compatibility string }{string(b)})
		id = step.Parent
	}
	return s, nil
}

// oldDiffID returns the digest of a layer that is stored under a name.
func (a *dockerArchive) oldDiffID(ctx context.Context, name string) (digest.Digest, error) {
	stored, _, err := a.files.find(name)
	if err != nil {
		return "", err
	}
	file, err := a.files.open(stored)
	if err != nil {
		return "", err
	}
	defer file.Close()
	what := fmt.Sprintf("layer %s of %s", name, a.ref.Name())
	format, err := tarFormat(file, what)
	if err == nil && format != plain {
		err = unsupported("%s is compressed, and nothing tells its diff ID", what)
	}
	if err != nil {
		return "", err
	}
	d, err := a.storedDigest(ctx, file, stored)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return d, nil
}
