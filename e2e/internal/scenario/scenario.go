// Package scenario tests what a file system of layers makes of single operations: for each operation, on each kind of file, in each
// place that a file can be in: only in the image, only in the upper, in both, or in the upper in the place of something else. What has to
// come of it depends on the kind alone.
//
// Each case has a directory of its own, where the operation meets the name x, and y as well if it is a rename.
package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A kind is what is at a name.
type kind string

const (
	none   kind = "none"
	file   kind = "file"
	dir    kind = "dir"
	full   kind = "full" // a directory with a file c in it
	link   kind = "link" // to a file t
	broken kind = "broken"
	fifo   kind = "fifo"
)

var kinds = []kind{none, file, dir, full, link, broken, fifo}

func (k kind) isDir() bool { return k == dir || k == full }

// make makes what a name stands for.
func (k kind) make(name string) error {
	switch k {
	case file:
		return os.WriteFile(name, []byte("content"), 0o644)
	case dir:
		return os.Mkdir(name, 0o755)
	case full:
		return errors.Join(os.Mkdir(name, 0o755), os.WriteFile(name+"/c", []byte("c"), 0o644))
	case link:
		return os.Symlink("t", name)
	case broken:
		return os.Symlink("nowhere", name)
	case fifo:
		return unix.Mkfifo(name, 0o644)
	}
	return nil
}

// seen is what a listing shows of a name of this kind.
func (k kind) seen(name string) string {
	return strings.ReplaceAll(map[kind]string{
		none: "", file: "NAME=content ", dir: "NAME/ ", full: "NAME/ NAME/c=c ", link: "NAME->t ", broken: "NAME->nowhere ", fifo: "NAME| ",
	}[k], "NAME", name)
}

// A place is where a name is.
type place string

const (
	lower    place = "lower"    // in the image alone
	upper    place = "upper"    // in the upper alone
	both     place = "both"     // copied to the upper, or a directory that is merged
	replaced place = "replaced" // in the upper; the image has something else there, which was removed
)

var places = []place{lower, upper, both, replaced}

// image puts into the image what a name of a kind in this place needs there.
func (p place) image(k kind, name string) error {
	switch p {
	case lower, both:
		return k.make(name)
	case replaced:
		if k.isDir() {
			return errors.Join(os.Mkdir(name, 0o700), os.WriteFile(name+"/hidden", nil, 0o600))
		}
		return full.make(name)
	}
	return nil
}

// prepare puts a name in its place, through the mount.
func (p place) prepare(k kind, name string) error {
	switch {
	case p == upper:
		return k.make(name)
	case p == replaced:
		return errors.Join(os.RemoveAll(name), k.make(name))
	case p == both && k.isDir():
		return errors.Join(os.WriteFile(name+"/new", nil, 0o600), os.Remove(name+"/new"))
	case p == both && k != none:
		return os.Lchown(name, 0, 1)
	}
	return nil
}

// A spot is a name with all that matters about it.
type spot struct {
	kind
	place
}

// moves tells whether it may be renamed: directories of the image may not.
func (s spot) moves() bool { return !s.isDir() || s.place == upper || s.place == replaced }

// A scenario is an operation, and what it has to come to.
type scenario struct {
	name string
	x, y spot
	do   func() error // in the case's directory
	want []error      // any of these; nil is success
	then string       // what the directory has afterwards, besides t
}

func (s *scenario) String() string {
	if s.y.place == "" {
		return fmt.Sprintf("%s of %s, %s", s.name, s.x.kind, s.x.place)
	}
	return fmt.Sprintf("%s of %s, %s, to %s, %s", s.name, s.x.kind, s.x.place, s.y.kind, s.y.place)
}

// Image makes what the image has to have, in an empty directory.
func Image(root string, plain bool) error {
	return inEach(root, plain, func(s *scenario) error {
		return errors.Join(os.WriteFile("t", []byte("t"), 0o644), s.x.image(s.x.kind, "x"), s.y.image(s.y.kind, "y"))
	})
}

// Run does all operations in the mount at root, and returns what went wrong. A plain directory that has what Image makes may be in its
// place. It takes the whole process: that is chrooted to root.
func Run(root string, plain bool) (wrong []string, err error) {
	if err := errors.Join(unix.Chdir(root), unix.Chroot(".")); err != nil {
		return nil, err
	}
	unix.Umask(0)
	err = inEach("/", plain, func(s *scenario) error {
		if err := errors.Join(s.x.prepare(s.x.kind, "x"), s.y.prepare(s.y.kind, "y")); err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		if text := s.run(plain); text != "" {
			wrong = append(wrong, fmt.Sprintf("%v: %s", s, text))
		}
		return nil
	})
	return wrong, err
}

// Check looks once more at what a Run came to, in a mount that has been made anew.
func Check(root string, plain bool) (wrong []string, err error) {
	if err := errors.Join(unix.Chdir(root), unix.Chroot(".")); err != nil {
		return nil, err
	}
	err = inEach("/", plain, func(s *scenario) error {
		if text := s.check(s.refusedAsAllowed(plain)); text != "" {
			wrong = append(wrong, fmt.Sprintf("%v: later: %s", s, text))
		}
		return nil
	})
	return wrong, err
}

// inEach calls f in the directory of each scenario.
func inEach(root string, plain bool, f func(*scenario) error) error {
	for i, s := range all(plain) {
		at := filepath.Join(root, fmt.Sprintf("%03d/%03d", i/100, i))
		err := os.MkdirAll(at, 0o755)
		if err == nil {
			err = os.Chdir(at)
		}
		if err == nil {
			err = f(&s)
		}
		if err != nil {
			return err
		}
	}
	return os.Chdir("/")
}

// run does the operation, and tells what is wrong.
func (s *scenario) run(plain bool) string {
	got := errnoOf(s.do())
	want := s.want
	if s.refusedAsAllowed(plain) {
		want = []error{unix.EXDEV}
		if slices.Contains(s.want, error(unix.ENOTEMPTY)) {
			want = append(want, unix.ENOTEMPTY) // whichever comes first
		}
	}
	if !slices.Contains(want, got) {
		return fmt.Sprintf("%v, want %v", got, want)
	}
	return s.check(len(want) > 0 && want[0] == unix.EXDEV)
}

// refusedAsAllowed tells whether the operation would rename a directory of the image.
func (s *scenario) refusedAsAllowed(plain bool) bool {
	rename := strings.HasPrefix(s.name, "rename")
	exchange := s.name == exchanging && s.y.kind != none
	early := slices.Contains(s.want, error(unix.ENOENT)) || slices.Contains(s.want, error(unix.EEXIST)) ||
		slices.Contains(s.want, error(unix.ENOTDIR)) || slices.Contains(s.want, error(unix.EINVAL))
	return rename && !plain && !early && (!s.x.moves() || exchange && !s.y.moves())
}

// check compares what is there.
func (s *scenario) check(refused bool) string {
	want := s.then
	if refused {
		want = s.x.seen("x") + s.y.seen("y")
	}
	got, err := listing(".", "")
	if err != nil {
		return err.Error()
	}
	if !strings.Contains(want, "t=") {
		want += " t=t"
	}
	a, b := strings.Fields(got), strings.Fields(want)
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		return fmt.Sprintf("there is %q, want %q", a, b)
	}
	return ""
}

// listing is what there is in a directory, in the words of kind.seen.
func listing(at, prefix string) (string, error) {
	entries, err := os.ReadDir(at)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		name := prefix + e.Name()
		path := filepath.Join(at, e.Name())
		switch e.Type() {
		case os.ModeDir:
			below, err := listing(path, name+"/")
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "%s/ %s", name, below)
		case os.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "%s->%s ", name, target)
		case os.ModeNamedPipe:
			fmt.Fprintf(&b, "%s| ", name)
		default:
			content, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "%s=%s ", name, content)
		}
	}
	return b.String(), nil
}

// errnoOf is the errno in an error, or nil.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
