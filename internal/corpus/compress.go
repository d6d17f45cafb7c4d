package corpus

import (
	stdgzip "compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/klauspost/compress/gzip"
)

// A compressor is a program, or a package of Go's.
type compressor struct {
	name    string
	command []string                       // reads the tar from stdin and writes to stdout
	debian  string                         // the package that has the command
	writer  func(io.Writer) io.WriteCloser // without a command
}

// compressors are those that layers are made with. The parallel ones are told how many threads to run, because what they
// write depends on it.
var compressors = []compressor{
	{name: "gzip-1", command: []string{"gzip", "-1", "-n"}, debian: "gzip"},
	{name: "gzip-6", command: []string{"gzip", "-6", "-n"}, debian: "gzip"},
	{name: "gzip-9", command: []string{"gzip", "-9", "-n"}, debian: "gzip"},
	{name: "pigz", command: []string{"pigz", "-6", "-n", "-p", "4"}, debian: "pigz"},
	{name: "go", writer: func(w io.Writer) io.WriteCloser { return stdgzip.NewWriter(w) }},
	{name: "klauspost", writer: func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }},
	{name: "zstd", command: []string{"zstd", "-3", "-q", "-T1"}, debian: "zstd"},
	{name: "pzstd", command: []string{"pzstd", "-3", "-q", "-p", "4", "-c"}, debian: "zstd"},
}

// compress makes a file of a tar.
func (c *compressor) compress(ctx context.Context, tar, file string) (err error) {
	in, err := os.Open(tar)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if c.command != nil {
		cmd, err := Tool(ctx, c.debian, c.command...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout = in, out
		return run(cmd)
	}
	w := c.writer(out)
	if _, err := io.Copy(w, in); err != nil {
		return err
	}
	return w.Close()
}

// Tool prepares a call of a program. Where it is missing the error names the Debian package that has it.
func Tool(ctx context.Context, debian string, command ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%s is missing: it is in the package %s, and e2e/prepare.sh installs it", command[0], debian)
	}
	return cmd, cmd.Err
}

// run runs a command. Its error has what the command wrote to stderr.
func run(cmd *exec.Cmd) error {
	var stderr tail
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Args, err, stderr)
	}
	return nil
}

// A tail keeps the last bytes that were written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-2000):]
	return len(p), nil
}
