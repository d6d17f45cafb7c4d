package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/index"
)

func (a *app) prefetchCommand() *cobra.Command {
	var f imageFlags
	var paths []string
	cmd := &cobra.Command{
		Use:   "prefetch [flags] DIR|REF [--paths PATH…]",
		Short: "Fetch an image, or some of its files, to the cache",
		Long: `Fetch the layers of the image REF to the cache, or those of the image that is mounted at DIR, so that reading it needs
no network. With --paths, fetch what the content of these files is in, and of all files below these directories. Patterns
(*, ?, [a-z]) stand for names. Links are followed; those below a directory lead to files, but not to directories.

Layers that are not indexed yet are, which takes all of their bytes. What the mount was told of its registry, by --creds and the
like, has to be told here as well.`,
		Example: `  imgfs prefetch debian:12
  imgfs prefetch /mnt --paths /usr/bin/python3 '/usr/lib/python3*'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen := cmd.Flags().Changed("paths")
			if len(args) > 1 && !chosen {
				return usageError{errors.New("one directory or reference at a time; paths in the image come after --paths")}
			}
			ref, err := a.mountedOr(args[0], &f)
			if err != nil {
				return err
			}
			s, err := a.newSession(&f)
			if err != nil {
				return err
			}
			defer s.close()
			defer s.sayFetched()
			im, err := s.open(cmd.Context(), ref)
			if err != nil {
				return err
			}
			defer im.close()
			if !chosen {
				return s.fetchAll(cmd.Context(), im)
			}
			return s.fetchPaths(cmd.Context(), im, append(paths, args[1:]...))
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringArrayVar(&paths, "paths", nil, "files and directories of the image; the arguments after DIR or REF are more of them")
	return cmd
}

// mountedOr returns the reference of the image that is mounted at a directory, by its digest, and has the cache of that
// mount used, unless another is chosen. What is no mount is a reference itself.
func (a *app) mountedOr(arg string, f *imageFlags) (string, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return arg, nil
	}
	mount, ours, err := fs.MountAt(abs)
	if err != nil || !ours {
		return arg, nil
	}
	m, known, err := a.mountAt(mount.Dir)
	if err == nil && !known {
		err = notFoundError{fmt.Errorf("%s: it is not known what is mounted there: no mount of yours", arg)}
	}
	if err != nil {
		return "", err
	}
	ref, err := fetcher.ParseReference(m.Reference)
	if err != nil {
		return "", err
	}
	if f.dir == "" {
		f.dir = m.CacheDir
	}
	return ref.At(m.Digest).String(), nil
}

// sayFetched says how much the session has fetched.
func (s *session) sayFetched() {
	n := s.fetch.Stats()
	fmt.Fprintf(s.app.stderr, "%s fetched in %d requests\n", humanBytes(n.Bytes), n.Requests)
}

// fetchAll brings all layers of an image to the cache.
func (s *session) fetchAll(ctx context.Context, im *image) error {
	return s.fetchLayers(ctx, im, func(l *layer, p *progress) error { return l.fetchAll(ctx, p) })
}

// fetchPaths brings to the cache what the content of files is in.
func (s *session) fetchPaths(ctx context.Context, im *image, paths []string) error {
	parts, err := contentOf(im.tree, paths)
	if err != nil {
		return fmt.Errorf("%s: %w", im.Ref.Name(), err)
	}
	byLayer := make(map[*layer][]index.Extent)
	for i, l := range im.layers {
		byLayer[l] = parts[i]
	}
	return s.fetchLayers(ctx, im, func(l *layer, _ *progress) error { return l.fetchParts(ctx, byLayer[l]) })
}

// fetchLayers runs fetch for all layers that are not read in place, side by side.
func (s *session) fetchLayers(ctx context.Context, im *image, fetch func(*layer, *progress) error) error {
	stop := context.AfterFunc(ctx, im.close) // which ends what waits for the network
	defer stop()
	p := s.app.newProgress("fetching")
	g := new(errgroup.Group)
	g.SetLimit(runtime.NumCPU())
	for _, l := range im.layers {
		if l.blob != nil {
			g.Go(func() error { return fetch(l, p) })
		}
	}
	err := g.Wait()
	p.wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// prefetchSize is how many bytes of a layer are fetched before the bar shows it.
const prefetchSize = 32 << 20

// fetchAll brings all of the layer to the cache, and checks it.
func (l *layer) fetchAll(ctx context.Context, p *progress) error {
	bar := p.start(l.label, l.Size)
	defer bar.done()
	for off := int64(0); off < l.Size; off += prefetchSize {
		n := min(prefetchSize, l.Size-off)
		if err := l.blob.Fetch(off, n); err != nil {
			return err
		}
		bar.add(n)
	}
	all := []index.Extent{{Length: l.current.Load().index.TarSize()}}
	if err := l.fetchParts(ctx, all); err != nil {
		return err
	}
	return l.isKept(l.Size)
}

// fetchParts brings to the cache what parts of the layer's tar are made of, and checks it.
func (l *layer) fetchParts(ctx context.Context, parts []index.Extent) error {
	var spans int64
	err := l.read(func(r *index.Reader) error {
		spans = 0
		for n, err := range r.Prefetch(parts) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			spans += n
		}
		return nil
	})
	if err != nil || spans == 0 {
		return err
	}
	return l.isKept(1)
}

// isKept checks that so many bytes of the layer are in the cache. One that can't be written to lets everything pass.
func (l *layer) isKept(want int64) error {
	cached, _, err := l.session.cache.HasBlob(l.Digest)
	if cached >= want {
		return nil
	}
	return errors.Join(fmt.Errorf("layer %s: %d bytes of it are kept in the cache, and not %d", l.Digest, cached, want), err)
}
