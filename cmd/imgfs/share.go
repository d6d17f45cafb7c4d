package main

import (
	"bytes"
	"path/filepath"

	"github.com/spf13/cobra"
)

// shareCommand is for make install and who makes packages.
func (a *app) shareCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "share DIR",
		Short:  "Write the manual pages and the completions into a directory, as they are in /usr/share",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeManual(cmd.Root(), filepath.Join(args[0], "man")); err != nil {
				return err
			}
			return writeCompletions(cmd.Root(), args[0])
		},
	}
}

func writeManual(root *cobra.Command, dir string) error {
	m, err := newManual(dir)
	if err != nil {
		return err
	}
	if err := m.write(root, "1", "mount.imgfs(8)"); err != nil {
		return err
	}
	return m.write(mountHelperCommand(nil), "8", "imgfs-mount(1)", "mount(8)", "fstab(5)")
}

func writeCompletions(root *cobra.Command, dir string) error {
	for file, generate := range map[string]func(*bytes.Buffer) error{
		"bash-completion/completions/imgfs":    func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"zsh/site-functions/_imgfs":            func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"fish/vendor_completions.d/imgfs.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, file), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
