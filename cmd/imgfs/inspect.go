package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"imgfs/fetcher"
)

func (a *app) inspectCommand() *cobra.Command {
	var f imageFlags
	var d dress
	cmd := &cobra.Command{
		Use:   "inspect [flags] REF",
		Short: "Show an image: digests, platform, config, layers and which of them are indexed",
		Long: `Show an image: its digests, platform and config, its layers, and which of them are indexed.

--as=docker prints it as "docker image inspect" does (of Docker 20.10), without GraphDriver and Metadata, which are about
Docker's own store, and without Size and VirtualSize as long as a layer is not indexed. --as=skopeo prints it as
"skopeo inspect" does (1.9), which asks the registry for all tags.

--format prints it by a Go template, with the functions of Docker's: json, join, split, lower, upper, title, pad and
truncate. Fields are named as in the JSON of that dress, or as Go has them.`,
		Example: `  imgfs inspect --format '{{join .Config.Env "\n"}}' debian:12
  imgfs inspect --as=docker --format '{{json .RootFS.Layers}}' debian:12`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.prepare(); err != nil {
				return err
			}
			return a.withImage(cmd.Context(), &f, args[0], func(s *session, im *fetcher.Image) error {
				return s.printDressed(cmd.Context(), im, &d)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&d.as, "as", "", "as which other tool prints it: docker or skopeo")
	cmd.Flags().StringVarP(&d.format, "format", "f", "", "print by a Go template")
	addJSON(cmd, &d.json)
	return cmd
}

// An inspection is what inspect shows of an image.
type inspection struct {
	Name           string            `json:"name"`
	Digest         digest.Digest     `json:"digest"`          // what the reference names: an index or the manifest
	ManifestDigest digest.Digest     `json:"manifest_digest"` // of the platform
	MediaType      string            `json:"media_type"`
	Platform       string            `json:"platform"`
	Created        *time.Time        `json:"created,omitempty"`
	ConfigDigest   digest.Digest     `json:"config_digest"`
	Config         v1.ImageConfig    `json:"config"`
	Size           int64             `json:"size"`             // compressed bytes of all layers
	Ranges         *bool             `json:"ranges,omitempty"` // whether the registry serves parts of layers; absent if that is not known
	Layers         []layerInspection `json:"layers"`
}

type layerInspection struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diff_id"`
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"`
	Index     *indexState   `json:"index,omitempty"` // absent if the layer is not indexed yet
	Cached    int64         `json:"cached"`          // bytes of the blob that are in the cache
}

type indexState struct {
	Format  string `json:"format"`
	Entries int    `json:"entries"`
	Spans   int    `json:"spans"`
	TarSize int64  `json:"tar_size"`
	Size    int64  `json:"size"`             // of the index
	Frames  int64  `json:"frames,omitempty"` // bytes beside it of what the blob has no way into
}

func (s *session) inspect(ctx context.Context, im *fetcher.Image) (*inspection, error) {
	config, err := parseConfig(im)
	if err != nil {
		return nil, err
	}
	i := &inspection{
		Name: im.Ref.Name(), Digest: im.Digest, ManifestDigest: im.ManifestDigest, MediaType: im.MediaType,
		Platform: platformString(im.Platform), Created: config.Created, ConfigDigest: im.ConfigDigest, Config: config.Config,
		Layers: []layerInspection{},
	}
	for _, l := range im.Layers {
		li, err := s.inspectLayer(l)
		if err != nil {
			return nil, err
		}
		i.Layers = append(i.Layers, li)
		i.Size += l.Size
	}
	i.Ranges = s.ranges(ctx, im)
	return i, nil
}

// ranges tells whether the largest layer can be had in ranges; nil if that is not known, or if it does not matter.
func (s *session) ranges(ctx context.Context, im *fetcher.Image) *bool {
	if len(im.Layers) == 0 {
		return nil
	}
	largest := slices.MaxFunc(im.Layers, func(a, b fetcher.Layer) int { return cmp.Compare(a.Size, b.Size) })
	b, err := s.fetch.Blob(ctx, im, largest)
	if err != nil {
		s.app.log.Debug("whether there are ranges is not known", "layer", largest.Digest, "why", err)
		return nil
	}
	defer b.Close()
	if b.Local() {
		return nil
	}
	ok, err := b.Ranges(ctx)
	if err != nil {
		s.app.log.Debug("whether there are ranges is not known", "layer", largest.Digest, "why", err)
		return nil
	}
	return &ok
}

func (s *session) inspectLayer(l fetcher.Layer) (layerInspection, error) {
	i := layerInspection{Digest: l.Digest, DiffID: l.DiffID, MediaType: l.MediaType, Size: l.Size}
	cached, _, err := s.cache.HasBlob(l.Digest)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return i, err
	}
	i.Cached = cached
	x, err := s.cachedIndex(l.Digest, l.Digest)
	if x == nil || err != nil {
		return i, err
	}
	defer x.close()
	i.DiffID = cmp.Or(i.DiffID, x.index.DiffID()) // an image of schema 1 does not say it
	i.Index = &indexState{
		Format: string(x.index.Format()), Entries: x.index.NumEntries(), Spans: x.index.NumSpans(),
		TarSize: x.index.TarSize(), Size: x.size, Frames: x.index.FramesSize(),
	}
	return i, nil
}

func parseConfig(im *fetcher.Image) (*v1.Image, error) {
	var c v1.Image
	return &c, decodeConfig(im, &c)
}

// decodeConfig decodes the config of an image into what is wanted of it.
func decodeConfig(im *fetcher.Image, c any) error {
	if err := json.Unmarshal(im.Config, c); err != nil {
		return fmt.Errorf("%s: config %s: %w: %w", im.Ref.Name(), im.ConfigDigest, fetcher.ErrMalformed, err)
	}
	return nil
}

func platformString(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (a *app) printInspection(i *inspection) error {
	line := a.printField
	line("Name", i.Name)
	line("Digest", i.Digest.String())
	if i.ManifestDigest != i.Digest {
		line("Manifest", i.ManifestDigest.String())
	}
	line("Media type", i.MediaType)
	line("Platform", i.Platform)
	if i.Created != nil {
		line("Created", i.Created.Format(time.RFC3339))
	}
	line("Config", i.ConfigDigest.String())
	c := i.Config
	line("User", c.User)
	line("Entrypoint", quoted(c.Entrypoint))
	line("Cmd", quoted(c.Cmd))
	line("Workdir", c.WorkingDir)
	for _, e := range c.Env {
		line("Env", e)
	}
	for _, k := range sortedKeys(c.Labels) {
		line("Label", k+"="+c.Labels[k])
	}
	if i.Ranges != nil {
		line("Ranges", map[bool]string{true: "yes", false: "no: layers are fetched as a whole"}[*i.Ranges])
	}
	layers := "layers"
	if len(i.Layers) == 1 {
		layers = "layer"
	}
	line("Size", fmt.Sprintf("%s in %d %s", humanBytes(i.Size), len(i.Layers), layers))
	fmt.Fprintln(a.stdout)
	t := a.newTable("LAYER", "DIFF ID", "SIZE", "CACHED", "INDEX")
	for _, l := range i.Layers {
		state := "none"
		if x := l.Index; x != nil {
			state = fmt.Sprintf("%s, %d entries, %d spans, %s", x.Format, x.Entries, x.Spans, humanBytes(x.Size))
			if x.Frames > 0 {
				state += fmt.Sprintf(" and %s of frames", humanBytes(x.Frames))
			}
		}
		t.row(l.Digest.String(), l.DiffID.String(), humanBytes(l.Size), humanBytes(l.Cached), state)
	}
	return t.flush()
}

// quoted is a command as a list of quoted words, empty for none.
func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, " ")
}
