package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"imgfs/fetcher"
	"imgfs/layers"
)

// withPath runs do on the node that each of the arguments (REF:/path) names. An image is opened once for arguments in a row.
func (a *app) withPath(ctx context.Context, f *imageFlags, args []string, follow bool, do func(*image, layers.Node) error) error {
	for _, arg := range args[1:] {
		if isBarePath(arg) {
			ref, _ := fetcher.SplitPath(args[0])
			return usageError{fmt.Errorf("%s names no image; for a path of the image before it write %s:%s", arg, ref, arg)}
		}
	}
	s, err := a.newSession(f)
	if err != nil {
		return err
	}
	defer s.close()
	for len(args) > 0 {
		ref, _ := fetcher.SplitPath(args[0])
		n := 1
		for n < len(args) && sameImage(args[n], ref) {
			n++
		}
		if err := s.withPathsOf(ctx, ref, args[:n], follow, do); err != nil {
			return err
		}
		args = args[n:]
	}
	return nil
}

// isBarePath tells whether an argument is a path at which there is no image: nothing at all, or a directory without the
// files that an image in a directory has. (Any file may be an archive.)
func isBarePath(arg string) bool {
	if !strings.HasPrefix(arg, "/") || strings.Contains(arg, ":") {
		return false
	}
	if st, err := os.Stat(arg); err != nil || !st.IsDir() {
		return err != nil
	}
	for _, name := range []string{v1.ImageLayoutFile, "manifest.json"} {
		if _, err := os.Stat(filepath.Join(arg, name)); err == nil {
			return false
		}
	}
	return true
}

func sameImage(arg, ref string) bool {
	other, _ := fetcher.SplitPath(arg)
	return other == ref
}

// withPathsOf is withPath for arguments of one image.
func (s *session) withPathsOf(ctx context.Context, ref string, args []string, follow bool, do func(*image, layers.Node) error) error {
	im, err := s.open(ctx, ref)
	if err != nil {
		return err
	}
	defer im.close()
	stop := context.AfterFunc(ctx, im.close) // which ends reads
	defer stop()
	for _, arg := range args {
		_, path := fetcher.SplitPath(arg)
		n, err := im.tree.Resolve(path, follow)
		if err != nil {
			return notFoundError{fmt.Errorf("%s: %w", im.Ref.Name(), err)}
		}
		err = do(im, n)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	return nil
}
