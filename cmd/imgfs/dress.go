package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"github.com/docker/cli/templates"

	"imgfs/fetcher"
)

// A dress is how inspect prints an image.
type dress struct {
	as, format string // flags
	json       bool
	template   *template.Template // nil if there is no format
}

// The tools whose dress inspect can wear.
const (
	asDocker = "docker"
	asSkopeo = "skopeo"
)

// skopeoJSON are the formats that skopeo takes for its JSON (github.com/containers/common, pkg/report, IsJSON).
var skopeoJSON = regexp.MustCompile(`^\s*(json|{{\s*json\s*\.?\s*}})\s*$`)

// prepare checks the flags, and parses the template.
func (d *dress) prepare() (err error) {
	switch {
	case d.as != "" && d.as != asDocker && d.as != asSkopeo:
		return usageError{fmt.Errorf("--as %q: want docker or skopeo", d.as)}
	case d.json && (d.as != "" || d.format != ""):
		return usageError{errors.New("--json is our own: it goes neither with --as nor with --format")}
	case d.format == "json" || d.as == asSkopeo && skopeoJSON.MatchString(d.format):
		d.format, d.json = "", d.as == ""
	}
	if d.format == "" {
		return nil
	}
	format := d.format
	if d.as == asSkopeo {
		format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
		format = strings.TrimSuffix(format, "\n")
	}
	if d.template, err = templates.Parse(format); err != nil {
		return usageError{fmt.Errorf("--format: %w", err)}
	}
	return nil
}

// printDressed prints an image.
func (s *session) printDressed(ctx context.Context, im *fetcher.Image, d *dress) (err error) {
	var v any
	switch d.as {
	case asDocker:
		v, err = s.inspectDocker(im)
	case asSkopeo:
		v, err = s.inspectSkopeo(ctx, im)
	default:
		v, err = s.inspect(ctx, im)
	}
	switch {
	case err != nil:
		return err
	case d.template != nil:
		return s.app.printTemplate(d.template, v)
	case d.as == asDocker:
		if v.(*dockerInspection).Size == nil {
			s.app.log.Warn("how large the files are is not known: not all layers are indexed")
		}
		return s.app.printForeign([]any{v}, false)
	case d.as == asSkopeo:
		return s.app.printForeign(v, true)
	case d.json:
		return s.app.printJSON(v)
	}
	return s.app.printInspection(v.(*inspection))
}

// printForeign prints JSON as another tool does, which on a terminal steers nothing.
func (a *app) printForeign(v any, escapeHTML bool) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escapeHTML)
	e.SetIndent("", "    ")
	if err := e.Encode(v); err != nil {
		return err
	}
	out := b.Bytes()
	if isTerminal(a.stdout) {
		out = escapeJSON(out)
	}
	_, err := a.stdout.Write(out)
	return err
}

// printTemplate prints v by a template, and a newline. Fields go by the names that they have in Go or, if that does not do for
// the whole template, in JSON.
func (a *app) printTemplate(t *template.Template, v any) error {
	var b bytes.Buffer
	if t.Execute(&b, v) != nil {
		b.Reset()
		raw, err := plain(v)
		if err != nil {
			return err
		}
		if err := t.Option("missingkey=error").Execute(&b, raw); err != nil {
			return usageError{fmt.Errorf("--format: %w", err)}
		}
	}
	b.WriteByte('\n')
	out := b.Bytes()
	if isTerminal(a.stdout) {
		out = []byte(printable(b.String()))
	}
	_, err := a.stdout.Write(out)
	return err
}

// plain is v as JSON has it, in maps and slices.
func plain(v any) (raw any, err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&raw)
	return raw, err
}
