package index

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxSpecial bounds a PAX header, a long name and a sparse map, in bytes: as in archive/tar and libarchive.
const maxSpecial = 1 << 20

var (
	errTooLong   = errors.New("header data is over 1 MiB")
	errNotTar    = errors.New("not a tar")
	errTruncated = errors.New("tar is cut short")
)

// A walker reads a tar's entries in order.
type walker struct {
	src   *source
	layer digest.Digest
	last  string // name of the entry before
	left  int64  // bytes of content of that entry that haven't been read
	pad   int64  // bytes of padding after them
	// The following are about the next entry, and come from headers before its own.
	pax                records
	longName, longLink string
	special            []byte // content of such a header
}

func newWalker(src *source, layer digest.Digest) *walker {
	return &walker{src: src, layer: layer}
}

// next gives the next entry, and io.EOF after the last one. Other errors are those of the source's reader, or
// wrap ErrMalformed in an *EntryError.
func (w *walker) next() (*Entry, error) {
	w.forget()
	for {
		b, err := w.header()
		if err == io.EOF {
			return nil, err
		}
		var h header
		if err == nil {
			err = b.parse(&h)
		}
		if err != nil {
			return nil, w.headerError(err)
		}
		ordinary, err := w.prepare(&h)
		if err != nil {
			return nil, w.fail(h.name, err)
		}
		if !ordinary {
			continue
		}
		e, err := w.entry(&h, b)
		if err != nil {
			return nil, w.fail(h.name, err)
		}
		w.last = e.Name
		return e, nil
	}
}

// header gives the next header block, and io.EOF where the tar ends.
func (w *walker) header() (*block, error) {
	if err := w.src.skip(w.left); err != nil {
		return nil, err
	}
	w.left = 0
	if err := w.src.skip(w.pad); err == io.ErrUnexpectedEOF {
		return nil, io.EOF // the last padding may be missing
	} else if err != nil {
		return nil, err
	}
	w.pad = 0
	b, err := w.src.block()
	if err != nil || *b != (block{}) {
		return b, err
	}
	b, err = w.src.block()
	if err == nil && *b == (block{}) {
		err = io.EOF
	} else if err == nil {
		err = errors.New("header after a single block of zeros")
	}
	return nil, err
}

// prepare deals with headers that speak of the next one. It tells whether h is an ordinary one.
func (w *walker) prepare(h *header) (ordinary bool, err error) {
	if h.size < 0 && !contentless(h.typ) {
		return false, fmt.Errorf("size %d", h.size)
	}
	switch h.typ {
	case typePAX:
		return false, w.readRecords(h)
	case typePAXGlobal:
		err := w.readRecords(h)
		// Whatever it says is forgotten, and so is what came before it: so does archive/tar, which returns it as an
		// entry.
		w.forget()
		return false, err
	case typeLongName:
		err := w.readSpecial(h)
		w.longName = cString(w.special)
		return false, err
	case typeLongLink:
		err := w.readSpecial(h)
		w.longLink = cString(w.special)
		return false, err
	}
	return true, nil
}

// readSpecial reads the content of a header that speaks of the next one.
func (w *walker) readSpecial(h *header) (err error) {
	if h.size > maxSpecial {
		return errTooLong
	}
	w.special, err = w.src.append(w.special[:0], h.size)
	w.pad = padding(h.size)
	return err
}

func (w *walker) readRecords(h *header) error {
	if err := w.readSpecial(h); err != nil {
		return err
	}
	var err error
	w.pax, err = parseRecords(w.special)
	return err
}

// forget drops what has been said about the next entry.
func (w *walker) forget() { w.pax, w.longName, w.longLink = nil, "", "" }

// entry makes an entry of a header and of what was said about it before.
func (w *walker) entry(h *header, b *block) (*Entry, error) {
	if err := w.pax.apply(h); err != nil {
		return nil, err
	}
	if w.longName != "" {
		h.name = w.longName
	}
	if w.longLink != "" {
		h.linkname = w.longLink
	}
	switch {
	case h.typ == typeRegularA && strings.HasSuffix(h.name, "/"):
		h.typ = TypeDir
	case h.typ == typeRegularA || h.typ == typeCont:
		h.typ = TypeRegular
	}
	xattrs, err := w.pax.xattrs()
	if err != nil {
		return nil, err
	}
	extents, err := w.content(h, b)
	if err != nil {
		return nil, err
	}
	e := &Entry{Xattrs: xattrs, Extents: extents}
	if err := e.setFrom(h); err != nil {
		return nil, err
	}
	return e, nil
}

// content finds where the content is, and leaves the size it has for the reader of the file in h.size.
func (w *walker) content(h *header, b *block) ([]Extent, error) {
	if h.size < 0 {
		return nil, fmt.Errorf("size %d", h.size)
	}
	if contentless(h.typ) {
		if w.pax.sparseForm() != notSparse {
			return nil, errors.New("sparse, but of a type without content")
		}
		h.size = 0
		return nil, nil
	}
	physical := h.size
	if physical > math.MaxInt64-blockSize-w.src.off {
		return nil, fmt.Errorf("size %d", physical)
	}
	w.left, w.pad = physical, padding(physical)
	frags, sparse, err := w.sparse(h, b)
	if err != nil {
		return nil, err
	}
	if sparse {
		return layOut(frags, h.size, w.src.off, w.left)
	}
	if physical == 0 {
		return nil, nil
	}
	return []Extent{{0, w.src.off, physical}}, nil
}

// sparse reads the sparse map, if the entry has one, and puts the real size into the header. If the map is in the
// content, only what comes after it is left.
func (w *walker) sparse(h *header, b *block) (frags []fragment, sparse bool, err error) {
	if h.typ == typeGNUSparse {
		if !h.gnu {
			return nil, false, errors.New("sparse, but not in the format of GNU tar")
		}
		h.typ = TypeRegular
		h.size, frags, err = oldSparse(b, w.src)
		return frags, true, err
	}
	form := w.pax.sparseForm()
	if form == notSparse {
		return nil, false, nil
	}
	if err := w.pax.sparseHeader(h); err != nil {
		return nil, false, err
	}
	if form == sparseInPAX {
		frags, err = w.pax.sparseMap()
		return frags, true, err
	}
	r := mapReader{src: w.src, left: w.left}
	frags, err = r.fragments()
	w.left = r.left
	return frags, true, err
}

// setFrom fills in all but attributes and extents, and refuses what can't be.
func (e *Entry) setFrom(h *header) error {
	switch {
	case len(h.name) > MaxName:
		return fmt.Errorf("name of %d bytes", len(h.name))
	case h.isLink() && len(h.linkname) > MaxName:
		return fmt.Errorf("link target of %d bytes", len(h.linkname))
	case h.uid < 0 || h.uid > MaxID:
		return fmt.Errorf("user id %d", h.uid)
	case h.gid < 0 || h.gid > MaxID:
		return fmt.Errorf("group id %d", h.gid)
	}
	e.Name, e.Type = h.name, h.typ
	if h.isLink() {
		e.Linkname = h.linkname
	}
	e.Mode = uint32(h.mode & 0o7777)
	e.UID, e.GID = uint32(h.uid), uint32(h.gid)
	e.Size = h.size
	e.MtimeSec, e.MtimeNsec = h.mtime, h.mtimeNsec
	if h.typ == TypeChar || h.typ == TypeBlock {
		if h.major < 0 || h.major > math.MaxUint32 || h.minor < 0 || h.minor > math.MaxUint32 {
			return fmt.Errorf("device number %d:%d", h.major, h.minor)
		}
		e.Major, e.Minor = uint32(h.major), uint32(h.minor)
	}
	return nil
}

// headerError is the error where no header can be read.
func (w *walker) headerError(err error) error {
	at := w.src.off
	switch {
	case err == io.ErrUnexpectedEOF:
		err = errTruncated
	case w.last == "" && at <= blockSize:
		err = fmt.Errorf("%w: %w", errNotTar, err)
	case w.last != "":
		err = fmt.Errorf("header after it, before byte %d of the tar: %w", at, err)
	}
	return w.fail(w.last, err)
}

// fail is the error of an entry. What the source's reader fails with is left alone.
func (w *walker) fail(name string, err error) error {
	if w.src.err != nil && w.src.err != io.EOF {
		return w.src.err
	}
	if err == io.ErrUnexpectedEOF {
		err = errTruncated
	}
	return &EntryError{w.layer, name, fmt.Errorf("%w: %w", ErrMalformed, err)}
}
