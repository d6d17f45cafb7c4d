package layers

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"imgfs/index"
)

// Bounds of Linux: a link's target with its NUL fits into PATH_MAX, and a device
// number has 12 bits of major and 20 of minor.
const (
	maxTarget = maxPath - 1
	maxMajor  = 1<<12 - 1
	maxMinor  = 1<<20 - 1
)

// extentSize is the bytes of an index.Extent.
const extentSize = 24

var (
	errTarget  = errors.New("link target is empty, longer than 4095 bytes or has a NUL in it")
	errDevice  = errors.New("device number that Linux does not have")
	errExtents = errors.New("content outside of the file")
)

// kindOf is what S_IFMT has for a type of entry. Hard links have no kind of their own.
func kindOf(typ byte) (kind uint16, ok bool) {
	switch typ {
	case index.TypeRegular:
		return syscall.S_IFREG, true
	case index.TypeSymlink:
		return syscall.S_IFLNK, true
	case index.TypeChar:
		return syscall.S_IFCHR, true
	case index.TypeBlock:
		return syscall.S_IFBLK, true
	case index.TypeDir:
		return syscall.S_IFDIR, true
	case index.TypeFIFO:
		return syscall.S_IFIFO, true
	}
	return 0, false
}

// setContent notes where the content of a regular file is.
func (d *draft) setContent(ino *inode, e *index.Entry) error {
	end, stored := int64(0), int64(0)
	for _, x := range e.Extents {
		if x.Logical < end || x.Offset < 0 || x.Length < 0 || x.Length > e.Size-x.Logical {
			return errExtents
		}
		end = x.Logical + x.Length
		stored += x.Length
	}
	if e.Size < 0 {
		return errExtents
	}
	ino.size = uint64(e.Size)
	switch {
	case e.Size == 0:
	case len(e.Extents) == 1 && stored == e.Size:
		ino.ref = uint64(e.Extents[0].Offset)
	default:
		if err := d.hold(extentSize * len(e.Extents)); err != nil {
			return err
		}
		ino.isSparse = true
		ino.ref = uint64(len(d.sparse))
		extents := append([]index.Extent(nil), e.Extents...)
		d.sparse = append(d.sparse, sparse{extents, uint64(stored)})
	}
	return nil
}

// setTarget makes ino a symbolic link. Linux knows no modes of links: they are all 0777.
func (d *draft) setTarget(ino *inode, target string) error {
	if target == "" || len(target) > maxTarget || strings.IndexByte(target, 0) >= 0 {
		return errTarget
	}
	if err := d.hold(len(target)); err != nil {
		return err
	}
	ino.mode = syscall.S_IFLNK | 0o777
	ino.size = uint64(len(target))
	ino.ref = uint64(len(d.targets))
	d.targets = append(d.targets, target...)
	return nil
}

func (d *draft) target(ino *inode) string {
	return string(d.targets[ino.ref : ino.ref+ino.size])
}

func setDevice(ino *inode, e *index.Entry) error {
	if e.Major > maxMajor || e.Minor > maxMinor {
		return fmt.Errorf("%w: %d:%d", errDevice, e.Major, e.Minor)
	}
	ino.ref = uint64(e.Major)<<32 | uint64(e.Minor)
	return nil
}
