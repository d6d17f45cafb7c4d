package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"imgfs/fetcher"
	"imgfs/index"
)

func (a *app) verifyCommand() *cobra.Command {
	var f imageFlags
	var all, fast, asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [flags] REF",
		Short: "Check an image against its digests, down to the last byte of its layers",
		Long: `Check the image REF against its digests: indexes, manifest, config, the blob of each layer, the tar in it (its diff ID),
and whether config and history have as many layers as the manifest. All of it is read anew from where the image is,
whatever is in the cache. It goes on after what is wrong, as far as it comes.

There is a line for each: what it is, its digest, its size, and one of
  ok         it is what it should be
  differs    it is not: what was expected, and what was found
  error      it could not be had
  unchecked  there is nothing to compare, and why

The exit code is 5 if anything differs. With --fast, only what is in the cache is checked, and nothing is fetched: documents,
indexes, and the parts of layers that are there.`,
		Example: `  imgfs verify debian:12
  imgfs verify --all-platforms oci-archive:image.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := fetcher.ParseReference(args[0])
			if err != nil {
				return err
			}
			f.anew, f.offline = !fast, f.offline || fast
			s, err := a.newSession(&f)
			if err != nil {
				return err
			}
			defer s.close()
			v := &verification{session: s, fast: fast, silent: asJSON, nodes: []verifyNode{}, layers: map[layerKey]*layerNodes{}}
			err = s.fetch.Walk(cmd.Context(), ref, all, v)
			if asJSON {
				err = errors.Join(err, a.printJSON(v.nodes))
			}
			return v.outcome(ref, err)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all-platforms", false, "check the images of all platforms, and the artifacts beside them")
	cmd.Flags().BoolVar(&fast, "fast", false, "check what is in the cache, and nothing else")
	addJSON(cmd, &asJSON)
	return cmd
}

// A verifyNode is a line of verify.
type verifyNode struct {
	Node      string        `json:"node"`            // index, manifest, config, diff IDs (their number), history, layer, diff ID; blob, of an artifact
	Layer     int           `json:"layer,omitempty"` // which one, from 1
	Digest    digest.Digest `json:"digest,omitempty"`
	MediaType string        `json:"media_type,omitempty"`
	Platform  string        `json:"platform,omitempty"`
	Size      int64         `json:"size"` // bytes; of a diff ID, those of the tar; -1 if that is not known
	Result    string        `json:"result"`
	Note      string        `json:"note,omitempty"` // what there is to say beside the result
	Expected  string        `json:"expected,omitempty"`
	Found     string        `json:"found,omitempty"`

	err error
}

// What verify finds of a node.
const (
	nodeOK        = "ok"
	nodeDiffers   = "differs"
	nodeError     = "error"
	nodeUnchecked = "unchecked"
)

// judge gives the node its result: nil is ok.
func (n *verifyNode) judge(err error) {
	n.Result = nodeOK
	if err == nil {
		return
	}
	n.err, n.Note, n.Result = err, err.Error(), nodeError
	if exitCode(err) == exitVerification {
		n.Result = nodeDiffers
	}
	var document *fetcher.MismatchError
	var layer *index.MismatchError
	switch {
	case errors.As(err, &document):
		n.Expected, n.Found = document.Expected, document.Found
	case errors.As(err, &layer):
		n.Expected, n.Found = layer.Expected, layer.Found
	}
}

// skip says that the node is not judged, and why.
func (n *verifyNode) skip(why string) {
	n.Result, n.Note, n.Expected, n.Found, n.err = nodeUnchecked, why, "", "", nil
}

// line is the node as a line of text.
func (n *verifyNode) line() string {
	name, size, result := n.Node, "", n.Result
	if n.Layer > 0 {
		name = fmt.Sprintf("%s %d", name, n.Layer)
	}
	if n.Size >= 0 {
		size = humanBytes(n.Size)
	}
	for _, note := range []string{n.Platform, n.Note} {
		if note != "" {
			result += ": " + note
		}
	}
	line := fmt.Sprintf("%-10s %-71s %10s  %s", name, n.Digest, size, result)
	return strings.ReplaceAll(printable(line), "\n", `\n`) + "\n"
}

// outcome is the error that verify ends with: what differs comes first, then what ended the walk, then what could not be had.
func (v *verification) outcome(ref fetcher.Reference, err error) error {
	for _, result := range []string{nodeDiffers, nodeError} {
		var found []error
		for _, n := range v.nodes {
			if n.Result == result {
				found = append(found, n.err)
			}
		}
		if len(found) > 0 {
			return fmt.Errorf("%s: %s: %d of %d: %w", ref.Name(), result, len(found), len(v.nodes), found[0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
