package main

import (
	"context"
	"fmt"

	"imgfs/fetcher"
	"imgfs/layers"
)

// openPath opens the image of REF:/path and finds the path in it.
func (s *session) openPath(ctx context.Context, arg string, follow bool) (*image, layers.Node, error) {
	ref, path := fetcher.SplitPath(arg)
	im, err := s.open(ctx, ref)
	if err != nil {
		return nil, 0, err
	}
	n, err := im.tree.Resolve(path, follow)
	if err != nil {
		im.close()
		return nil, 0, notFoundError{fmt.Errorf("%s: %w", im.Ref.Name(), err)}
	}
	return im, n, nil
}

// withPath runs f on the node that each of the arguments (REF:/path) names.
func (a *app) withPath(ctx context.Context, f *imageFlags, args []string, follow bool, do func(*image, layers.Node) error) error {
	s, err := a.newSession(f)
	if err != nil {
		return err
	}
	defer s.close()
	for _, arg := range args {
		im, n, err := s.openPath(ctx, arg, follow)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, im.close) // which ends reads
		err = do(im, n)
		stop()
		im.close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	return nil
}
