package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"imgfs/fetcher"
)

func (a *app) loginCommand() *cobra.Command {
	var f networkFlags
	var user string
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "login [flags] REGISTRY",
		Short: "Check and store credentials for a registry",
		Long: `Check a user's password or access token against REGISTRY, HOST[:PORT], and store it for the commands that fetch
images, here and in podman, skopeo and buildah: with the credential helper that docker's or podman's configuration names, or else in
the first of their files that has it already or can be written. HOST[:PORT]/PATH stores it for what is below PATH alone.`,
		Example: `  imgfs login registry.example
  pass show registry | imgfs login -u me --password-stdin registry.example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := prompt{os.Stdin, a.stderr}
			user, password, err := p.credentials(cmd.Context(), user, fromStdin)
			if err != nil {
				return err
			}
			o := f.options(a)
			o.MakeAuthfile = true
			fetch, err := fetcher.New(o)
			if err != nil {
				return err
			}
			l, err := fetch.Login(cmd.Context(), args[0], user, password)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "stored for %s, in %s\n", l.Registry, l.Where)
			return nil
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVarP(&user, "username", "u", "", "user name (default: asked for)")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from stdin")
	return cmd
}

func (a *app) logoutCommand() *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "logout [flags] REGISTRY",
		Short: "Forget the credentials for a registry",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			fetch, err := fetcher.New(f.options(a))
			if err != nil {
				return err
			}
			l, more, err := fetch.Logout(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "removed for %s, from %s\n", l.Registry, l.Where)
			for _, where := range more {
				fmt.Fprintf(a.stderr, "there are others in %s, which count from now on\n", where)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.authfile, "authfile", "", "file with registry credentials (default: podman's and docker's files)")
	return cmd
}

// A prompt is who is asked for credentials.
type prompt struct {
	in  *os.File
	out io.Writer
}

// maxInput bounds what is read of a user name or a password.
const maxInput = 64 << 10

// credentials returns a user's name and password. What is not given is asked for, on a terminal.
func (p prompt) credentials(ctx context.Context, user string, fromStdin bool) (name, password string, err error) {
	if fromStdin {
		if user == "" {
			return "", "", usageError{errors.New("--password-stdin: --username is needed as well")}
		}
		b, err := io.ReadAll(io.LimitReader(p.in, maxInput))
		return user, strings.TrimRight(string(b), "\r\n"), err
	}
	if !term.IsTerminal(int(p.in.Fd())) {
		return "", "", usageError{errors.New("there is no terminal to ask for a password: use --password-stdin")}
	}
	if user == "" {
		fmt.Fprint(p.out, "User name: ")
		if user, err = p.interruptible(ctx, p.line); err != nil {
			return "", "", err
		}
	}
	fmt.Fprint(p.out, "Password: ")
	password, err = p.interruptible(ctx, func() (string, error) {
		b, err := term.ReadPassword(int(p.in.Fd()))
		return string(b), err
	})
	fmt.Fprintln(p.out)
	return user, password, err
}

// interruptible reads what ask asks for. When ctx ends first, the terminal is as it was before.
func (p prompt) interruptible(ctx context.Context, ask func() (string, error)) (string, error) {
	before, err := term.GetState(int(p.in.Fd()))
	if err != nil {
		return "", err
	}
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := ask()
		done <- answer{text, err}
	}()
	select {
	case a := <-done:
		return a.text, a.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(int(p.in.Fd()), before))
	}
}

// line reads a line, and no more than that: what follows is the password.
func (p prompt) line() (string, error) {
	var line []byte
	for len(line) < maxInput {
		var b [1]byte
		if _, err := io.ReadFull(p.in, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	return strings.TrimSpace(string(line)), nil
}
