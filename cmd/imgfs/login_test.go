package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgfs/internal/testimage"
)

// openTerminal returns the two ends of a pseudo-terminal.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// A typist types a line for each question.
type typist struct {
	t        *testing.T
	terminal *os.File // the program's end
	user     *os.File
	answers  map[string]string
	asked    []string
}

func (y *typist) Write(b []byte) (int, error) {
	question := string(b)
	y.asked = append(y.asked, question)
	if answer := y.answers[question]; answer != "" {
		fmt.Fprintln(y.user, answer)
	}
	return len(b), nil
}

func TestCredentialsAreAskedForOnATerminal(t *testing.T) {
	user, program := openTerminal(t)
	y := &typist{t: t, terminal: program, user: user, answers: map[string]string{"User name: ": " me ", "Password: ": "pass word "}}
	name, password, err := prompt{program, y}.credentials(t.Context(), "", false)
	if name != "me" || password != "pass word " || err != nil {
		t.Errorf("%q, %q, %v", name, password, err)
	}
	if !echoes(t, program) {
		t.Error("the terminal does not echo any more")
	}
	y.asked = nil
	if name, _, err := (prompt{program, y}).credentials(t.Context(), "you", false); name != "you" || err != nil || len(y.asked) != 2 {
		t.Errorf("%q, %v, asked %q", name, err, y.asked)
	}
}

func TestAnInterruptedQuestionLeavesTheTerminalAsItWas(t *testing.T) {
	_, program := openTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := prompt{program, &bytes.Buffer{}}.interruptible(ctx, func() (string, error) {
		state, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			return "", err
		}
		state.Lflag &^= unix.ECHO // as the question for a password does
		if err := unix.IoctlSetTermios(int(program.Fd()), unix.TCSETS, state); err != nil {
			return "", err
		}
		cancel()
		select {}
	})
	if !errors.Is(err, context.Canceled) || !echoes(t, program) {
		t.Errorf("%v, echoes: %v", err, echoes(t, program))
	}
}

// withStdin runs do with a file that holds text as stdin.
func withStdin(t *testing.T, text string, do func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := os.Stdin
	os.Stdin = f
	defer func() { os.Stdin = before }()
	do()
}

func TestLoginAndLogoutOnTheCommandLine(t *testing.T) {
	r := testimage.StartRegistry()
	defer r.Close()
	r.Push("team/a", "v1", testimage.Image{}.Bundle())
	r.Push("team/a", "v2", testimage.Image{}.Bundle())
	r.RequireBasic("me", "canary-password")
	file := filepath.Join(t.TempDir(), "auth.json")
	for _, test := range []struct {
		line, stdin string
		code        int
		says        string
	}{
		{"login --authfile FILE REGISTRY", "canary-password", exitUsage, "--password-stdin"},
		{"login --authfile FILE --password-stdin REGISTRY", "canary-password", exitUsage, "--username"},
		{"login --authfile FILE -u me -p x REGISTRY", "", exitUsage, ""},
		{"login --authfile FILE -u me --password-stdin REGISTRY", "canary-wrong\n", exitAuth, "refuses these credentials"},
		{"tags --authfile FILE REGISTRY/team/a", "", exitUsage, ""},
		{"login --authfile FILE -u me --password-stdin REGISTRY", "canary-password\n", exitOK, "stored for REGISTRY, in FILE"},
		{"tags --authfile FILE REGISTRY/team/a", "", exitOK, "v1\nv2\n"},
		{"tags --authfile FILE --json REGISTRY/team/a", "", exitOK, `"v2"`},
		{"tags --authfile FILE REGISTRY/team/b", "", exitNotFound, "not found"},
		{"tags --authfile FILE REGISTRY/team/a:v1", "", exitUsage, "without a tag"},
		{"logout --authfile FILE REGISTRY", "", exitOK, "removed for REGISTRY, from FILE"},
		{"logout --authfile FILE REGISTRY", "", exitNotFound, "no credentials"},
		{"tags --authfile FILE REGISTRY/team/a", "", exitAuth, "refuses access"},
	} {
		names := strings.NewReplacer("FILE", file, "REGISTRY", r.Host())
		var stdout, stderr bytes.Buffer
		withStdin(t, test.stdin, func() {
			if code := run(strings.Fields(names.Replace(test.line)), &stdout, &stderr); code != test.code {
				t.Errorf("imgfs %s: exit code %d, want %d", test.line, code, test.code)
			}
		})
		if said := stdout.String() + stderr.String(); !strings.Contains(said, names.Replace(test.says)) || strings.Contains(said, "canary") {
			t.Errorf("imgfs %s: %s", test.line, said)
		}
	}
}
