package index

// Type flags of a tar entry, as POSIX.1-2017 (pax, "ustar Interchange Format") and GNU tar number them.
const (
	TypeRegular  = '0'
	TypeLink     = '1' // hard link
	TypeSymlink  = '2'
	TypeChar     = '3'
	TypeBlock    = '4'
	TypeDir      = '5'
	TypeFIFO     = '6'
	typeRegularA = 0   // a regular file, or a directory if its name ends with a slash, in the format of Version 7 Unix
	typeCont     = '7' // contiguous file: regular
)

// MaxName bounds the names of entries and the targets of links, in bytes. It is well over what Linux takes (PATH_MAX,
// 4096), since a name may be short once it is cleaned: "././././a".
const MaxName = 64 << 10

// MaxID is the largest user or group id: 2^32-1 means "leave it alone" to chown(2).
const MaxID = 1<<32 - 2

// An Entry is one thing in a tar: a file, a directory, a link. Names are as the tar has them: not cleaned,
// perhaps with "..", never with a NUL.
type Entry struct {
	Name     string
	Linkname string // of TypeLink and TypeSymlink: what it is to
	// Type is the tar type flag. A NUL and '7' have become TypeRegular (or TypeDir, for the NUL of
	// a name that ends with a slash); flags that are unknown are kept.
	Type      byte
	Mode      uint32 // the lower 12 bits
	UID, GID  uint32
	Size      int64 // bytes of content; of a sparse file with its holes. 0 unless there is content
	MtimeSec  int64 // seconds since 1970, negative before
	MtimeNsec uint32
	Major     uint32 // device number, of TypeChar and TypeBlock
	Minor     uint32
	Xattrs    []Xattr  // sorted by name, each name once
	Extents   []Extent // where the content is in the tar; sorted, not overlapping, within Size
}

// An Xattr is an extended attribute. The value is bytes.
type Xattr struct{ Name, Value string }

// An Extent says that Length bytes of content, from byte Logical of the file on, stand at byte Offset of
// the tar. What no extent covers is zeros.
type Extent struct{ Logical, Offset, Length int64 }
