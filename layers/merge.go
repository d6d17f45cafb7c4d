package layers

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
)

// Bounds on what Merge takes. The last one keeps a layer of nothing but oddities from
// filling the memory with warnings.
const (
	maxLayers   = math.MaxUint16
	maxEntries  = 1 << 26
	maxWarnings = 1000
)

var (
	errTooManyLayers  = fmt.Errorf("more than %d layers", maxLayers)
	errTooManyEntries = errors.New("too many entries for one tree")
	errNoTarget       = errors.New("hard link to something that is not there")
	errDirTarget      = errors.New("hard link to a directory")
	errMarkerTarget   = errors.New("hard link to a whiteout marker")
)

// Merge applies layers, bottom first, and gives the resulting tree and what was odd on
// the way. What can't be applied ends it with an *EntryError; an error of a layer's
// Entries is wrapped. It takes time and memory in proportion to the entries and what they hold.
func Merge(layers []Layer) (*Tree, []Warning, error) {
	if len(layers) > maxLayers {
		return nil, nil, errTooManyLayers
	}
	entries := 0
	for i := range layers {
		entries += layers[i].NumEntries
	}
	m := &merger{walker: walker{draft: newDraft(entries)}}
	for i := range layers {
		if err := m.merge(&layers[i], uint16(i)); err != nil {
			return nil, nil, err
		}
	}
	return m.tree(layers), m.allWarnings(), nil
}

// A merger applies entries.
type merger struct {
	walker
	layer    *Layer
	number   uint16 // of the layer
	entry    string // name of the entry being applied
	warnings []Warning
	unsaid   int // warnings over maxWarnings
	scratch  []index.Xattr
}

func (m *merger) merge(l *Layer, number uint16) error {
	m.layer, m.number = l, number
	m.start = m.now + 1
	m.starts = append(m.starts, m.start)
	for e, err := range l.Entries {
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		m.now++
		m.entry = e.Name
		if err := m.apply(e); err != nil {
			return &EntryError{Layer: l.Digest, Entry: strings.Clone(e.Name), Err: err}
		}
	}
	return nil
}

func (m *merger) warn(format string, args ...any) {
	if len(m.warnings) == maxWarnings {
		m.unsaid++
		return
	}
	m.warnings = append(m.warnings, Warning{m.layer.Digest, strings.Clone(m.entry), fmt.Sprintf(format, args...)})
}

func (m *merger) allWarnings() []Warning {
	if m.unsaid > 0 {
		m.warnings = append(m.warnings, Warning{Text: fmt.Sprintf("%d more warnings", m.unsaid)})
	}
	return m.warnings
}

// apply applies one entry.
func (m *merger) apply(e *index.Entry) error {
	if m.now > maxEntries {
		return errTooManyEntries
	}
	err := m.applyName(e)
	if err != nil && errors.Is(err, errBelowMarker) {
		m.warn("below a whiteout marker: ignored")
		return nil
	}
	return err
}

// applyName finds out about an entry's name, and applies the entry.
func (m *merger) applyName(e *index.Entry) error {
	_, known := kindOf(e.Type)
	known = known || e.Type == index.TypeLink
	name := strings.TrimSuffix(strings.TrimPrefix(e.Name, "./"), "/")
	steps := m.towards(name)
	if known && ordinary(name, m.after(steps, name)) { // nearly always
		m.keep(steps)
		return m.applyAt(name, plain, e)
	}
	switch {
	case e.Name == "":
		return errEmptyName
	case strings.IndexByte(e.Name, 0) >= 0:
		return errNUL
	}
	path, dots := clean(e.Name)
	if err := checkPath(path); err != nil {
		return err
	}
	if !known {
		m.warn("unknown type %q is skipped", e.Type)
		return nil
	}
	if dots {
		m.warn("name with \"..\" is kept inside the root")
	}
	if path == "" {
		return m.applyRoot(e)
	}
	switch role := roleOf(path, e.Type == index.TypeDir); role {
	case bookkeeping:
		return nil
	case malformed:
		m.warn("malformed whiteout marker: ignored")
		return nil
	default:
		m.keep(m.towards(path))
		return m.applyAt(path, role, e)
	}
}

// applyRoot applies an entry for the root directory.
func (m *merger) applyRoot(e *index.Entry) error {
	if e.Type != index.TypeDir {
		m.warn("the root stays a directory: ignored")
		return nil
	}
	return m.place(root, true, e)
}

// applyAt applies an entry of a path that is not the root's, which the way is towards.
func (m *merger) applyAt(path string, role role, e *index.Entry) error {
	at, base, err := m.parent(path)
	if err != nil && role != plain && errors.Is(err, syscall.ENOTDIR) {
		// umoci writes such markers where a directory became a file.
		m.warn("whiteout marker below what is no directory: ignored")
		return nil
	}
	if err != nil {
		return err
	}
	dir := at.dir
	switch role {
	case opaque:
		m.hideBelow(dir)
		m.forget()
		return nil
	case whiteout:
		if id, ok := m.child(dir, strings.TrimPrefix(base, markerPrefix)); ok {
			m.hide(id)
			m.forget()
		}
		return nil
	}
	id, visible, err := m.claim(dir, base)
	if err != nil {
		return err
	}
	if e.Type == index.TypeLink {
		return m.placeLink(id, visible, e)
	}
	if err := m.place(id, visible, e); err != nil {
		return err
	}
	if e.Type == index.TypeDir { // its children are likely to come next
		m.follow(path, step{len(path), id, at.links})
	}
	return nil
}

// place puts what an entry describes at a spot.
func (m *merger) place(id uint32, visible bool, e *index.Entry) error {
	kind, _ := kindOf(e.Type)
	m.leave(id, visible)
	ino := m.put(id, visible, kind)
	ino.mode |= uint16(e.Mode & 0o7777)
	ino.uid, ino.gid = e.UID, e.GID
	ino.mtimeSec, ino.mtimeNsec = e.MtimeSec, e.MtimeNsec
	ino.layer = m.number
	if err := m.describe(ino, e); err != nil {
		return err
	}
	xattrs, err := m.settable(e.Xattrs, ino.kind())
	if err != nil {
		return err
	}
	return m.setXattrs(ino, xattrs)
}

// describe sets what is special to the entry's type.
func (m *merger) describe(ino *inode, e *index.Entry) error {
	switch e.Type {
	case index.TypeRegular:
		return m.setContent(ino, e)
	case index.TypeSymlink:
		return m.setTarget(ino, e.Linkname)
	case index.TypeChar, index.TypeBlock:
		return setDevice(ino, e)
	}
	return nil
}

// leave forgets the way if it may lead through what is at a spot and about to be replaced.
func (m *merger) leave(id uint32, visible bool) {
	if !visible {
		return
	}
	if kind := m.at(id).kind(); kind == syscall.S_IFDIR || kind == syscall.S_IFLNK {
		m.forget()
	}
}

// placeLink makes a spot another name of what the entry links to. What is at the
// spot goes first, so it can't be the target. As containerd does it, what the
// entry says of owner, mode and time goes to the file, for all its names.
func (m *merger) placeLink(id uint32, visible bool, e *index.Entry) error {
	m.leave(id, visible)
	m.spots[id].gone = true
	target, err := m.linkTarget(e.Linkname)
	if err != nil {
		return fmt.Errorf("%w: %s", err, quote(e.Linkname))
	}
	m.link(id, target)
	ino := m.at(target)
	ino.uid, ino.gid = e.UID, e.GID
	ino.mtimeSec, ino.mtimeNsec = e.MtimeSec, e.MtimeNsec
	if ino.kind() != syscall.S_IFLNK {
		ino.mode = uint16(ino.kind()) | uint16(e.Mode&0o7777)
	}
	xattrs, err := m.settable(e.Xattrs, ino.kind())
	if err != nil {
		return err
	}
	return m.addXattrs(ino, xattrs)
}

// linkTarget finds what a hard link is to, in the tree as it stands. A symbolic link
// is not followed if it is the target itself.
func (m *merger) linkTarget(name string) (uint32, error) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		m.warn("hard link target with \"..\" is kept inside the root")
	}
	name = strings.TrimRight(name, "/")
	slash := strings.LastIndexByte(name, '/') + 1
	base := name[slash:]
	switch {
	case strings.HasPrefix(base, markerPrefix):
		return 0, errMarkerTarget
	case base == "" || base == "." || base == "..":
		return 0, errDirTarget
	}
	links := 0
	dir, missing, err := m.walk(root, name[:slash], &links)
	if err != nil {
		return 0, err
	}
	id, ok := m.child(dir, base)
	switch {
	case !ok || len(missing) > 0:
		return 0, errNoTarget
	case m.at(id).kind() == syscall.S_IFDIR:
		return 0, errDirTarget
	}
	return id, nil
}

// settable are the attributes among an entry's which a file of that kind gets. The
// result is valid until the next call.
func (m *merger) settable(all []index.Xattr, kind uint32) ([]index.Xattr, error) {
	m.scratch = m.scratch[:0]
	for _, x := range all {
		switch {
		case overlayXattr(x.Name):
			m.warn("attribute %s of overlayfs is dropped", quote(x.Name))
		case !settable(x.Name, kind):
			m.warn("attribute %s can't be set on such a file: dropped", quote(x.Name))
		case x.Name == capability && !validCapability(x.Value):
			return nil, errCapability
		case (x.Name == aclAccess || x.Name == aclDefault) && !validACL(x.Value):
			m.warn("attribute %s is no ACL that Linux takes: dropped", quote(x.Name))
		default:
			m.scratch = append(m.scratch, x)
		}
	}
	return m.scratch, nil
}
