package main

import (
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The run-time state of a mount is three files in the runtime directory, named by the mount's id: ID.json says what
// is mounted where, and is locked for as long as the server lives, so that a dead one is known whatever its process id
// has become since; ID.sock answers every connection with the statistics of that moment; ID.log is the server's log.

// A mountRecord is what ID.json holds.
type mountRecord struct {
	ID         string        `json:"id"`
	Mountpoint string        `json:"mountpoint"`
	Reference  string        `json:"reference"`
	Digest     digest.Digest `json:"digest"` // of the platform's manifest
	Platform   string        `json:"platform"`
	CacheDir   string        `json:"cache_dir"`
	PID        int           `json:"pid"`
	Started    time.Time     `json:"started"`
	Made       bool          `json:"made_mountpoint"` // the mountpoint was made by mount, and goes with it
	Log        string        `json:"log,omitempty"`
	Upper      *upperRecord  `json:"upper,omitempty"`
}

// An upperRecord is what is written to in a mount that is not read-only.
type upperRecord struct {
	Dir    string `json:"dir"`
	Work   string `json:"work"`
	Driver string `json:"driver"`
}

// runtimePath is where the run-time state of mounts is kept. That of root's login sessions ends with them, and knows nothing of
// what is mounted at boot: root has one place for all.
func runtimePath(uid int) string {
	xdg := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case xdg != "" && filepath.Clean(xdg) != "/run/user/0" && isMine(xdg):
		return filepath.Join(xdg, "imgfs")
	case uid == 0:
		return "/run/imgfs"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("imgfs-%d", uid))
}

// runtimeDir is runtimePath, made if need be.
func runtimeDir() (string, error) {
	dir := runtimePath(os.Geteuid())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("runtime directory: %w", err)
	}
	// In a shared place like /tmp somebody else may have been first.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("runtime directory %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return "", fmt.Errorf("runtime directory %s: not a directory that belongs to you alone", dir)
	}
	return dir, nil
}

// isMine tells whether a directory belongs to this user. sudo may leave root with the directory of another.
func isMine(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && int(st.Uid) == os.Geteuid()
}

// A registration is the state of a mount that this process serves.
type registration struct {
	dir    string
	record mountRecord
	file   *os.File // locked
	socket net.Listener
}

// register publishes a mount. stats is asked at each connection to the socket.
func register(dir string, r mountRecord, stats func() mountStats) (*registration, error) {
	g := &registration{dir: dir, record: r}
	if err := g.writeRecord(); err != nil {
		return nil, fmt.Errorf("mount state: %w", err)
	}
	if err := g.listen(stats); err != nil {
		g.remove()
		return nil, fmt.Errorf("mount state: %w", err)
	}
	return g, nil
}

// writeRecord makes ID.json appear whole and locked.
func (g *registration) writeRecord() error {
	b, err := json.Marshal(g.record)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(g.dir, ".state-*")
	if err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = os.Rename(f.Name(), statePath(g.dir, g.record.ID, "json"))
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	g.file = f
	return nil
}

func (g *registration) listen(stats func() mountStats) error {
	err := viaShortPath(g.dir, g.record.ID+".sock", func(path string) error {
		l, err := net.Listen("unix", path)
		g.socket = l
		return err
	})
	if err != nil {
		return err
	}
	// The path it was made by is gone with the directory's descriptor; remove unlinks it.
	g.socket.(*net.UnixListener).SetUnlinkOnClose(false)
	go func() {
		for {
			c, err := g.socket.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
				continue
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(5 * time.Second))
				json.NewEncoder(c).Encode(stats())
			}()
		}
	}()
	return nil
}

// remove takes the mount's state away: the last thing a server does.
func (g *registration) remove() {
	if g.socket != nil {
		g.socket.Close()
	}
	removeState(g.dir, g.record.ID)
	g.file.Close()
}

func removeState(dir, id string) {
	for _, kind := range []string{"sock", "log", "json"} {
		os.Remove(statePath(dir, id, kind))
	}
}

func statePath(dir, id, kind string) string { return filepath.Join(dir, id+"."+kind) }

// viaShortPath runs f with a path for dir/name that fits a socket address (108 bytes).
func viaShortPath(dir, name string, f func(path string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
}

// A mountState is what is known of a mount of this user.
type mountState struct {
	mountRecord
	Alive   bool        `json:"alive"`                 // its server is there
	Mounted bool        `json:"mounted"`               // it is in the mount table that this process sees
	Written int64       `json:"upper_bytes,omitempty"` // that the upper takes, if asked for
	Stats   *mountStats `json:"stats,omitempty"`       // if asked for, of a server that answers
}

// mounts lists the mounts in the runtime directory dir, dead ones too, oldest first. A record that can't be read is
// logged and passed over: it must not stand in the way of the others.
func mounts(dir string, log *slog.Logger) ([]mountState, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := []mountState{}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") || filepath.Ext(f.Name()) != ".json" {
			continue
		}
		m, err := readState(filepath.Join(dir, f.Name()))
		switch {
		case errors.Is(err, iofs.ErrNotExist): // unmounted just now
		case err != nil:
			log.Warn("mount state can't be read", "file", filepath.Join(dir, f.Name()), "why", err)
		default:
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b mountState) int { return a.Started.Compare(b.Started) })
	return all, nil
}

func readState(path string) (mountState, error) {
	var m mountState
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&m.mountRecord); err != nil {
		return m, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	m.Alive = errors.Is(err, unix.EWOULDBLOCK)
	if m.Alive {
		err = nil
	}
	return m, err
}

// askStats asks a server for its figures; nil when it doesn't answer.
func askStats(dir, id string) *mountStats {
	var s mountStats
	err := viaShortPath(dir, id+".sock", func(path string) error {
		c, err := net.DialTimeout("unix", path, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		return json.NewDecoder(c).Decode(&s)
	})
	if err != nil {
		return nil
	}
	return &s
}
