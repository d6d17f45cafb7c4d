package peer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds how long a daemon may take until it says that it is ready.
const startTimeout = time.Minute

// daemon is a running program that serves until it is stopped.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended
	log  tailLog
}

// startDaemon starts cmd and returns when a line of its stderr matches ready,
// with that line's submatches. The program dies with this process.
func startDaemon(ctx context.Context, cmd *exec.Cmd, ready *regexp.Regexp) (*daemon, []string, error) {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d := &daemon{cmd: cmd, done: make(chan struct{})}
	started, found := make(chan error), make(chan []string, 1)
	go d.run(stderr, ready, started, found)
	if err := <-started; err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case m := <-found:
		return d, m, nil
	case <-d.done:
		return nil, nil, fmt.Errorf("%s ended at its start: %v\n%s", cmd.Path, cmd.ProcessState, d.log.String())
	case <-ctx.Done():
		d.stop()
		return nil, nil, fmt.Errorf("%s is not ready: %w\n%s", cmd.Path, ctx.Err(), d.log.String())
	}
}

// run starts the program and waits for its end. It keeps its thread to
// itself all the while: the kernel sends the parent-death signal when the
// thread that started the program ends.
func (d *daemon) run(stderr io.Reader, ready *regexp.Regexp, started chan<- error, found chan<- []string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(d.done)
	err := d.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		d.log.add(lines.Text())
		if m := ready.FindStringSubmatch(lines.Text()); m != nil {
			select {
			case found <- m:
			default: // it was found before
			}
		}
	}
	_, _ = io.Copy(io.Discard, stderr) // what a line too long for the scanner left
	_ = d.cmd.Wait()                   // how a daemon that is told to end does so is of no interest
}

// stop ends the program: kindly at first, by force after a while.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// tailLog keeps the last lines that a daemon wrote.
type tailLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *tailLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	if len(l.lines) > 200 {
		l.lines = append([]string(nil), l.lines[100:]...)
	}
}

func (l *tailLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return tail(strings.Join(l.lines, "\n"), 30)
}
