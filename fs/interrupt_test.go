package fs

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// impatient serves a lookup of one name, and a read, only after the kernel has said that the caller got a signal.
type impatient struct {
	*adaptor
	name string
}

func (i impatient) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == i.name {
		<-cancel
	}
	return i.adaptor.Lookup(cancel, in, name, out)
}

func (i impatient) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	<-cancel
	return i.adaptor.Read(cancel, in, buf)
}

// stormRole looks up and reads args[0], not through the page cache, while signals rain on the thread that does it.
func stormRole(args []string) error {
	runtime.LockOSThread()
	pid, tid := os.Getpid(), unix.Gettid()
	var done atomic.Bool
	defer done.Store(true)
	go func() {
		for !done.Load() {
			unix.Tgkill(pid, tid, unix.SIGURG)
			runtime.Gosched()
		}
	}()
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	want := []byte(noise(bigSize))
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		return err
	}
	for off := 0; off < bigSize; {
		n, err := unix.Pread(fd, buf, int64(off))
		if err != nil || n == 0 {
			return fmt.Errorf("read at %d: %d, %w", off, n, err)
		}
		if !bytes.Equal(buf[:n], want[off:off+n]) {
			return fmt.Errorf("read at %d: wrong bytes", off)
		}
		off += n
	}
	return nil
}

func TestSignalsDoNotFailWhatTheyInterrupt(t *testing.T) {
	h, dir, o := thisHost(), publicDir(t), (*Options)(nil).withDefaults()
	device, err := h.attach(dir, &readOnlyMount, o)
	if err != nil {
		t.Fatal(err)
	}
	slow := impatient{newAdaptor(sample().tree(t), o.Log), "big"}
	loop, err := fuse.NewServer(slow, fmt.Sprintf("/dev/fd/%d", device), fuseOptions(o))
	if err != nil {
		t.Fatal(err)
	}
	go loop.Serve()
	t.Cleanup(func() {
		if err := h.detach(dir, true); err != nil {
			t.Error(err)
		}
		loop.Wait()
	})
	play(t, 0, "storm", dir+"/big")
}

func TestAStormOfSignalsDoesNotFailReads(t *testing.T) {
	s := mounted(t, sample().tree(t), nil)
	play(t, 0, "storm", s.Dir()+"/big")
}
