package fs

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// requests is a log handler that counts the kernel's requests, by opcode, from what go-fuse logs of them.
type requests struct {
	// mu protects the following.
	mu sync.Mutex
	by map[string]int
}

func (r *requests) Enabled(context.Context, slog.Level) bool { return true }
func (r *requests) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *requests) WithGroup(string) slog.Handler            { return r }
func (r *requests) Handle(_ context.Context, record slog.Record) error {
	if fields := strings.Fields(record.Message); len(fields) > 2 && fields[0] == "rx" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.by[fields[2]]++
	}
	return nil
}

// counts are the requests so far.
func (r *requests) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.by)
}

// useAll uses everything that the kernel may keep.
func useAll(t testing.TB, dir string) {
	t.Helper()
	entries, err := readDir(dir+"/many", 32<<10)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	for _, e := range entries {
		if err := unix.Lstat(dir+"/many/"+e.name, &st); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if err := unix.Stat(dir+"/absent", &st); err != unix.ENOENT {
			t.Fatal(err)
		}
		if _, err := unix.Readlink(dir+"/link", make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"/etc/hostname", "/big", "/link"} {
			if _, err := readFile(dir+name, bigSize); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Access(dir+"/setuid", unix.X_OK); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheKernelAsksOnce(t *testing.T) {
	seen := &requests{by: make(map[string]int)}
	s := mounted(t, sample().tree(t), &Options{Debug: true, Log: slog.New(seen)})
	useAll(t, s.Dir())
	once := seen.counts()
	for _, op := range []string{"OPEN", "OPENDIR", "FLUSH", "READLINK"} {
		if once[op] != 1 {
			t.Errorf("%d of %s, want 1", once[op], op)
		}
	}
	for _, op := range []string{"READDIR", "RELEASE", "RELEASEDIR", "ACCESS"} {
		if once[op] != 0 {
			t.Errorf("%d of %s, want none", once[op], op)
		}
	}
	if n := once["LOOKUP"]; n > 10 {
		t.Errorf("%d lookups of files that a listing has told of", n)
	}
	useAll(t, s.Dir())
	if again := seen.counts(); !maps.Equal(again, once) {
		t.Errorf("a second time it asks: %v after %v", again, once)
	}
}
