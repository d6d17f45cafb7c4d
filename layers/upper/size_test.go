package upper

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheSizeCountsEachFileOnce(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(outside+"/large", make([]byte, 1<<20), 0o600), os.Mkdir(dir+"/sub", 0o700), os.WriteFile(dir+"/sub/file", make([]byte, 100<<10), 0o600),
		os.Link(dir+"/sub/file", dir+"/link"), os.Symlink(outside, dir+"/out"), mkfifo(dir+"/fifo"))
	var want int64
	for _, name := range []string{dir, dir + "/sub", dir + "/sub/file", dir + "/out", dir + "/fifo"} {
		var st unix.Stat_t
		must(t, unix.Lstat(name, &st))
		want += st.Blocks * 512
	}
	if got, err := Size(dir); got != want || err != nil {
		t.Errorf("%d bytes, want %d, %v", got, want, err)
	}
	if _, err := Size(dir + "/none"); !errors.Is(err, ErrUnusable) {
		t.Errorf("of none: %v", err)
	}
}
