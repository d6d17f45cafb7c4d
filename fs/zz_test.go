package fs

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

type counter struct {
	mu sync.Mutex
	m  map[string]int
}

func (l *counter) Enabled(context.Context, slog.Level) bool { return true }
func (l *counter) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *counter) WithGroup(string) slog.Handler            { return l }
func (l *counter) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := strings.Fields(r.Message)
	if len(f) > 2 && f[0] == "rx" {
		l.m[f[2]]++
	} else if len(f) > 0 && f[0] != "tx" {
		l.m[r.Message]++
	}
	return nil
}

func TestZZ(t *testing.T) {
	tree := forest(200, 110).tree(t)
	c := &counter{m: map[string]int{}}
	s := mounted(t, tree, &Options{Debug: true, Log: slog.New(c)})
	for range 3 {
		if out, err := exec.Command("sh", "-c", "find "+s.Dir()+" -ls | wc -l").CombinedOutput(); err != nil {
			t.Fatal(string(out))
		}
		c.mu.Lock()
		t.Log(c.m)
		clear(c.m)
		c.mu.Unlock()
	}
	exec.Command("sh", "-c", "ls -lR "+s.Dir()+" | wc -l").CombinedOutput()
	c.mu.Lock()
	t.Log(c.m)
	c.mu.Unlock()
}
