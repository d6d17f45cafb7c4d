package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgfs/fetcher"
)

func (a *app) tagsCommand() *cobra.Command {
	var f networkFlags
	var creds string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tags [flags] REPO",
		Short: "List the tags of a repository",
		Long: `List the tags of the repository REPO, a name as docker writes it and without a tag, one a line.
Its registry itself is asked, and not its mirrors.`,
		Example: "  imgfs tags debian",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRepository(args[0])
			if err != nil {
				return err
			}
			o := f.options(a)
			o.Creds = creds
			fetch, err := fetcher.New(o)
			if err != nil {
				return err
			}
			tags, err := fetch.Tags(cmd.Context(), ref)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(append([]string{}, tags...))
			}
			for _, tag := range tags {
				if _, err := fmt.Fprintln(a.stdout, tag); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.add(cmd.Flags())
	addCreds(cmd.Flags(), &creds)
	addJSON(cmd, &asJSON)
	return cmd
}

// parseRepository parses a reference that names neither a tag nor a digest.
func parseRepository(s string) (fetcher.Reference, error) {
	ref, err := fetcher.ParseReference(s)
	if err != nil {
		return ref, err
	}
	if strings.Contains(s, "@") || strings.LastIndexByte(s, ':') > strings.LastIndexByte(s, '/') {
		return ref, usageError{fmt.Errorf("%s: a repository is wanted, without a tag or a digest", s)}
	}
	return ref, nil
}
