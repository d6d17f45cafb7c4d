package fs

import (
	"log/slog"
	"sync"
	"time"

	"imgfs/layers"
)

const (
	// failureWindow is how long a failing file is not mentioned again.
	failureWindow = time.Minute
	// failureLines is how many failing files are mentioned in one window: a dead registry makes all of them fail.
	failureLines = 20
)

// failures logs what fails: a line a file and window, and not more than failureLines in all, so that neither a
// loop over one file nor a walk over all of them floods the log. It is safe for concurrent use.
type failures struct {
	log *slog.Logger
	now func() time.Time

	// mu protects the following.
	mu         sync.Mutex
	since      time.Time                // when the window began
	seen       map[layers.Node]struct{} // files mentioned in it, at most failureLines
	suppressed int                      // failures of it that were not mentioned
}

func newFailures(log *slog.Logger) *failures {
	return &failures{log: log, now: time.Now, seen: make(map[layers.Node]struct{})}
}

// report logs that an operation on a file failed with err, which names the file, or counts it.
func (f *failures) report(n layers.Node, err error) {
	missed, ok := f.admit(n)
	if !ok {
		return
	}
	attrs := []any{"error", err}
	if missed > 0 {
		attrs = append(attrs, "unreported", missed)
	}
	f.log.Error("I/O error", attrs...)
}

// admit reports whether a failure of n is to be logged, and how many of the window before were not.
func (f *failures) admit(n layers.Node) (missed int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.since) >= failureWindow {
		f.since = now
		missed, f.suppressed = f.suppressed, 0
		clear(f.seen)
	}
	if _, ok := f.seen[n]; ok || len(f.seen) == failureLines {
		f.suppressed++
		return 0, false
	}
	f.seen[n] = struct{}{}
	return missed, true
}
