package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"imgfs/internal/testimage"
)

// terminal makes a terminal, and returns its two sides.
func terminal(t *testing.T) (screen, program *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 120})
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return screen, program
}

// says reads until all of the words have come, and tells whether they have.
func says(r io.Reader, words ...string) bool {
	var said strings.Builder
	for b := bufio.NewReader(r); ; {
		c, err := b.ReadByte()
		if err != nil {
			return false
		}
		said.WriteByte(c)
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(said.String(), word)
		}
		if !missing {
			return true
		}
	}
}

// lookAt lists the user's image, and has the registry go on with the layer, which has come to a halt, when heal is called.
func (u *userOf) lookAt(stderr io.Writer, flags ...string) (heal func() (code int)) {
	u.registry.Inject(testimage.Fault{On: testimage.Blobs, Kind: testimage.Stall, After: 1 << 20})
	done := make(chan int)
	go func() {
		args := append(append([]string{"ls", u.ref()}, u.flags...), flags...)
		done <- run(args, io.Discard, stderr)
	}()
	return func() int {
		u.registry.Heal()
		return <-done
	}
}

func TestATerminalShowsHowFarEachLayerIs(t *testing.T) {
	u := newUser(t)
	screen, program := terminal(t)
	heal := u.lookAt(program)
	if !says(screen, "layer 1 of 1", "1.0 MiB / 3.0 MiB", "KiB/s, ", "s left") {
		t.Error("the terminal does not show it")
	}
	go io.Copy(io.Discard, screen)
	if code := heal(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestASlowLayerIsToldOfWhereThereIsNoTerminal(t *testing.T) {
	u := newUser(t)
	r, w := io.Pipe()
	heal := u.lookAt(w)
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "imgfs: indexing layer 1 of 1, 3.0 MiB\n" {
		t.Errorf("it says %q (%v)", line, err)
	}
	go io.Copy(io.Discard, r)
	if code := heal(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestTheLogTellsOfEachLayerWhenItIsAsked(t *testing.T) {
	u := newUser(t)
	for _, quiet := range []bool{true, false} {
		args := append([]string{"ls", u.ref()}, u.flags...)
		if !quiet {
			u.run("cache", "rm", "--all")
			args = append(args, "--log-level=info")
		}
		var stderr bytes.Buffer
		if code := run(args, io.Discard, &stderr); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		said := stderr.String()
		if quiet && said != "" || !quiet && !strings.Contains(said, `msg=indexed what="layer 1 of 1" layer=`+u.layer.String()) {
			t.Errorf("quiet %v: stderr says %q", quiet, said)
		}
	}
}

func TestARateIsThatOfBytesThatWereNotHereBefore(t *testing.T) {
	b := &bar{begun: time.Now().Add(-10 * time.Second)}
	b.cached.Store(2 << 20)
	const rate = "  102.4 KiB/s"
	for _, tt := range []struct {
		stands decor.Statistics
		want   string
	}{
		{decor.Statistics{Current: 2 << 20, Total: 4 << 20}, ""},
		{decor.Statistics{Current: 3 << 20, Total: 4 << 20}, rate + ", 10s left"},
		{decor.Statistics{Current: 4 << 20, Total: 4 << 20, Completed: true}, rate},
	} {
		if got := b.rate(tt.stands); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.stands, got, tt.want)
		}
	}
}
