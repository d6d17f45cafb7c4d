package testimage

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// An Entry is one entry of a tar to be: a few blocks of 512 bytes.
type Entry struct{ blocks []byte }

// Tar is a tar of entries, with the end-of-archive marker.
func Tar(entries ...Entry) []byte {
	return append(OpenTar(entries...), End().blocks...)
}

// OpenTar is a tar that lacks the end-of-archive marker.
func OpenTar(entries ...Entry) []byte {
	var b []byte
	for _, e := range entries {
		b = append(b, e.blocks...)
	}
	return b
}

// End is the end-of-archive marker: two blocks of zeros.
func End() Entry { return Entry{make([]byte, 2*blockSize)} }

// Blocks are bytes put into a tar as they are.
func Blocks(b []byte) Entry { return Entry{bytes.Clone(b)} }

// An Option changes an entry.
type Option func(*header)

// Mode sets the mode, all 12 bits of it. Without it directories have 0755, all else 0644.
func Mode(mode int64) Option { return func(h *header) { h.mode = mode } }

// Owner sets user and group, which are 0 without it.
func Owner(uid, gid int64) Option { return func(h *header) { h.uid, h.gid = uid, gid } }

// Mtime sets the time of modification, in a PAX record where a header can't hold it. Without it
// that is 2001-09-09T01:46:40Z.
func Mtime(t time.Time) Option {
	return func(h *header) {
		h.mtime = t.Unix()
		if t.Nanosecond() != 0 || t.Unix() < 0 {
			h.mtime = 0
			h.pax["mtime"] = paxTime(t)
		}
	}
}

// paxTime is a decimal number of seconds; a negative one has the sign in front of all of it.
func paxTime(t time.Time) string {
	sec, nsec, sign := t.Unix(), int64(t.Nanosecond()), ""
	if sec < 0 {
		sign = "-"
		if sec = -sec; nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	if nsec == 0 {
		return fmt.Sprintf("%s%d", sign, sec)
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}

// PAX adds a record to the entry's PAX header.
func PAX(key, value string) Option { return func(h *header) { h.pax[key] = value } }

// Xattr adds an extended attribute, as star, GNU tar and Go write it.
func Xattr(name, value string) Option { return PAX("SCHILY.xattr."+name, value) }

// LibarchiveXattr adds an extended attribute, as bsdtar writes it.
func LibarchiveXattr(name, value string) Option {
	return PAX("LIBARCHIVE.xattr."+url.PathEscape(name), base64.RawStdEncoding.EncodeToString([]byte(value)))
}

// GNU writes the entry in the format of GNU tar: long names in entries of their own.
func GNU() Option { return func(h *header) { h.gnu = true } }

// Base256 writes all numbers of the header in binary.
func Base256() Option { return func(h *header) { h.binary = true } }

// Size sets the size in the header, whatever content there is.
func Size(n int64) Option { return func(h *header) { h.size = n } }

// Type sets the type flag.
func Type(flag byte) Option { return func(h *header) { h.typ = flag } }

// Field overwrites bytes of the header block. The checksum is right none the less, unless
// it is what is overwritten.
func Field(offset int, value string) Option {
	return func(h *header) { h.fields = append(h.fields, field{offset, value}) }
}

// Dir is a directory.
func Dir(name string, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '5', mode: 0o755}, opts)
}

// File is a regular file.
func File(name, content string, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '0', content: []byte(content), size: int64(len(content))}, opts)
}

// Symlink is a symbolic link.
func Symlink(name, target string, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '2', link: target, mode: 0o777}, opts)
}

// Link is a hard link to the entry, or whatever is there, of the name target.
func Link(name, target string, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '1', link: target}, opts)
}

// Fifo is a named pipe.
func Fifo(name string, opts ...Option) Entry { return newEntry(header{name: name, typ: '6'}, opts) }

// Char is a character device.
func Char(name string, major, minor int64, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '3', major: major, minor: minor}, opts)
}

// Block is a block device.
func Block(name string, major, minor int64, opts ...Option) Entry {
	return newEntry(header{name: name, typ: '4', major: major, minor: minor}, opts)
}

// Whiteout hides a path of the layers below.
func Whiteout(name string, opts ...Option) Entry {
	dir, base := path.Split(name)
	return File(dir+".wh."+base, "", opts...)
}

// Opaque hides what the layers below have in a directory.
func Opaque(dir string, opts ...Option) Entry {
	return File(path.Join(dir, ".wh..wh..opq"), "", opts...)
}

// GlobalPAX is a PAX header for all entries that come after it. Records are key, value, key, value.
func GlobalPAX(records ...string) Entry {
	m := make(map[string]string)
	for pair := range slices.Chunk(records, 2) {
		m[pair[0]] = pair[1]
	}
	return newEntry(header{name: "pax_global_header", typ: 'g', content: paxRecords(m), size: -1}, nil)
}

// paxRecords are PAX records, sorted by key: "LENGTH KEY=VALUE\n", the length being that of all of it.
func paxRecords(m map[string]string) []byte {
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(m)) {
		b = append(b, paxRecord(key, m[key])...)
	}
	return b
}

func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	for n := len(rest); ; n++ {
		if s := fmt.Sprint(n) + rest; len(s) == n {
			return s
		}
	}
}

// fits tells whether a header has room for a name as it is.
func fits(name string) bool { return len(name) <= 100 && !strings.Contains(name, "\x00") }
