// Package measure is what the benchmarks measure with: processor time, and contests, in which contestants run in turns so
// that whatever else the machine does meets all of them. Nothing here is for other use.
package measure

import (
	"fmt"
	"math"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Contestant does a piece of work and tells how long that took, by whatever clock the contest is about.
type Contestant struct {
	Name string
	Run  func() (time.Duration, error)
}

// Contest has the contestants do their work in turns, as often as the benchmark loops, and returns the least time of each. It
// takes ns/op, which would be the sum of all, out of the benchmark's results.
func Contest(b *testing.B, contestants ...Contestant) map[string]time.Duration {
	b.Helper()
	best := make(map[string]time.Duration)
	for b.Loop() {
		for _, c := range contestants {
			took, err := c.Run()
			if err != nil {
				b.Fatalf("%s: %v", c.Name, err)
			}
			if least, ok := best[c.Name]; !ok || took < least {
				best[c.Name] = took
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	return best
}

// Rate is a rate in MB/s.
func Rate(bytes int64, took time.Duration) float64 {
	return float64(bytes) / 1e6 / math.Max(took.Seconds(), 1e-9)
}

// Wall is the time that passes while work runs.
func Wall(work func() error) (time.Duration, error) {
	begin := time.Now()
	err := work()
	return time.Since(begin), err
}

// Thread is the processor time, in user mode, that work takes on its own thread. What work starts elsewhere doesn't count.
func Thread(work func() error) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := userTime(unix.RUSAGE_THREAD)
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := userTime(unix.RUSAGE_THREAD)
	return after - before, err
}

// Process is the processor time, in user mode, that this process takes while work runs.
func Process(work func() error) (time.Duration, error) {
	before, err := userTime(unix.RUSAGE_SELF)
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := userTime(unix.RUSAGE_SELF)
	return after - before, err
}

func userTime(who int) (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano()), nil
}

// Command is the processor time, in user mode, of a command and of what it waited for.
func Command(cmd *exec.Cmd) (time.Duration, error) {
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", cmd.Args, err)
	}
	return cmd.ProcessState.UserTime(), nil
}
