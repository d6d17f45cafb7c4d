package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imgfs/layers"
)

// Options of a mount. nil means the defaults.
type Options struct {
	// Name is what the mount table shows as the source; "imgfs" if empty.
	Name string
	// AllowOther lets other users use the mount of a user, which /etc/fuse.conf has to permit. Mounts of root
	// are open to all in any case. The modes and owners in the image decide who may do what, either way.
	AllowOther bool
	// Suid and Dev honour set-uid and set-gid bits, and device files. Only root can have that.
	Suid, Dev bool
	// NoExec lets no program of the mount be run.
	NoExec bool
	// Log is told of reads that fail; slog.Default() if nil.
	Log *slog.Logger
	// Debug logs every request, at level Debug.
	Debug bool
}

const (
	// maxRequest is the size of the largest read, in bytes. The kernel caps it at /proc/sys/fs/fuse/max_pages_limit, 1 MiB
	// as a rule. To read a large file in requests of 1 MiB takes as much processor time as in these, and each would have
	// a buffer of twice the size; requests of 256 KiB take somewhat more.
	maxRequest = 512 << 10
	// maxBackground is how many read-ahead requests the kernel sends before it waits for answers.
	maxBackground = 64
	// readAheadKiB is how far the kernel reads ahead, and around a page fault: two requests, so that there
	// is one to work on while one is being sent. More would cost a lazy image what nobody asked for.
	readAheadKiB = 2 * maxRequest >> 10
)

// Mount serves a tree at dir, an empty directory, until it is unmounted. It returns when the mount is usable. Errors
// are *MountError; they leave no mount behind.
//
// As root it mounts by itself, for all users; as another user through fusermount3, for that user.
func Mount(dir string, t *layers.Tree, o *Options) (*Server, error) {
	return thisHost().mount(dir, t, o)
}

func (h host) mount(dir string, t *layers.Tree, o *Options) (*Server, error) {
	o = o.withDefaults()
	dir, err := h.check(dir, o)
	if err != nil {
		return nil, err
	}
	a := newAdaptor(t, o.Log)
	return h.attachAndServe(dir, &readOnlyMount, o, a, &a.stats, fuseOptions(o))
}

// attachAndServe mounts on a directory that has been checked, and starts to answer the kernel there.
func (h host) attachAndServe(
	dir string, a *attachment, o *Options, raw fuse.RawFileSystem, stats *counters, options *fuse.MountOptions,
) (*Server, error) {
	device, err := h.attach(dir, a, o)
	if err != nil {
		return nil, err
	}
	s := &Server{host: h, dir: dir, fsType: fsType, stats: stats, done: make(chan struct{})}
	if err := s.serve(device, raw, options); err != nil {
		err = errors.Join(err, s.Detach())
		return nil, &MountError{Op: "mount", Dir: dir, Problem: "the kernel did not start it: " + err.Error(), Err: err}
	}
	if h.root {
		if err := raiseReadAhead(s.mount); err != nil {
			o.Log.Debug("reading ahead by the kernel's default", "dir", dir, "error", err)
		}
	}
	return s, nil
}

func (o *Options) withDefaults() *Options {
	if o == nil {
		o = new(Options)
	}
	c := *o
	if c.Name == "" {
		c.Name = Subtype
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &c
}

// serve starts to answer the kernel on an attached device, which it takes over.
func (s *Server) serve(device int, raw fuse.RawFileSystem, options *fuse.MountOptions) error {
	m, err := topmost(s.dir)
	if err == nil && (m == nil || m.FSType != fsType) {
		err = errNotMounted // any more
	}
	if err != nil {
		unix.Close(device)
		return err
	}
	s.mount = superblockOf(m)
	loop, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", device), options)
	if err != nil {
		return err
	}
	go func() {
		defer close(s.done)
		loop.Serve()
	}()
	return nil
}

// fuseOptions are go-fuse's. It does not mount for us, so the mount options are elsewhere.
func fuseOptions(o *Options) *fuse.MountOptions {
	return &fuse.MountOptions{
		Name:                     Subtype,
		MaxWrite:                 maxRequest, // go-fuse derives the size of reads from it
		MaxBackground:            maxBackground,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		EnableAcl:                true,                    // the kernel checks the image's ACLs
		IDMappedMount:            true,                    // mount_setattr(2) may map the owners
		ExtraCapabilities:        fuse.CAP_EXPORT_SUPPORT, // file handles last: node IDs do
		DisableSplice:            true,                    // content comes from memory, never from a descriptor
		Debug:                    o.Debug,
		Logger:                   slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			o.Log.Error("panic while serving", "panic", v, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
}

// raiseReadAhead sets how far the kernel reads ahead in a file system. It may be set only here: what a FUSE server
// asks for at the start, the kernel caps at 128 KiB.
func raiseReadAhead(b superblock) error {
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d", b.major, b.minor)
	return os.WriteFile(filepath.Join(bdi, "read_ahead_kb"), []byte(strconv.Itoa(readAheadKiB)), 0)
}
