package main

import (
	"io"

	"github.com/spf13/cobra"

	"imgfs/layers"
)

func (a *app) catCommand() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:     "cat [flags] REF:/PATH…",
		Short:   "Write files of an image to standard output without mounting it",
		Example: "  imgfs cat debian:12:/etc/os-release",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withPath(cmd.Context(), &f, args, true, func(im *image, n layers.Node) error {
				size := int64(im.tree.Attr(n).Size)
				r := io.NewSectionReader(nodeReader{im.tree, n}, 0, size)
				// Reads as large as a span: smaller ones would look each span up many times.
				_, err := io.CopyBuffer(struct{ io.Writer }{a.stdout}, until(cmd.Context(), r), make([]byte, 1<<20))
				return err
			})
		},
	}
	f.add(cmd.Flags())
	f.addMemory(cmd.Flags())
	return cmd
}

// A nodeReader reads the content of a file of a tree.
type nodeReader struct {
	tree *layers.Tree
	node layers.Node
}

func (r nodeReader) ReadAt(p []byte, off int64) (int, error) { return r.tree.ReadAt(r.node, p, off) }
