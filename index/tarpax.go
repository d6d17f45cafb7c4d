package index

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Keys of PAX records. Sources: POSIX.1-2017, pax, "pax Extended Header"; the manual of GNU tar, "Storing Sparse
// Files"; the manual page tar(5) of libarchive for SCHILY and LIBARCHIVE.
const (
	paxPath     = "path"
	paxLinkpath = "linkpath"
	paxSize     = "size"
	paxUID      = "uid"
	paxGID      = "gid"
	paxMtime    = "mtime"
	paxAtime    = "atime"
	paxCtime    = "ctime"
	paxUname    = "uname"
	paxGname    = "gname"
	paxMajor    = "SCHILY.devmajor"
	paxMinor    = "SCHILY.devminor"

	paxXattr        = "SCHILY.xattr."
	paxXattrArchive = "LIBARCHIVE.xattr."

	paxSparseMajor     = "GNU.sparse.major"
	paxSparseMinor     = "GNU.sparse.minor"
	paxSparseName      = "GNU.sparse.name"
	paxSparseSize      = "GNU.sparse.size"
	paxSparseRealSize  = "GNU.sparse.realsize"
	paxSparseNumBlocks = "GNU.sparse.numblocks"
	paxSparseMap       = "GNU.sparse.map"
	paxSparseOffset    = "GNU.sparse.offset"
	paxSparseNumBytes  = "GNU.sparse.numbytes"
)

// Limits of Linux for attributes, in bytes (linux/limits.h).
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

var errPAX = errors.New("malformed PAX record")

// records are the records of a PAX header, the last one of each key.
type records map[string]string

// parseRecords reads a PAX header's content. Each record is "LENGTH KEY=VALUE\n".
func parseRecords(b []byte) (records, error) {
	m := records{}
	var sparse []string
	for s := string(b); s != ""; {
		key, value, rest, err := cutRecord(s)
		if err != nil {
			return nil, err
		}
		s = rest
		switch key {
		case paxSparseOffset, paxSparseNumBytes:
			// Version 0.0 of GNU's sparse files repeats two keys in turn. 0.1 has put the same numbers into one record.
			if (len(sparse)%2 == 0) != (key == paxSparseOffset) || strings.Contains(value, ",") {
				return nil, errPAX
			}
			sparse = append(sparse, value)
		default:
			m[key] = value
		}
	}
	if len(sparse) > 0 {
		m[paxSparseMap] = strings.Join(sparse, ",")
	}
	return m, nil
}

// cutRecord takes the first record off s.
func cutRecord(s string) (key, value, rest string, err error) {
	digits, _, ok := strings.Cut(s, " ")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n > len(s) || n <= len(digits)+1 || s[n-1] != '\n' {
		return "", "", "", errPAX
	}
	key, value, ok = strings.Cut(s[len(digits)+1:n-1], "=")
	if !ok || key == "" || strings.IndexByte(key, 0) >= 0 {
		return "", "", "", errPAX
	}
	switch key {
	case paxPath, paxLinkpath, paxUname, paxGname, paxSparseName:
		if strings.IndexByte(value, 0) >= 0 {
			return "", "", "", fmt.Errorf("PAX %s has a NUL in it", key)
		}
	}
	return key, value, s[n:], nil
}

// paxFields are the keys that say something about a header's fields. The name comes first: an error about another key
// is told with it.
var paxFields = [...]string{
	paxPath, paxLinkpath, paxSize, paxUID, paxGID, paxMajor, paxMinor, paxMtime, paxAtime, paxCtime,
}

// apply replaces what a header says by what the records say. A record without a value leaves the header's.
func (m records) apply(h *header) error {
	for _, key := range paxFields {
		value := m[key]
		if value == "" {
			continue
		}
		if err := h.set(key, value); err != nil {
			return fmt.Errorf("PAX %s %s: %w", key, quote(value), err)
		}
	}
	return nil
}

// set replaces what one record is about.
func (h *header) set(key, value string) (err error) {
	switch key {
	case paxPath:
		h.name = value
	case paxLinkpath:
		h.linkname = value
	case paxSize:
		h.size, err = parseDecimal(value)
	case paxUID:
		h.uid, err = parseDecimal(value)
	case paxGID:
		h.gid, err = parseDecimal(value)
	case paxMajor:
		h.major, err = parseDecimal(value)
	case paxMinor:
		h.minor, err = parseDecimal(value)
	case paxMtime:
		h.mtime, h.mtimeNsec, err = parseTime(value)
	case paxAtime, paxCtime:
		_, _, err = parseTime(value)
	}
	return err
}

// xattrs are the attributes among the records, sorted by name. Where an attribute is there in both forms, SCHILY's
// counts. LIBARCHIVE's can't spoil a layer, since containerd doesn't look at them.
func (m records) xattrs() ([]Xattr, error) {
	var list []Xattr
	for key, value := range m {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			list = append(list, Xattr{name, value})
		} else if name, ok := strings.CutPrefix(key, paxXattrArchive); ok {
			x, err := decodeXattr(name, value)
			if _, both := m[paxXattr+x.Name]; err == nil && !both {
				list = append(list, x)
			}
		}
	}
	slices.SortFunc(list, func(a, b Xattr) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	for _, x := range list {
		if err := checkXattr(x); err != nil {
			return nil, err
		}
	}
	// LIBARCHIVE's names have several spellings, by percent signs: of two values the same one counts each time.
	return slices.CompactFunc(list, func(a, b Xattr) bool { return a.Name == b.Name }), nil
}

// decodeXattr reads a LIBARCHIVE.xattr record: a name with percent signs, a value in base64, whose padding may be
// missing. It fails with those too that are no attribute of Linux.
func decodeXattr(name, value string) (Xattr, error) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return Xattr{}, err
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return Xattr{}, err
	}
	x := Xattr{name, string(b)}
	return x, checkXattr(x)
}

func checkXattr(x Xattr) error {
	switch {
	case x.Name == "" || len(x.Name) > maxXattrName || strings.IndexByte(x.Name, 0) >= 0:
		return fmt.Errorf("attribute name %s", quote(x.Name))
	case len(x.Value) > maxXattrValue:
		return fmt.Errorf("attribute %s of %d bytes", quote(x.Name), len(x.Value))
	}
	return nil
}

func parseDecimal(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errNumber
	}
	return n, nil
}

// parseTime reads seconds since 1970 with a fraction, of which nine digits count. The fraction of a
// negative time goes further back.
func parseTime(s string) (sec int64, nsec uint32, err error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if sec, err = parseDecimal(whole); err != nil {
		return 0, 0, err
	}
	for i := range len(fraction) {
		if fraction[i] < '0' || fraction[i] > '9' {
			return 0, 0, errNumber
		}
	}
	n, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil {
		return 0, 0, errNumber
	}
	if n > 0 && whole[0] == '-' {
		if sec == -1<<63 {
			return 0, 0, errNumber
		}
		sec, n = sec-1, 1e9-n
	}
	return sec, uint32(n), nil
}
