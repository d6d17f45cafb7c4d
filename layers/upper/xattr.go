package upper

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// self is a path of an open file, for calls that take no descriptor, or none that was opened with O_PATH. They have to follow
// it as if it were a link.
func self(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrAt is the value of a short attribute of a name in a directory, or of the directory itself if the name is empty. It is
// false where there is no such attribute.
func xattrAt(dir int, name, attr string) (string, bool, error) {
	var buf [256]byte
	return readXattr(dir, name, attr, buf[:])
}

// readXattr is xattrAt with a buffer of the caller's choice.
func readXattr(dir int, name, attr string, buf []byte) (string, bool, error) {
	get, path := unix.Getxattr, self(dir)
	if name != "" {
		get, path = unix.Lgetxattr, path+"/"+name
	}
	n, err := get(path, attr, buf)
	switch {
	case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("attribute %s: %w", attr, err)
	}
	return string(buf[:n]), true, nil
}

// An opacity says what the lower's entries mean in a directory of the upper.
type opacity uint8

const (
	transparent opacity = iota // they are seen
	marked                     // they are seen, but attributes may make files of the upper whiteouts
	opaqueDir                  // none is seen
)

// opacityOf reads a directory's attribute.
func (m Mode) opacityOf(dir int) (opacity, error) {
	for _, name := range m.opaqueNames() {
		switch value, ok, err := xattrAt(dir, "", name); {
		case err != nil:
			return transparent, err
		case ok && value == opaqueYes:
			return opaqueDir, nil
		case ok && value == opaqueMaybe:
			return marked, nil
		}
	}
	return transparent, nil
}

// isWhiteout tells whether a name in a directory of the upper, whose opacity is given, is a whiteout.
func (m Mode) isWhiteout(dir int, in opacity, name string, st *unix.Stat_t) (bool, error) {
	if isWhiteoutDevice(st.Mode, st.Rdev) {
		return true, nil
	}
	if in != marked || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false, nil
	}
	_, ok, err := xattrAt(dir, name, m.Prefix()+whiteout)
	return ok, err
}

// makeWhiteout makes a whiteout of a name that is not there, in the work directory or in a directory of the upper. That
// directory has to be marked where whiteouts are files (Dir.DeviceWhiteouts).
func (d *Dir) makeWhiteout(dir int, name string) error {
	if d.DeviceWhiteouts {
		return unix.Mknodat(dir, name, unix.S_IFCHR, 0)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Fsetxattr(fd, d.Mode.Prefix()+whiteout, nil, 0)
	if err != nil {
		return errors.Join(err, unix.Unlinkat(dir, name, 0))
	}
	return nil
}

// setOpaque makes a directory opaque, or marks it.
func (m Mode) setOpaque(dir int, value string) error {
	return unix.Setxattr(self(dir), m.Prefix()+opaque, []byte(value), 0)
}
