package main

import (
	"context"
	"fmt"
	"strings"

	"imgfs/layers"
)

// splitPath splits REF:/path. The path starts at the first ":/" after the transport's own colon: REF of
// "oci:/srv/layout:v1:/etc/passwd" is "oci:/srv/layout:v1". Without a path it is the root.
func splitPath(arg string) (ref, path string) {
	transport := ""
	if t, rest, ok := strings.Cut(arg, ":"); ok && (strings.HasPrefix(rest, "//") || t == "oci") {
		transport = t + ":"
		arg = rest
		if strings.HasPrefix(rest, "//") {
			transport += "//"
			arg = rest[2:]
		}
	}
	if i := strings.Index(arg, ":/"); i >= 0 {
		return transport + arg[:i], arg[i+1:]
	}
	return transport + arg, "/"
}

// openPath opens the image of REF:/path and finds the path in it.
func (s *session) openPath(ctx context.Context, arg string, follow bool) (*image, layers.Node, error) {
	ref, path := splitPath(arg)
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
