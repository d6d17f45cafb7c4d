package fs

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"imgfs/layers"
)

func TestFailuresDoNotFloodTheLog(t *testing.T) {
	log := lines{make(chan slog.Record, 1000)}
	now := time.Unix(1e9, 0)
	f := newFailures(slog.New(log))
	f.now = func() time.Time { return now }
	fails := func(n layers.Node) int {
		f.report(n, errors.New("read /x: broken"))
		return len(log.records)
	}
	for range 100 {
		if got := fails(7); got != 1 {
			t.Fatalf("a loop over one file logs %d lines", got)
		}
	}
	for n := range layers.Node(1000) {
		fails(n)
	}
	if got := len(log.records); got != failureLines {
		t.Fatalf("a walk over 1000 files logs %d lines, want %d", got, failureLines)
	}
	now = now.Add(failureWindow)
	if got := fails(7); got != failureLines+1 {
		t.Fatalf("in the next window nothing is logged")
	}
	for range failureLines {
		<-log.records
	}
	r := <-log.records
	missed := int64(-1)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "unreported" {
			missed = a.Value.Int64()
		}
		return true
	})
	if want := int64(99 + 1000 - (failureLines - 1)); missed != want {
		t.Errorf("%d failures are said to be unreported, want %d", missed, want)
	}
}
