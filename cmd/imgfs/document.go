package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"imgfs/fetcher"
)

func (a *app) manifestCommand() *cobra.Command {
	return a.documentCommand("manifest", "Print the manifest of the image for the platform, byte for byte", func(im *fetcher.Image) []byte { return im.Manifest })
}

func (a *app) configCommand() *cobra.Command {
	return a.documentCommand("config", "Print the config of the image for the platform, byte for byte", func(im *fetcher.Image) []byte { return im.Config })
}

func (a *app) digestCommand() *cobra.Command {
	return a.documentCommand("digest", "Print the digest that a reference resolves to: of the index, if it names one", func(im *fetcher.Image) []byte {
		return fmt.Appendln(nil, im.Digest)
	})
}

// documentCommand is a command that prints one thing of a resolved image.
func (a *app) documentCommand(name, short string, of func(*fetcher.Image) []byte) *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   name + " [flags] REF",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withImage(cmd.Context(), &f, args[0], func(_ *session, im *fetcher.Image) error {
				b := of(im)
				if isTerminal(a.stdout) {
					b = []byte(printable(string(b)))
				}
				_, err := a.stdout.Write(b)
				return err
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}
