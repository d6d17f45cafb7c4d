package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

func TestAMappingShowsTheFile(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	play(t, 0, "mmap", s.Dir()+"/big")
	play(t, nobody, "mmap", s.Dir()+"/big")
}

func TestReadsSideBySideAreRight(t *testing.T) {
	tree := sample().tree(t)
	s := mounted(t, tree, nil)
	want := []byte(noise(bigSize))
	var g errgroup.Group
	for seed := range uint64(8) {
		g.Go(func() error {
			fd, err := unix.Open(s.Dir()+"/big", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			r := rand.New(rand.NewPCG(seed, 0))
			buf := make([]byte, 200_000)
			for range 50 {
				off, size := r.IntN(bigSize), r.IntN(len(buf))
				n, err := unix.Pread(fd, buf[:size], int64(off))
				if err != nil {
					return err
				}
				if end := min(off+size, bigSize); n != end-off || !bytes.Equal(buf[:n], want[off:end]) {
					return fmt.Errorf("%d bytes at %d: %d that differ", size, off, n)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if got := s.Stats(); got.Reads == 0 || got.Bytes < bigSize/2 || got.Errors != 0 {
		t.Errorf("stats are %+v", got)
	}
}

// A holder is a tar that is in memory, in spans.
type holder struct {
	*bytes.Reader
	tar            []byte
	span           int
	release        func()
	held, released atomic.Int64
	raw            bool // nothing is decoded before it is read
}

func newHolder(b *builder, span int) *holder {
	h := &holder{Reader: bytes.NewReader(b.tar.Bytes()), tar: b.tar.Bytes(), span: span}
	h.release = func() { h.released.Add(1) }
	return h
}

func (h *holder) Hold(parts []layers.Part, off int64, n int) ([]layers.Part, error) {
	end := int(off) + n
	if (end-1)/h.span-int(off)/h.span >= cap(parts)-len(parts) {
		return parts, nil
	}
	for at := int(off); at < end; {
		next := min(end, (at/h.span+1)*h.span)
		parts = append(parts, layers.Part{Data: h.tar[at:next], Release: h.release})
		h.held.Add(1)
		at = next
	}
	return parts, nil
}

func (h *holder) HoldReady(parts []layers.Part, off int64, n int) []layers.Part {
	if h.raw {
		return parts
	}
	parts, _ = h.Hold(parts, off, n)
	return parts
}

func TestReadsAreAnsweredFromWhatIsHeld(t *testing.T) {
	for _, span := range []int{1000, 100_000, 700_000, 1 << 30} {
		b := sample()
		tar := newHolder(b, span)
		s := mounted(t, b.treeOver(t, tar), nil)
		for name, want := range map[string]string{"/big": noise(bigSize), "/etc/hostname": "imgfs\n", "/empty": ""} {
			got, err := readFile(s.Dir()+name, bigSize)
			if err != nil || string(got) != want {
				t.Errorf("%s in spans of %d bytes differs, %v", name, span, err)
			}
		}
		if err := s.Unmount(); err != nil {
			t.Fatal(err)
		}
		s.Wait()
		if held, released := tar.held.Load(), tar.released.Load(); held != released || held < 1 {
			t.Errorf("%d parts of %d bytes were held, %d released", held, span, released)
		}
	}
}

// A retrying holder lets go of what it holds first, and then holds it in one part, or fails.
type retrying struct {
	*holder
	fails bool
}

func (h *retrying) Hold(parts []layers.Part, off int64, n int) ([]layers.Part, error) {
	first, _ := h.holder.Hold(parts, off, n)
	for _, p := range first {
		p.Release()
	}
	if h.fails {
		return parts, errBroken
	}
	h.holder.span = 1 << 30
	defer func() { h.holder.span = 1000 }()
	return h.holder.Hold(parts, off, n)
}

func TestWhatWasHeldByATryThatFailedIsReleasedOnce(t *testing.T) {
	b := sample()
	tar := &retrying{holder: newHolder(b, 1000)}
	tree := b.treeOver(t, tar)
	a := newAdaptor(tree, slog.New(slog.DiscardHandler))
	buf := make([]byte, 2500)
	for i := range 100 { // some answers may use the memory of others
		tar.fails = i%2 == 0
		r, status := a.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id(t, tree, "/big")}, Size: uint32(len(buf))}, buf)
		if status.Ok() == tar.fails {
			t.Fatal(status)
		}
		if status.Ok() {
			r.Done()
		}
	}
	if held, released := tar.held.Load(), tar.released.Load(); held != released {
		t.Errorf("%d parts were held, %d released", held, released)
	}
}

func TestWhatWasReadIsNotAskedForAgain(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	var after []Stats
	for range 3 { // each opens the file anew
		if _, err := readFile(s.Dir()+"/big", bigSize); err != nil {
			t.Fatal(err)
		}
		after = append(after, s.Stats())
	}
	if after[0] != after[2] || after[0].Bytes != bigSize {
		t.Errorf("bytes read: %+v", after)
	}
}

func TestProgramsRunFromTheMount(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	b := new(builder)
	b.file("program", string(program))
	b.entries[0].Mode = 0o755
	b.file("script", "#!/bin/sh\necho run by $0\n")
	b.entries[1].Mode = 0o755
	b.file("plain", string(program))
	s := mounted(t, b.tree(t), nil)
	// A shell runs them: the runtime's fork waits for exec with a thread that serving the mount may need.
	for _, tc := range []struct{ script, want string }{
		{roleVariable + "=hold exec ./program /dev/null </dev/null", "ok\nok\n"},
		{"./script", "run by ./script\n"},
		{"./plain 2>/dev/null || echo denied", "denied\n"},
	} {
		cmd := exec.Command("/bin/sh", "-c", "cd "+s.Dir()+" && "+tc.script)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.script, out, err, tc.want)
		}
	}
}

func TestSetuidShowsButDoesNothing(t *testing.T) {
	b := new(builder)
	program, err := os.ReadFile("/usr/bin/id")
	if err != nil {
		t.Fatal(err)
	}
	b.file("id", string(program))
	b.entries[0].Mode = 0o4755
	tree := b.tree(t)
	for _, tc := range []struct {
		o    *Options
		want string
	}{{nil, "65534\n"}, {&Options{Suid: true}, "0\n"}} {
		s := mounted(t, tree, tc.o)
		var st unix.Stat_t
		if err := unix.Stat(s.Dir()+"/id", &st); err != nil || st.Mode != unix.S_IFREG|0o4755 {
			t.Errorf("mode is %o, %v", st.Mode, err)
		}
		out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", s.Dir()+"/id", "-u").Output()
		if err != nil || string(out) != tc.want {
			t.Errorf("%+v: effective user is %q, %v, want %q", tc.o, out, err, tc.want)
		}
	}
}

func TestDevicesShowButDoNotOpen(t *testing.T) {
	tree := sample().tree(t)
	for _, tc := range []struct {
		o    *Options
		want error
	}{{nil, unix.EACCES}, {&Options{Dev: true}, nil}} {
		s := mounted(t, tree, tc.o)
		fd, err := unix.Open(s.Dir()+"/null", unix.O_RDWR, 0)
		if err != tc.want {
			t.Errorf("%+v: opening the device: %v, want %v", tc.o, err, tc.want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}

// A flaky tar fails while it is broken.
type flaky struct {
	io.ReaderAt
	broken atomic.Bool
}

var errBroken = errors.New("the registry is on fire")

func (f *flaky) ReadAt(p []byte, off int64) (int, error) {
	if f.broken.Load() {
		return 0, errBroken
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestAReadThatFailsIsEIOAndFailuresAreNotKept(t *testing.T) {
	b := sample()
	tar := &flaky{ReaderAt: bytes.NewReader(b.tar.Bytes())}
	log := lines{make(chan slog.Record, 10)}
	s := mounted(t, b.treeOver(t, tar), &Options{Log: slog.New(log)})
	tar.broken.Store(true)
	for range 100 {
		if _, err := readFile(s.Dir()+"/etc/hostname", 10); err != unix.EIO {
			t.Fatalf("error is %v, want EIO", err)
		}
	}
	if _, err := readFile(s.Dir()+"/empty", 10); err != nil {
		t.Errorf("an empty file, for which nothing is read: %v", err)
	}
	tar.broken.Store(false)
	got, err := readFile(s.Dir()+"/etc/hostname", 10)
	if err != nil || string(got) != "imgfs\n" {
		t.Errorf("after the failure: %q, %v", got, err)
	}
	if n := s.Stats().Errors; n < 100 {
		t.Errorf("%d errors counted", n)
	}
	var errorLines []string
	for len(log.records) > 0 {
		if r := <-log.records; r.Level == slog.LevelError {
			r.Attrs(func(a slog.Attr) bool { errorLines = append(errorLines, a.String()); return true })
		}
	}
	if len(errorLines) != 1 || !strings.Contains(errorLines[0], "/etc/hostname") ||
		!strings.Contains(errorLines[0], errBroken.Error()) {
		t.Errorf("log has %q", errorLines)
	}
}

// A panicking tar is a bug that must not take the mount with it.
type panicking struct{}

func (panicking) ReadAt([]byte, int64) (int, error) { panic("a bug") }

func TestAPanicIsEIO(t *testing.T) {
	log := lines{make(chan slog.Record, 100)}
	s := mounted(t, sample().treeOver(t, panicking{}), &Options{Log: slog.New(log)})
	if _, err := readFile(s.Dir()+"/etc/hostname", 10); err != unix.EIO {
		t.Errorf("error is %v, want EIO", err)
	}
	if _, err := readDir(s.Dir()+"/etc", 4096); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	for r := range log.records {
		if r.Level == slog.LevelError && strings.Contains(r.Message, "panic") {
			return
		}
	}
}

func TestLargeFilesAreReadInLargeRequests(t *testing.T) {
	const size = 32 << 20
	b := new(builder)
	b.file("file", noise(size))
	s := mounted(t, b.tree(t), nil)
	if _, err := readFile(s.Dir()+"/file", size); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.Bytes != size || got.Reads > 2*size/maxRequest {
		t.Errorf("stats are %+v, want requests of about %d bytes", got, maxRequest)
	}
}

func TestFileHandlesOutliveTheMount(t *testing.T) {
	tree := sample().tree(t)
	first := mounted(t, tree, nil)
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(first.Dir(), "etc/hostname"), 0)
	if err != nil {
		t.Fatal(err)
	}
	second := mounted(t, tree, nil)
	fd, err := unix.OpenByHandleAt(opened(t, second.Dir()), handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 10)
	if n, err := unix.Read(fd, buf); string(buf[:n]) != "imgfs\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}
