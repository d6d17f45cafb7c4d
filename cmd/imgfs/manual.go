package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A manual writes pages for man(1), of what the commands say of themselves. They are in the macros of man(7).
type manual struct {
	dir  string    // has man1 and so on
	date time.Time // of all pages
}

// newManual returns a manual of the time in $SOURCE_DATE_EPOCH, by which builds are the same again, or of today.
func newManual(dir string) (*manual, error) {
	m := &manual{dir: dir, date: time.Now()}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH=%s: %w", epoch, err)
		}
		m.date = time.Unix(seconds, 0).UTC()
	}
	return m, nil
}

// write writes the page of a command, and those of the commands below it.
func (m *manual) write(cmd *cobra.Command, section string, seeAlso ...string) error {
	p := &page{cmd: cmd}
	fmt.Fprintf(p, ".TH %s %s %s \"imgfs %s\" imgfs\n", strings.ToUpper(pageName(cmd)), section, m.date.Format(time.DateOnly), programVersion())
	below := slices.DeleteFunc(cmd.Commands(), func(c *cobra.Command) bool {
		return !c.IsAvailableCommand() || c.Name() == "help" || c.Name() == "completion"
	})
	p.write(below)
	if cmd.HasParent() {
		seeAlso = append(seeAlso, pageName(cmd.Parent())+"(1)")
	}
	p.macro("SH", "SEE ALSO")
	p.text(strings.Join(seeAlso, ", "))
	file := filepath.Join(m.dir, "man"+section, pageName(cmd)+"."+section)
	if err := writeFile(file, p.Bytes()); err != nil {
		return err
	}
	for _, c := range below {
		if err := m.write(c, section); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file and makes its directory.
func writeFile(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, content, 0o644)
}

// pageName is the name of a command's page, without the section.
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// A page is one page while it is written.
type page struct {
	bytes.Buffer
	cmd *cobra.Command
}

// write writes all sections but the last. below are the commands below that of the page.
func (p *page) write(below []*cobra.Command) {
	p.macro("SH", "NAME")
	fmt.Fprintf(p, "%s \\- %s\n", roff(pageName(p.cmd)), roff(p.cmd.Short))
	p.macro("SH", "SYNOPSIS")
	p.macro("B", p.cmd.CommandPath())
	if len(below) > 0 {
		p.text("COMMAND")
	} else {
		p.text(strings.TrimPrefix(p.cmd.UseLine(), p.cmd.CommandPath()))
	}
	p.macro("SH", "DESCRIPTION")
	p.paragraphs(cmp.Or(p.cmd.Long, p.cmd.Short+"."))
	p.options("OPTIONS", p.cmd.NonInheritedFlags())
	p.options("GLOBAL OPTIONS", p.cmd.InheritedFlags())
	if len(below) > 0 {
		p.macro("SH", "COMMANDS")
	}
	for _, c := range below {
		p.macro("TP")
		p.macro("B", pageName(c)+"(1)")
		p.text(c.Short)
	}
	if p.cmd.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.literal(p.cmd.Example)
	}
}

// macro writes a line with a macro.
func (p *page) macro(name string, args ...string) {
	fmt.Fprint(p, ".", name)
	for _, a := range args {
		fmt.Fprintf(p, ` "%s"`, strings.ReplaceAll(roff(a), `"`, `\(dq`))
	}
	fmt.Fprintln(p)
}

// text writes lines of running text.
func (p *page) text(s string) {
	for line := range strings.Lines(s) {
		line = roff(strings.TrimSpace(line))
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		fmt.Fprintln(p, line)
	}
}

// roff escapes what has a meaning to roff. A - is a hyphen to it, unless it is escaped.
func roff(s string) string { return strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s) }

// paragraphs writes text with blank lines between paragraphs, those that are indented as they are.
func (p *page) paragraphs(s string) {
	for i, paragraph := range strings.Split(strings.TrimRight(s, "\n"), "\n\n") {
		if i > 0 {
			p.macro("PP")
		}
		if strings.HasPrefix(paragraph, "  ") || strings.HasPrefix(paragraph, "\t") {
			p.literal(paragraph)
		} else {
			p.text(paragraph)
		}
	}
}

// literal writes lines as they are, but for the indentation.
func (p *page) literal(s string) {
	p.macro("RS", "4")
	p.macro("nf")
	for line := range strings.Lines(s) {
		line, _ = strings.CutPrefix(strings.TrimRight(line, "\n"), "  ")
		fmt.Fprintln(p, `\&`+roff(line))
	}
	p.macro("fi")
	p.macro("RE")
}

func (p *page) options(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.macro("SH", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		value, usage := pflag.UnquoteUsage(f)
		p.macro("TP")
		fmt.Fprintf(p, `\fB%s\fR`, roff(name))
		if value != "" {
			fmt.Fprintf(p, `=\fI%s\fR`, roff(value))
		}
		fmt.Fprintln(p)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += " (default: " + f.DefValue + ")"
		}
		p.text(usage)
	})
}
