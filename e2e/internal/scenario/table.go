package scenario

import (
	"os"

	"golang.org/x/sys/unix"
)

// A result is what an operation has to come to with a kind of file: an error, or what there is then.
type result struct {
	err     error
	changes bool
	then    string
}

// fails is a result that leaves all as it was.
func fails(err error) result { return result{err: err} }

// ok is success that leaves all as it was, and makes is success after which there is something else.
var ok = result{}

func makes(then string) result { return result{changes: true, then: then} }

// An operation is what is done with x, by kind of x.
type operation struct {
	name   string
	do     func() error
	on     map[kind]result
	others result // of the kinds that on does not have
}

func open(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// write opens x and writes to it.
func write(flags int, text string) error {
	fd, err := unix.Open("x", unix.O_WRONLY|flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// tmpfile gives a file that was made without a name the name x.
func tmpfile() error {
	fd, err := unix.Open(".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("tmp")); err != nil {
		return err
	}
	return unix.Linkat(fd, "", unix.AT_FDCWD, "x", unix.AT_EMPTY_PATH)
}

// again makes a directory anew, which has to be empty.
func again() error {
	if err := os.RemoveAll("x"); err != nil {
		return err
	}
	return unix.Mkdir("x", 0o755)
}

// late opens x for reading, has it changed, and reads it.
func late() error {
	f, err := os.OpenFile("x", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(unix.O_TRUNC, "late"); err != nil {
		return err
	}
	b := make([]byte, 10)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "late" {
		return unix.EIO
	}
	return nil
}

var missing = fails(unix.ENOENT)

// making is the results of what makes x, where there must be nothing yet.
func making(then string) map[kind]result { return map[kind]result{none: makes(then)} }

// operations are all but renames.
var operations = []operation{
	{"open for reading", func() error { return open("x", unix.O_RDONLY) }, map[kind]result{none: missing, broken: missing}, ok},
	{"open for writing", func() error { return open("x", unix.O_WRONLY) },
		map[kind]result{none: missing, broken: missing, dir: fails(unix.EISDIR), full: fails(unix.EISDIR), fifo: fails(unix.ENXIO)}, ok},
	{"truncate", func() error { return open("x", unix.O_WRONLY|unix.O_TRUNC) },
		map[kind]result{none: missing, file: makes("x="), link: makes("x->t t="), broken: missing, dir: fails(unix.EISDIR), full: fails(unix.EISDIR), fifo: fails(unix.ENXIO)}, ok},
	{"create", func() error { return write(unix.O_CREAT, "new") },
		map[kind]result{none: makes("x=new"), file: makes("x=newtent"), link: makes("x->t t=new"), broken: makes("x->nowhere nowhere=new"),
			dir: fails(unix.EISDIR), full: fails(unix.EISDIR), fifo: fails(unix.ENXIO)}, ok},
	{"append", func() error { return write(unix.O_APPEND, "+") },
		map[kind]result{none: missing, file: makes("x=content+"), link: makes("x->t t=t+"), broken: missing, dir: fails(unix.EISDIR), full: fails(unix.EISDIR), fifo: fails(unix.ENXIO)}, ok},
	{"create exclusively", func() error { return write(unix.O_CREAT|unix.O_EXCL, "new") }, making("x=new"), fails(unix.EEXIST)},
	{"open without following", func() error { return open("x", unix.O_RDONLY|unix.O_NOFOLLOW) },
		map[kind]result{none: missing, link: fails(unix.ELOOP), broken: fails(unix.ELOOP)}, ok},
	{"open as a directory", func() error { return open("x", unix.O_RDONLY|unix.O_DIRECTORY) },
		map[kind]result{none: missing, broken: missing, dir: ok, full: ok}, fails(unix.ENOTDIR)},
	{"change and read", late, map[kind]result{none: missing, file: makes("x=late"), link: makes("x->t t=late"), broken: missing,
		dir: fails(unix.EISDIR), full: fails(unix.EISDIR), fifo: makes("x|")}, ok},
	{"mkdir", func() error { return unix.Mkdir("x", 0o755) }, making("x/"), fails(unix.EEXIST)},
	{"mkfifo", func() error { return unix.Mkfifo("x", 0o644) }, making("x|"), fails(unix.EEXIST)},
	{"symlink", func() error { return unix.Symlink("new", "x") }, making("x->new"), fails(unix.EEXIST)},
	{"link to it", func() error { return unix.Link("t", "x") }, making("x=t"), fails(unix.EEXIST)},
	{"tmpfile", tmpfile, making("x=tmp"), fails(unix.EEXIST)},
	{"link of it", func() error { return unix.Link("x", "z") }, map[kind]result{none: missing, dir: fails(unix.EPERM), full: fails(unix.EPERM),
		file: makes("x=content z=content"), link: makes("x->t z->t"), broken: makes("x->nowhere z->nowhere"), fifo: makes("x| z|")}, ok},
	{"unlink", func() error { return unix.Unlink("x") }, map[kind]result{none: missing, dir: fails(unix.EISDIR), full: fails(unix.EISDIR)}, makes("")},
	{"rmdir", func() error { return unix.Rmdir("x") }, map[kind]result{none: missing, dir: makes(""), full: fails(unix.ENOTEMPTY)}, fails(unix.ENOTDIR)},
	{"remove and make again", again, nil, makes("x/")},
	{"remove what is in it", func() error { return unix.Unlink("x/c") },
		map[kind]result{none: missing, dir: missing, broken: missing, full: makes("x/")}, fails(unix.ENOTDIR)},
	{"make something in it", func() error { return unix.Mkdir("x/new", 0o755) },
		map[kind]result{none: missing, broken: missing, dir: makes("x/ x/new/"), full: makes("x/ x/c=c x/new/")}, fails(unix.ENOTDIR)},
	{"link into it", func() error { return unix.Link("t", "x/new") },
		map[kind]result{none: missing, broken: missing, dir: makes("x/ x/new=t"), full: makes("x/ x/c=c x/new=t")}, fails(unix.ENOTDIR)},
	{"move into it", func() error { return unix.Rename("t", "x/t") },
		map[kind]result{none: missing, broken: missing, dir: makes("x/ x/t=t"), full: makes("x/ x/c=c x/t=t")}, fails(unix.ENOTDIR)},
	{"readlink", func() error { _, err := os.Readlink("x"); return err }, map[kind]result{none: missing, link: ok, broken: ok}, fails(unix.EINVAL)},
	{"chmod", func() error { return unix.Chmod("x", 0o600) }, map[kind]result{none: missing, broken: missing}, ok},
	{"chown", func() error { return unix.Lchown("x", 1, 2) }, map[kind]result{none: missing}, ok},
	{"utimes", func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, "x", make([]unix.Timespec, 2), unix.AT_SYMLINK_NOFOLLOW)
	}, map[kind]result{none: missing}, ok},
	{"setxattr", func() error { return unix.Lsetxattr("x", "user.x", []byte("x"), 0) },
		map[kind]result{none: missing, link: fails(unix.EPERM), broken: fails(unix.EPERM), fifo: fails(unix.EPERM)}, ok},
	{"truncate to a size", func() error { return unix.Truncate("x", 3) },
		map[kind]result{none: missing, broken: missing, file: makes("x=con"), link: makes("x->t t=t\x00\x00"), dir: fails(unix.EISDIR), full: fails(unix.EISDIR)}, fails(unix.EINVAL)},
}

// exchanging is the name of a rename that swaps two names.
const exchanging = "rename, exchanging"

// renames are from x to y, by flags.
var renames = []struct {
	name  string
	flags uint
}{{"rename", 0}, {"rename, not replacing", unix.RENAME_NOREPLACE}, {exchanging, unix.RENAME_EXCHANGE}, {"rename with a whiteout", unix.RENAME_WHITEOUT}}

// renaming is what a rename from one kind to another comes to.
func renaming(flags uint, x, y kind) result {
	if flags == unix.RENAME_WHITEOUT { // which no overlay knows; what the kernel finds wrong before it asks comes first
		if r := renaming(0, x, y); r.err != nil && r.err != unix.ENOTEMPTY {
			return r
		}
		return fails(unix.EINVAL)
	}
	swapped := makes(y.seen("x") + x.seen("y"))
	moved := makes(x.seen("y"))
	switch {
	case x == none:
		return missing
	case flags == unix.RENAME_NOREPLACE && y != none:
		return fails(unix.EEXIST)
	case flags == unix.RENAME_EXCHANGE && y == none:
		return missing
	case flags == unix.RENAME_EXCHANGE:
		return swapped
	case y == none:
		return moved
	case x.isDir() && !y.isDir():
		return fails(unix.ENOTDIR)
	case !x.isDir() && y.isDir():
		return fails(unix.EISDIR)
	case y == full:
		return fails(unix.ENOTEMPTY)
	}
	return moved
}

// all is every scenario there is. A plain directory has no overlay's ways.
func all(plain bool) []scenario {
	var list []scenario
	add := func(name string, x, y spot, do func() error, r result, before string) {
		s := scenario{name: name, x: x, y: y, do: do, want: []error{r.err}, then: r.then}
		if !r.changes {
			s.then = before
		}
		list = append(list, s)
	}
	for _, px := range places {
		for _, kx := range kinds {
			x := spot{kx, px}
			for _, o := range operations {
				r, listed := o.on[kx]
				if !listed {
					r = o.others
				}
				add(o.name, x, spot{}, o.do, r, kx.seen("x"))
			}
			for _, py := range places {
				for _, ky := range kinds {
					for _, f := range renames {
						rare := f.flags == unix.RENAME_NOREPLACE || f.flags == unix.RENAME_WHITEOUT // whose target's place is one of two
						if rare && (py == both || py == replaced) || plain && f.flags == unix.RENAME_WHITEOUT {
							continue
						}
						add(f.name, x, spot{ky, py}, func() error { return unix.Renameat2(unix.AT_FDCWD, "x", unix.AT_FDCWD, "y", f.flags) },
							renaming(f.flags, kx, ky), kx.seen("x")+ky.seen("y"))
					}
				}
			}
		}
	}
	return list
}
