package upper

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A Record is what an upper says of itself: what it was mounted with last.
type Record struct {
	Image     digest.Digest // the manifest's of the lower
	Mode      Mode
	Reference string // how the image was named; "" if that is too long to be kept
}

// recordAttr is the attribute of the upper, behind the private prefix, that has its Record: the digest, the mode and the
// reference, with a space in between.
const recordAttr = own + "image"

const (
	// maxReference is how much of a reference is kept, in bytes: ext4 has little space for attributes.
	maxReference = 1024
	maxRecord    = 2 * maxReference
)

// ErrNoRecord tells that a directory was no upper yet, as far as this process may see.
var ErrNoRecord = errors.New("no mount of imgfs has used it as an upper")

// ReadRecord reads the record of the upper at path, which may be mounted. Errors are *Error.
func ReadRecord(path string) (Record, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Record{}, &Error{Dir: path, Problem: "can't be opened: " + err.Error(), Err: err}
	}
	defer unix.Close(fd)
	r, err := readRecord(fd)
	if err != nil {
		return Record{}, &Error{Dir: path, Problem: err.Error(), Err: err}
	}
	return r, nil
}

// readRecord reads the record, of whatever mode that this process can see.
func readRecord(dir int) (Record, error) {
	for _, m := range []Mode{Trusted, Recorded} {
		text, ok, err := readXattr(dir, "", m.Prefix()+recordAttr, make([]byte, maxRecord))
		if ok {
			return parseRecord(text)
		}
		if err != nil {
			return Record{}, err
		}
	}
	return Record{}, ErrNoRecord
}

func parseRecord(text string) (Record, error) {
	fields := strings.SplitN(text, " ", 3)
	if len(fields) == 3 {
		r := Record{Image: digest.Digest(fields[0]), Reference: fields[2]}
		for r.Mode = Trusted; r.Mode <= Recorded; r.Mode++ {
			if r.Mode.String() == fields[1] && r.Image.Validate() == nil {
				return r, nil
			}
		}
	}
	return Record{}, fmt.Errorf("attribute %s is %.128q: %w", recordAttr, text, unix.EINVAL)
}

// record compares what the upper was written for with what it is to be used for now, and records that.
func (d *Dir) record(o *Options) error {
	now := Record{d.Image, d.Mode, o.Reference}
	if len(now.Reference) > maxReference {
		now.Reference = ""
	}
	have, err := readRecord(d.Upper)
	switch {
	case errors.Is(err, ErrNoRecord):
		d.fresh = true
	case err != nil:
		return &Error{Dir: d.Path, Problem: "what it was written for can't be read: " + err.Error(), Err: err}
	case have == now:
		return nil
	default:
		if err := d.checkRecord(have, o); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%s %s %s", now.Image, now.Mode, now.Reference)
	if err := unix.Fsetxattr(d.Upper, d.Mode.Prefix()+recordAttr, []byte(text), 0); err != nil {
		return &Error{Dir: d.Path, Problem: "what it is used for can't be recorded: " + err.Error(), Err: err}
	}
	return nil
}

// checkRecord tells why an upper that has a record should not be used.
func (d *Dir) checkRecord(have Record, o *Options) error {
	problem := ""
	switch {
	case have.Image != d.Image:
		problem = fmt.Sprintf("was written for the image %s, this is %s", have.Image, d.Image)
	case have.Mode != d.Mode:
		problem = fmt.Sprintf("was written %s, this is %s", have.Mode.by(), d.Mode.by())
	default:
		return nil
	}
	if !o.Force {
		return &Error{Dir: d.Path, Problem: problem, Fix: "choose another upper directory, or take it nevertheless with --force"}
	}
	o.log().Warn("taken by force: the upper directory "+problem, "upper", d.Path)
	return nil
}

// by tells who writes in a mode.
func (m Mode) by() string {
	return [...]string{"by root", "by root of a user namespace, or without CAP_SYS_ADMIN", "by a user"}[m]
}
