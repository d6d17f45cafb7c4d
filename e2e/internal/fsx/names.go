package fsx

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// letters are names that are made: few, so that they meet.
var letters = append(strings.Split("a b c d e f g h i j k l m n o p", " "), strings.Repeat("long", 63)+"xyz")

// pick is a random one of some.
func pick[T any](r *run, of ...T) T { return of[r.rng.IntN(len(of))] }

// chance is true once in n times.
func (r *run) chance(n int) bool { return r.rng.IntN(n) == 0 }

// path is a path that is there, most likely.
func (r *run) path() string {
	if len(r.paths) == 0 || r.chance(20) {
		return r.newPath()
	}
	return pick(r, r.paths...)
}

// newPath is a path where there may be nothing yet.
func (r *run) newPath() string {
	name := pick(r, letters...)
	switch r.rng.IntN(60) {
	case 0:
		name = strings.Repeat("n", 256)
	case 1:
		name = pick(r, ".", "..", "a/..", "a/.", "a//b", "a/")
	}
	if len(r.paths) == 0 || r.chance(6) {
		return name
	}
	dir := pick(r, r.paths...)
	if i := strings.LastIndexByte(dir, '/'); i >= 0 && r.chance(2) {
		dir = dir[:i]
	}
	if len(dir) > 600 {
		return name
	}
	return dir + "/" + name
}

// handle is the number of an open file, or false if there is none.
func (r *run) handle() (int, bool) {
	begin := r.rng.IntN(maxHandles)
	for i := range maxHandles {
		if h := (begin + i) % maxHandles; r.open[h] != "" {
			return h, true
		}
	}
	return 0, false
}

// offset is a place in a file, most likely not far.
func (r *run) offset() int64 {
	switch r.rng.IntN(10) {
	case 0:
		return int64(r.rng.IntN(64)) << 12
	case 1:
		return int64(r.rng.IntN(1 << 20))
	}
	return int64(r.rng.IntN(20000))
}

// data is some bytes to write.
func (r *run) data() []byte {
	n := 1 + r.rng.IntN(200)
	switch r.rng.IntN(8) {
	case 0:
		n = 4096
	case 1:
		n = 1 + r.rng.IntN(40000)
	}
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.rng.Uint64()|1)
	}
	return b[:n]
}

// mode is permission bits: seldom odd ones, or nothing would be left to do.
func (r *run) mode() uint32 {
	if r.noSetID {
		return pick[uint32](r, 0o644, 0o755, 0o600, 0o777, 0o1755, 0)
	}
	switch r.rng.IntN(8) {
	case 0:
		return uint32(r.rng.IntN(0o10000))
	case 1:
		return pick[uint32](r, 0o1777, 0o2775, 0o4755, 0o6755, 0)
	}
	return pick[uint32](r, 0o644, 0o755, 0o600, 0o777, 0o666)
}

// owner is a user and a group, or one of them. To change neither takes away set-user-ID bits, but a FUSE server is not told
// who asks for that, and whether he may.
func (r *run) owner() (uid, gid int) {
	switch r.rng.IntN(4) {
	case 0:
		return pick(r, 0, 1000, 1001), -1
	case 1:
		return -1, pick(r, 0, 1000, 1001)
	}
	return pick(r, 0, 1000, 1001), pick(r, 0, 1000, 1001)
}

// acl is a POSIX ACL as an attribute has it, seldom a bad one.
func (r *run) acl() []byte {
	entry := func(tag, perm uint16, id uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, tag), perm), id)
	}
	perm := func() uint16 { return uint16(r.rng.IntN(8)) }
	b := []byte{2, 0, 0, 0}
	b = append(b, entry(0x01, perm()|6, 1<<32-1)...)
	named := r.chance(2)
	if named {
		b = append(b, entry(0x02, perm(), 1000)...)
	}
	b = append(b, entry(0x04, perm(), 1<<32-1)...)
	if named && !r.chance(20) {
		b = append(b, entry(0x10, perm(), 1<<32-1)...)
	}
	return append(b, entry(0x20, perm(), 1<<32-1)...)
}

// attribute is the name of an extended attribute, and a value for it.
func (r *run) attribute() (string, []byte) {
	switch r.rng.IntN(8) {
	case 0:
		return "system.posix_acl_access", r.acl()
	case 1:
		return "system.posix_acl_default", r.acl()
	case 2:
		return "trusted.x", []byte("trusted")
	}
	return pick(r, "user.a", "user.b", "user.c"), fmt.Appendf(nil, "%0*d", r.rng.IntN(60), r.rng.IntN(10))
}

// times are those that utimensat(2) takes: old ones, or one that is left alone.
func (r *run) times() []unix.Timespec {
	one := func() unix.Timespec {
		switch r.rng.IntN(6) {
		case 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case 1:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: r.rng.Int64N(1_500_000_000), Nsec: r.rng.Int64N(1_000_000_000)}
	}
	return []unix.Timespec{one(), one()}
}
