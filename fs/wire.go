package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"imgfs/layers"
)

// fillEntry fills in an entry that the kernel may keep for ever. A generation is not needed: a node ID never
// means another file.
func fillEntry(out *fuse.EntryOut, a *layers.Attr) {
	out.NodeId = a.Ino
	out.EntryValid = forever
	out.AttrValid = forever
	fillAttr(&out.Attr, a)
}

// fillAttr fills in attributes. A tar has one time, which stands for all three. Seconds before 1970 go as two's
// complement, which is how the kernel reads them.
func fillAttr(out *fuse.Attr, a *layers.Attr) {
	sec := uint64(a.MtimeSec)
	*out = fuse.Attr{
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: sec, Mtime: sec, Ctime: sec,
		Atimensec: a.MtimeNsec, Mtimensec: a.MtimeNsec, Ctimensec: a.MtimeNsec,
		Mode: a.Mode, Nlink: a.Nlink,
		Owner:   fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:    encodeDev(a.Major, a.Minor),
		Blksize: blockSize,
	}
}

// encodeDev packs a device number as the protocol has it: new_encode_dev of linux/kdev_t.h, with 12 bits of major and
// 20 of minor, which is all that Linux has. Larger numbers lose their upper bits, as in mknod(2).
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major&0xfff<<8 | minor&0xfff00<<12
}

// dirent is the directory entry of e.
func dirent(e *dirEntry) fuse.DirEntry {
	return fuse.DirEntry{Name: e.name, Ino: e.attr.Ino, Mode: e.attr.Mode, Off: e.next}
}
