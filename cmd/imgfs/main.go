// Command imgfs mounts container images lazily: the merged tree of an image's layers as a read-only file system, with
// only those bytes fetched that are touched.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	args, err := commandLine()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imgfs:", err)
		os.Exit(exitFailed)
	}
	completeEnvironment()
	if !isChild && isMountHelper(os.Args[0]) {
		os.Exit(runMountHelper(args, os.Stdout, os.Stderr))
	}
	os.Exit(run(args, os.Stdout, os.Stderr))
}

// endSignals ask the program to end.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// run executes one command line and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals...)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one kills
	a := &app{args: args, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root, checkSwitches(args)
	if err == nil {
		command, err = root.ExecuteContextC(ctx)
	}
	if err != nil && !a.started {
		// Nothing ran yet, so it was the command line that cobra did not accept.
		err = usageError{fmt.Errorf("%w%s (%s --help tells more)", err, ourFlag(err), command.CommandPath())}
	}
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(stderr, "imgfs:", printable(err.Error()))
	}
	return exitCode(err)
}

// An app is what all commands share.
type app struct {
	args           []string // the command line
	stdout, stderr io.Writer
	log            *slog.Logger
	logLevel       string
	started        bool // the command line was accepted
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "imgfs",
		Short: "Mount container images lazily, as they are",
		Long: `imgfs mounts a container image from a registry, an archive or a directory as a read-only file system.
It needs no daemon and no conversion: the first mount streams and indexes each layer once,
every later one fetches only the bytes that are touched.

Exit codes: 0 ok; 1 failed; 2 not found; 3 usage; 4 authentication; 5 verification failed; 6 mount or privilege.`,
		Version:       programVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.started = true
			return a.setUpLog()
		},
	}
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "warn", "what is logged: debug, info, warn or error")
	root.AddCommand(
		a.mountCommand(), a.umountCommand(), a.psCommand(),
		a.lsCommand(), a.catCommand(), a.statCommand(), a.diffCommand(),
		a.inspectCommand(), a.manifestCommand(), a.configCommand(), a.digestCommand(), a.historyCommand(), a.verifyCommand(),
		a.pullCommand(), a.prefetchCommand(), a.saveCommand(), a.copyCommand(),
		a.loginCommand(), a.logoutCommand(), a.tagsCommand(),
		a.cacheCommand(), a.doctorCommand(), a.versionCommand(), a.shareCommand(),
	)
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, topic []string) error {
			_, _, err := root.Find(topic)
			return err
		}
	}
	return root
}

func (a *app) setUpLog() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return usageError{fmt.Errorf("--log-level %q: want debug, info, warn or error", a.logLevel)}
	}
	a.log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	return nil
}
