package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/fetcher"
	"imgfs/fetcher/save"
)

func (a *app) saveCommand() *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use:   "save [flags] REF DEST",
		Short: "Write an image to an OCI layout, an archive or a directory",
		Long: `Write the image for the platform to DEST, with its manifest, config and layers as they are, byte for byte:

  oci:DIR[:TAG]                   an OCI image layout; to one that is there the image is added
  oci-archive:FILE[:TAG]          the same in a tar
  docker-archive:FILE[:NAME:TAG]  an archive for docker load; without NAME it keeps the one that it has in a registry
  dir:DIR                         a directory as skopeo copy writes it

In the place of FILE, - is standard output. What is there already is not overwritten, but for an image of the same TAG in a layout.
Layers come from the cache where it has them, and do not go there. Every byte is compared with its digest before DEST appears; from
standard output nothing can be taken back, so there the end is missing, and the exit code is 5.`,
		Example: `  imgfs save debian:12 oci:/srv/layout:debian
  imgfs save --all alpine oci-archive:alpine.tar
  imgfs save debian:12 docker-archive:- | docker load`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := fetcher.ParseDestination(args[1])
			switch {
			case err != nil:
				return err
			case to.Transport == "docker":
				return usageError{fmt.Errorf("%s is in a registry: copy writes there", args[1])}
			case to.Path == fetcher.Stdout && isTerminal(a.stdout):
				return usageError{fmt.Errorf("%s: an archive is nothing for a terminal", args[1])}
			}
			return a.withBundle(cmd.Context(), &f, args[0], func(b *fetcher.Bundle) error {
				return save.Write(cmd.Context(), to, b, a.stdout)
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) copyCommand() *cobra.Command {
	var f bundleFlags
	var to registryFlags
	cmd := &cobra.Command{
		Use:   "copy [flags] REF NAME[:TAG]",
		Short: "Copy an image to a registry",
		Long: `Copy the image for the platform to the repository NAME of a registry, with its manifest, config and layers as they are, byte for
byte, and print its name there with its digest. What the repository has is not sent; what another repository of the same
registry has, if the image is from there, is mounted from it. Mirrors are never written to.

Flags that do not begin with dest- are for the place that the image is from; files with credentials and configurations of registries
count for both.`,
		Example: `  imgfs copy debian:12 registry.example/base/debian:12
  imgfs copy --all oci:/srv/layout:v1 registry.example/team/app:v1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dest, err := fetcher.ParseDestination(args[1])
			if err != nil {
				return err
			}
			if dest.Transport != "docker" {
				return usageError{fmt.Errorf("%s is not in a registry: save writes there", args[1])}
			}
			push, err := fetcher.New(to.options(a, &f.imageFlags))
			if err != nil {
				return err
			}
			return a.withBundle(cmd.Context(), &f, args[0], func(b *fetcher.Bundle) error {
				pushed, err := push.Push(cmd.Context(), dest.Ref, b)
				if err != nil {
					return err
				}
				a.log.Info("copied", "uploaded", pushed.Uploaded, "mounted", pushed.Mounted, "present", pushed.Present)
				_, err = fmt.Fprintln(a.stdout, pushed.Name)
				return err
			})
		},
	}
	f.add(cmd.Flags())
	to.add(cmd.Flags())
	return cmd
}

// withBundle runs do on what a reference names, on its way to somewhere else.
func (a *app) withBundle(ctx context.Context, f *bundleFlags, reference string, do func(*fetcher.Bundle) error) error {
	if f.all && f.platform != "" {
		return usageError{errors.New("--all is for all platforms, and --platform for one")}
	}
	s, err := a.newSession(&f.imageFlags)
	if err != nil {
		return err
	}
	defer s.close()
	b, err := s.bundle(ctx, reference, f.all)
	if err != nil {
		return err
	}
	b.Foreign = f.foreign
	p := a.newProgress("copying")
	defer p.wait()
	s.carry(b, p)
	return do(b)
}

// bundle resolves a reference to an image, or to all that it names.
func (s *session) bundle(ctx context.Context, reference string, all bool) (*fetcher.Bundle, error) {
	ref, err := fetcher.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	if all {
		return s.fetch.ResolveAll(ctx, ref)
	}
	im, err := s.fetch.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	for _, l := range im.Layers {
		if l.DiffID == "" {
			if im, err = s.withDiffIDs(ctx, im); err != nil {
				return nil, err
			}
			break
		}
	}
	return im.Bundle()
}

// withDiffIDs completes an image of schema 1. Its layers have to be indexed for that.
func (s *session) withDiffIDs(ctx context.Context, im *fetcher.Image) (*fetcher.Image, error) {
	p := s.app.newProgress("indexing")
	defer p.wait()
	var diffIDs []digest.Digest
	for i := range im.Layers {
		l, err := s.openLayer(ctx, im, i, p)
		if err != nil {
			return nil, err
		}
		diffIDs = append(diffIDs, l.current.Load().index.DiffID())
		l.close()
	}
	return im.WithDiffIDs(diffIDs)
}
