package main

import (
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/fetcher"
)

func (a *app) historyCommand() *cobra.Command {
	var f imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history [flags] REF",
		Short: "Show how an image was built, and which step made which layer",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withImage(cmd.Context(), &f, args[0], func(_ *session, im *fetcher.Image) error {
				steps, err := history(im)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(steps)
				}
				return a.printHistory(steps)
			})
		},
	}
	f.add(cmd.Flags())
	addJSON(cmd, &asJSON)
	return cmd
}

// A step is one line of an image's history, the oldest first.
type step struct {
	Created   *time.Time    `json:"created,omitempty"`
	CreatedBy string        `json:"created_by,omitempty"`
	Author    string        `json:"author,omitempty"`
	Comment   string        `json:"comment,omitempty"`
	Layer     digest.Digest `json:"layer,omitempty"` // absent for a step that made none
	Size      int64         `json:"size"`
}

// history joins the config's history with the layers. A config may tell of fewer layers than there are: those that
// remain follow as steps of their own.
func history(im *fetcher.Image) ([]step, error) {
	config, err := parseConfig(im)
	if err != nil {
		return nil, err
	}
	steps := []step{}
	rest := im.Layers
	add := func(s step, layer bool) {
		if layer && len(rest) > 0 {
			s.Layer, s.Size = rest[0].Digest, rest[0].Size
			rest = rest[1:]
		}
		steps = append(steps, s)
	}
	for _, h := range config.History {
		add(step{Created: h.Created, CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment}, !h.EmptyLayer)
	}
	for len(rest) > 0 {
		add(step{}, true)
	}
	return steps, nil
}

func (a *app) printHistory(steps []step) error {
	t := a.newTable("CREATED", "LAYER", "SIZE", "CREATED BY", "COMMENT")
	for _, s := range steps {
		created, layer, size := "", "-", "-"
		if s.Created != nil {
			created = s.Created.Format("2006-01-02 15:04:05")
		}
		if s.Layer != "" {
			layer, size = s.Layer.Encoded()[:12], humanBytes(s.Size)
		}
		t.row(created, layer, size, strings.Join(strings.Fields(s.CreatedBy), " "), s.Comment)
	}
	return t.flush()
}
