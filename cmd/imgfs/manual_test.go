package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestEveryCommandHasAPageThatTellsOfAllItsFlags(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run([]string{"share", dir}, &stdout, &stderr); code != exitOK || stdout.Len()+stderr.Len() > 0 {
		t.Fatalf("share: exit code %d, says %q and %q", code, &stdout, &stderr)
	}
	pages := 0
	var check func(cmd *cobra.Command, section string)
	check = func(cmd *cobra.Command, section string) {
		pages++
		page, err := os.ReadFile(filepath.Join(dir, "man/man"+section, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+"."+section))
		if err != nil {
			t.Error(err)
			return
		}
		text := strings.ReplaceAll(string(page), `\-`, "-")
		cmd.InheritedFlags()
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(text, "--"+f.Name) {
				t.Errorf("the page of %s does not tell of --%s", cmd.CommandPath(), f.Name)
			}
		})
		for _, c := range cmd.Commands() {
			if c.Name() != "help" && c.Name() != "completion" && !c.Hidden {
				check(c, section)
			}
		}
	}
	check((&app{}).rootCommand(), "1")
	check(mountHelperCommand(nil), "8")
	if files, err := filepath.Glob(filepath.Join(dir, "man/man*/*")); err != nil || len(files) != pages {
		t.Errorf("there are %d pages (%v) of %d commands", len(files), err, pages)
	}
}

func TestPagesAreTheSameInEveryBuild(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if err := writeManual((&app{}).rootCommand(), dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "man1/imgfs-mount.1"))
	if err != nil || !strings.HasPrefix(string(page), ".TH IMGFS-MOUNT 1 2023-11-14 ") {
		t.Errorf("the page begins with %.60q (%v)", page, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if err := writeManual((&app{}).rootCommand(), dir); err == nil {
		t.Error("a date that is none is taken")
	}
}

func TestWhatMeansSomethingToRoffIsEscaped(t *testing.T) {
	p := &page{}
	p.paragraphs("A line\n.with a dot, a \\ and a --flag\n'quoted'\n\n  as  it\n  .is\n\nend")
	want := `A line
\&.with a dot, a \e and a \-\-flag
\&'quoted'
.PP
.RS "4"
.nf
\&as  it
\&.is
.fi
.RE
.PP
end
`
	if p.String() != want {
		t.Errorf("the page is\n%s\nwant\n%s", p, want)
	}
}
