package upper

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Options of Open. Image has to be given.
type Options struct {
	// Work is the work directory, made if it is not there; the upper's path and ".work" if empty.
	Work string
	// Image is the manifest's digest of the lower. An upper remembers it.
	Image digest.Digest
	// Reference is how the image was named, for Record.
	Reference string
	// Mountpoint is where the mount will be, if it is known: it can't be in the upper, nor the upper in it.
	Mountpoint string
	// Force takes an upper that was written for another image, or in another mode. It is its own from then on.
	Force bool
	// Log is told of what Force overrides; slog.Default() if nil.
	Log *slog.Logger
}

// A Dir is an upper and its work directory, opened for this process alone. Descriptors belong to it.
type Dir struct {
	Mode            Mode
	DeviceWhiteouts bool          // whiteouts can be devices; files with an attribute otherwise
	Image           digest.Digest // Options.Image
	Path, WorkPath  string        // absolute, without symlinks
	Upper           int           // descriptor of the upper
	Work            int           // descriptor of what things are made in: the directory "work" in the work directory, as the kernel has it
	workTop         int           // descriptor of the work directory
	fresh           bool          // it was no upper yet
}

// workName is the directory in the work directory in which things are made. The kernel's overlayfs empties it too.
const workName = "work"

// Open opens the directory at path as an upper, and makes it if it is not there. It locks it against other mounts, and tries
// out what its file system can do. What is left in the work directory stays until Clean. Errors are *Error.
func Open(path string, o *Options) (_ *Dir, err error) {
	d := &Dir{Image: o.Image, Upper: -1, Work: -1, workTop: -1}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.Upper, d.Path, err = openDir(path); err != nil {
		return nil, err
	}
	work := o.Work
	if work == "" {
		work = d.Path + ".work"
	}
	if d.workTop, d.WorkPath, err = openDir(work); err != nil {
		return nil, err
	}
	if err := d.checkPlaces(o.Mountpoint); err != nil {
		return nil, err
	}
	if err := d.lock(); err != nil {
		return nil, err
	}
	if err := d.checkOverlays(); err != nil {
		return nil, err
	}
	if err := d.tryOut(); err != nil {
		return nil, err
	}
	return d, d.record(o)
}

// Close lets go of the directories: they may be mounted again.
func (d *Dir) Close() {
	for _, fd := range []*int{&d.Work, &d.workTop, &d.Upper} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// openDir opens a directory that the user named, and makes it if it is not there. Links in the path are followed: they are
// the user's.
func openDir(name string) (fd int, path string, err error) {
	if err := os.Mkdir(name, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return -1, "", &Error{Dir: name, Problem: "can't be made: " + cause(err).Error(), Err: err}
	}
	if path, err = filepath.Abs(name); err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return -1, "", &Error{Dir: name, Problem: "can't be reached: " + cause(err).Error(), Err: err}
	}
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", &Error{Dir: path, Problem: "can't be opened: " + err.Error(), Err: err}
	}
	return fd, path, nil
}

// cause is the innermost error: without the paths that an *os.PathError repeats.
func cause(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}

// A place is what tells one directory from all others: its file system and inode.
type place struct {
	major, minor uint32
	ino          uint64
}

// placeOf looks a directory up. mount is the mount that the way to it leads through, 0 on Linux before 5.8.
func placeOf(dir int, name string) (p place, mount uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return place{}, 0, err
	}
	return place{st.Dev_major, st.Dev_minor, st.Ino}, st.Mnt_id, nil
}

// checkPlaces checks that upper and work directory are on one file system, and that neither they nor the mountpoint are in each
// other.
func (d *Dir) checkPlaces(mountpoint string) error {
	up, upMount, err := placeOf(d.Upper, "")
	if err != nil {
		return &Error{Dir: d.Path, Problem: "can't be looked at: " + err.Error(), Err: err}
	}
	work, workMount, err := placeOf(d.workTop, "")
	if err != nil {
		return &Error{Dir: d.WorkPath, Problem: "can't be looked at: " + err.Error(), Err: err}
	}
	if up.major != work.major || up.minor != work.minor || upMount != workMount {
		return &Error{
			Dir: d.WorkPath, Problem: "the work directory is on another file system than the upper " + d.Path, Err: unix.EXDEV,
			Fix: "choose one beside it with --work",
		}
	}
	dirs := []namedPlace{{"the upper", d.Path, d.Upper, up}, {"the work directory", d.WorkPath, d.workTop, work}}
	if mountpoint != "" {
		fd, err := unix.Open(mountpoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &Error{Dir: mountpoint, Problem: "can't be opened: " + err.Error(), Err: err}
		}
		defer unix.Close(fd)
		p, _, err := placeOf(fd, "")
		if err != nil {
			return &Error{Dir: mountpoint, Problem: "can't be looked at: " + err.Error(), Err: err}
		}
		dirs = append(dirs, namedPlace{"the mountpoint", mountpoint, fd, p})
	}
	return checkApart(dirs)
}

// A namedPlace is a directory that has to be apart from others.
type namedPlace struct {
	what, path string
	fd         int
	place      place
}

// checkApart checks that none of the directories is, or is in, another one.
func checkApart(dirs []namedPlace) error {
	for _, a := range dirs {
		above, err := ancestors(a.fd)
		if err != nil {
			return &Error{Dir: a.path, Problem: "the way up from it can't be looked at: " + err.Error(), Err: err}
		}
		for _, b := range dirs {
			if a != b && above[b.place] {
				return &Error{
					Dir: a.path, Problem: a.what + " is in " + b.what + " " + b.path, Err: unix.EINVAL,
					Fix: "choose directories apart from each other",
				}
			}
		}
	}
	return nil
}

// ancestors are the places from a directory up to the root, itself among them. Paths don't tell: one directory may be mounted in
// several places.
func ancestors(dir int) (map[place]bool, error) {
	seen := make(map[place]bool)
	fd, err := unix.Openat(dir, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == nil {
		var p place
		if p, _, err = placeOf(fd, ""); err != nil || seen[p] {
			break
		}
		seen[p] = true
		var up int
		if up, err = unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
			fd = up
		}
	}
	unix.Close(fd)
	return seen, err
}

// A server that was killed has its locks until the kernel is done with it: lockPatience is how long it is waited for.
const (
	lockPatience = 3 * time.Second
	lockPause    = 20 * time.Millisecond
)

// lock keeps other mounts away from both directories, for as long as they are open.
func (d *Dir) lock() error {
	for _, l := range []struct {
		fd   int
		path string
	}{{d.Upper, d.Path}, {d.workTop, d.WorkPath}} {
		err := unix.Flock(l.fd, unix.LOCK_EX|unix.LOCK_NB)
		for end := time.Now().Add(lockPatience); err == unix.EWOULDBLOCK && time.Now().Before(end); {
			time.Sleep(lockPause)
			err = unix.Flock(l.fd, unix.LOCK_EX|unix.LOCK_NB)
		}
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return &Error{Dir: l.path, Problem: "another mount uses it", Fix: "imgfs ps lists the mounts", Err: unix.EBUSY}
		case err != nil:
			return &Error{Dir: l.path, Problem: "can't be locked: " + err.Error(), Err: err}
		}
	}
	return nil
}

func (o *Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.Default()
	}
	return o.Log
}

// checkOverlays checks that no overlayfs in the mount table has the upper: not of anybody else's, nor of a server of ours
// that was killed, whose lock is gone.
func (d *Dir) checkOverlays() error {
	overlays, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("overlay"))
	if err != nil {
		return &Error{Dir: d.Path, Problem: "the mount table can't be read: " + err.Error(), Err: err}
	}
	up, _, err := placeOf(d.Upper, "")
	if err != nil {
		return &Error{Dir: d.Path, Problem: "can't be looked at: " + err.Error(), Err: err}
	}
	for _, m := range overlays {
		path, ok := upperOf(m.VFSOptions)
		if !ok {
			continue
		}
		if p, _, err := placeOf(unix.AT_FDCWD, path); err == nil && p == up {
			return &Error{
				Dir: d.Path, Problem: "the overlay at " + m.Mountpoint + " uses it", Err: unix.EBUSY,
				Fix: "unmount that first; imgfs umount does it, if it is a dead mount of imgfs",
			}
		}
	}
	return nil
}

// upperOf is the upper in the options of an overlay, as the mount table shows them.
func upperOf(options string) (path string, ok bool) {
	for option := range strings.SplitSeq(options, ",") {
		if path, ok := strings.CutPrefix(option, "upperdir="); ok {
			return unescape(path), true
		}
	}
	return "", false
}

// octal is how the mount table shows a character that has a meaning there.
var octal = regexp.MustCompile(`\\[0-7]{3}`)

func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(code string) string {
		n, _ := strconv.ParseUint(code[1:], 8, 8)
		return string([]byte{byte(n)})
	})
}
