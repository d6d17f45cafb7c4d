package main

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"testing"

	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/index"
	"imgfs/layers"
)

func TestPrintableLeavesNothingThatSteersATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain name":         "plain name",
		"größe 猫\n":          "größe 猫\n",
		"\x1b[2Jgone":        `\x1b[2Jgone`,
		"tab\there":          "tab\there",
		"\rback":             `\rback`,
		"bad\xffutf8":        `bad\xffutf8`,
		"right\u202eleft":    `right\u202eleft`,
		"c1 \u009b31m":       `c1 \u009b31m`,
		"replacement \ufffd": "replacement \ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMistakesThatOtherToolsTeachAreAnsweredWithWhatToWrite(t *testing.T) {
	for _, tt := range []struct {
		args []string
		say  string
	}{
		{[]string{"digest", "--tls-verify", "false", "reg.example/a"}, "write --tls-verify=false"},
		{[]string{"mount", "--tls-verify", "true", "reg.example/a", "/mnt"}, "write --tls-verify=true"},
		{[]string{"digest", "https://reg.example/a"}, "leave out https://"},
		{[]string{"ls", "http://reg.example/a:v1:/etc"}, "leave out http://"},
		{[]string{"ls", "debian:12", "/etc"}, "write debian:12:/etc"},
		{[]string{"cat", "debian:12:/etc/issue", "/no/such/file"}, "write debian:12:/no/such/file"},
		{[]string{"help", "nosuch"}, "nosuch"},
		{[]string{"digest", "--insecure", "reg.example/a"}, "--insecure: write --tls-verify=false (imgfs digest --help"},
		{[]string{"inspect", "--override-arch", "arm64", "reg.example/a"}, "write --platform"},
	} {
		t.Setenv("IMGFS_CACHE_DIR", t.TempDir())
		var stdout, stderr bytes.Buffer
		if code := run(tt.args, &stdout, &stderr); code != exitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), tt.say) {
			t.Errorf("%q: exit code %d, says %q and %q, want %q", tt.args, code, stdout.String(), stderr.String(), tt.say)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"help", "cache", "rm"}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "--blobs") {
		t.Errorf("help cache rm: exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
}

func TestByteSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "64k": 64 << 10, "128MiB": 128 << 20, "128 MB": 128 << 20, "2G": 2 << 30, "1TiB": 1 << 40,
	} {
		var s byteSize
		if err := s.Set(in); err != nil || int64(s) != want {
			t.Errorf("%q is %d (%v), want %d", in, s, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1.5G", "12Q", "99999999999T", "1KMi"} {
		var s byteSize
		if err := s.Set(in); err == nil {
			t.Errorf("%q is taken as %d, want an error", in, s)
		}
	}
}

func TestASizeIsShownAsItCanBeGiven(t *testing.T) {
	for _, n := range []int64{0, 1, 1023, 1024, 1500, 128 << 20, 3 << 30, 1 << 50} {
		s := byteSize(n)
		var again byteSize
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%d is shown as %q, which is read as %d (%v)", n, s.String(), again, err)
		}
	}
}

func TestJSONOnATerminalSteersNothing(t *testing.T) {
	in := "{\"name\": \"a\u202e\u009b31m \U000e0001 größe\"}\n"
	want := `{"name": "a\u202e\u009b31m \udb40\udc01 größe"}` + "\n"
	if got := string(escapeJSON([]byte(in))); got != want {
		t.Errorf("escapeJSON(%q) = %q, want %q", in, got, want)
	}
}

func TestHumanBytes(t *testing.T) {
	for in, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB",
	} {
		if got := humanBytes(in); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestErrorsHaveTheirExitCodesHoweverDeepTheyAreWrapped(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything else"), 1},
		{fetcher.ErrNotFound, 2},
		{notFoundError{iofs.ErrNotExist}, 2},
		{&iofs.PathError{Op: "open", Path: "/x", Err: iofs.ErrNotExist}, 1},
		{usageError{errors.New("unknown flag")}, 3},
		{fetcher.ErrReference, 3},
		{fetcher.ErrOptions, 3},
		{fetcher.ErrOffline, 2},
		{fetcher.ErrUnauthorized, 4},
		{fetcher.ErrMismatch, 5},
		{&index.MismatchError{What: "size"}, 5},
		{&index.EntryError{Entry: "x", Err: index.ErrMalformed}, 5},
		{&layers.EntryError{Entry: "x", Err: errors.New("hard link to nowhere")}, 5},
		{index.ErrMalformed, 5},
		{fs.ErrMount, 6},
	} {
		err := tt.err
		if err != nil {
			err = fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", err))
		}
		if got := exitCode(err); got != tt.want {
			t.Errorf("%v ends with %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestWrongCommandLinesEndWithExitCode3(t *testing.T) {
	for _, line := range []string{
		"frobnicate", "mount", "mount --nonsense x", "mount a b c", "ls", "cache", "cache rm", "cache rm --all --blobs",
		"--log-level=loud version", "ls --memory=9 x", "mount --memory=lots x", "umount", "inspect a b",
	} {
		var stdout, stderr bytes.Buffer
		if code := run(strings.Fields(line), &stdout, &stderr); code != exitUsage {
			t.Errorf("imgfs %s: exit code %d, want 3", line, code)
		}
		if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "imgfs: ") {
			t.Errorf("imgfs %s: stdout %q, stderr %q; want only a message on stderr", line, &stdout, &stderr)
		}
	}
}
