package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imgfs/fetcher"
)

func (a *app) pullCommand() *cobra.Command {
	var f imageFlags
	var indexOnly, all bool
	cmd := &cobra.Command{
		Use:   "pull [flags] REF",
		Short: "Index an image, and fetch it to the cache",
		Long: `Index the layers of the image REF, fetch all of their bytes to the cache, and print the digest that REF resolves to. From
then on it mounts at once, with --offline as well. With --index-only the bytes of the layers are read for that, and not
kept: reading files fetches what they need.`,
		Example: `  imgfs pull debian:12
  imgfs pull --index-only --all-platforms debian:12`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := fetcher.ParseReference(args[0])
			if err != nil {
				return err
			}
			s, err := a.newSession(&f)
			if err != nil {
				return err
			}
			defer s.close()
			defer s.sayFetched()
			s.indexOnly = indexOnly
			images, err := s.images(cmd.Context(), ref, all)
			if err != nil {
				return err
			}
			for _, im := range images {
				if err := s.pull(cmd.Context(), im); err != nil {
					return fmt.Errorf("%s for %s: %w", im.Ref.Name(), platformString(im.Platform), err)
				}
			}
			_, err = fmt.Fprintln(a.stdout, images[0].Digest)
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&indexOnly, "index-only", false, "index the layers, and keep none of their bytes")
	cmd.Flags().BoolVar(&all, "all-platforms", false, "the images of all platforms")
	return cmd
}

// images returns the image that a reference names for the platform, or those of all platforms: one at least.
func (s *session) images(ctx context.Context, ref fetcher.Reference, all bool) ([]*fetcher.Image, error) {
	if !all {
		im, err := s.fetch.Resolve(ctx, ref)
		return []*fetcher.Image{im}, err
	}
	var c collector
	err := s.fetch.Walk(ctx, ref, true, &c)
	if err == nil && len(c.images) == 0 {
		err = notFoundError{fmt.Errorf("%s has no image for any platform", ref.Name())}
	}
	return c.images, err
}

// A collector is a Walker that ends at the first thing that is wrong.
type collector struct{ images []*fetcher.Image }

func (c *collector) Document(d fetcher.Document) error { return d.Err }

func (c *collector) Image(_ context.Context, im *fetcher.Image) error {
	if !im.Artifact {
		c.images = append(c.images, im)
	}
	return nil
}

func (s *session) pull(ctx context.Context, im *fetcher.Image) error {
	opened, err := s.openLayers(ctx, im)
	if err != nil {
		return err
	}
	defer opened.close()
	if s.indexOnly {
		return nil
	}
	return s.fetchAll(ctx, opened)
}
