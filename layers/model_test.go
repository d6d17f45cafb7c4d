package layers_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"imgfs/index"
	"imgfs/layers"
)

// The model is a second reading of the semantics, as simple as can be: files are
// maps and pointers, and what is hidden is taken out at once. Merge has to agree with it.
type model struct {
	root  *name
	layer int
	tars  []layerIn
}

// A name is a directory entry.
type name struct {
	file  *file
	given int // the last layer with something here or below
	set   int // the layer whose entry stands here
}

// A file is an inode.
type file struct {
	kind, mode uint32
	uid, gid   uint32
	sec        int64
	nsec       uint32
	size       uint64
	stored     uint64
	content    string
	target     string
	device     [2]uint32
	xattrs     map[string]string
	kids       map[string]*name
}

func madeDir() *file {
	return &file{kind: syscall.S_IFDIR, mode: 0o755, size: 4096, kids: make(map[string]*name)}
}

// unpack applies layers.
func unpack(in []layerIn) (*model, error) {
	m := &model{root: &name{file: madeDir()}, tars: in}
	for i, l := range in {
		m.layer = i
		for _, e := range l.entries {
			if err := m.apply(e); err != nil {
				return nil, &layers.EntryError{Layer: l.digest, Entry: e.Name, Err: err}
			}
		}
	}
	return m, nil
}

var (
	errModel  = errors.New("the model rejects this")
	errIgnore = errors.New("the model ignores this")
)

func (m *model) apply(e *index.Entry) error {
	if e.Name == "" || strings.Contains(e.Name, "\x00") {
		return errModel
	}
	p := strings.TrimPrefix(path.Clean("/"+e.Name), "/")
	if tooLong(strings.Split(p, "/")) {
		return errModel
	}
	if !strings.ContainsRune("0123456", rune(e.Type)) {
		return nil
	}
	if p == "" {
		if e.Type != index.TypeDir {
			return nil
		}
		f, err := m.newFile(e)
		if err != nil {
			return err
		}
		f.kids = m.root.file.kids
		m.root.file, m.root.given, m.root.set = f, m.layer, m.layer
		return nil
	}
	err := m.applyAt(strings.Split(p, "/"), e)
	if errors.Is(err, errIgnore) {
		return nil
	}
	return err
}

func tooLong(components []string) bool {
	return len(strings.Join(components, "/")) > 4096 ||
		slices.ContainsFunc(components, func(c string) bool { return len(c) > 255 })
}

func (m *model) applyAt(components []string, e *index.Entry) error {
	for i, c := range components {
		last := i == len(components)-1
		switch {
		case !strings.HasPrefix(c, ".wh."):
		case strings.HasPrefix(c, ".wh..wh.") && c != ".wh..wh..opq":
			return errIgnore
		case !last || e.Type == index.TypeDir || c == ".wh." || c == ".wh.." || c == ".wh...":
			return errIgnore
		}
	}
	dirs, missing, err := m.walk([]*name{m.root}, components[:len(components)-1], new(int))
	if errors.Is(err, syscall.ENOTDIR) && strings.HasPrefix(components[len(components)-1], ".wh.") {
		return errIgnore
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(missing, func(c string) bool { return strings.HasPrefix(c, ".wh.") }) {
		return errIgnore
	}
	base := components[len(components)-1]
	to := append(pathOf(dirs), missing...)
	if tooLong(to) || !strings.HasPrefix(base, ".wh.") && tooLong(append(to, base)) {
		return errModel
	}
	for _, c := range missing {
		made := &name{file: madeDir(), set: m.layer}
		dirs[len(dirs)-1].file.kids[c] = made
		dirs = append(dirs, made)
	}
	if len(missing) > 0 {
		m.give(dirs)
	}
	dir := dirs[len(dirs)-1].file
	hidden, isMarker := strings.CutPrefix(base, ".wh.")
	switch {
	case base == ".wh..wh..opq":
		m.hideLower(dir)
	case isMarker:
		if n := dir.kids[hidden]; n != nil && n.given < m.layer {
			delete(dir.kids, hidden)
		} else if n != nil {
			m.keepOwn(n)
		}
	case e.Type == index.TypeLink:
		return m.link(dirs, base, e)
	default:
		return m.put(dirs, base, e)
	}
	return nil
}

// give notes that this layer has something in the last of the directories.
func (m *model) give(dirs []*name) {
	for _, d := range dirs {
		d.given = m.layer
	}
}

// hideLower takes out what lower layers gave below a directory.
func (m *model) hideLower(dir *file) {
	for c, n := range dir.kids {
		if n.given < m.layer {
			delete(dir.kids, c)
		} else {
			m.keepOwn(n)
		}
	}
}

// keepOwn takes out what lower layers gave at and below a name that this layer has something at or below.
func (m *model) keepOwn(n *name) {
	if n.file.kind != syscall.S_IFDIR {
		return
	}
	if n.set < m.layer {
		kids := n.file.kids
		n.file, n.set = madeDir(), m.layer
		n.file.kids = kids
	}
	m.hideLower(n.file)
}

func (m *model) put(dirs []*name, base string, e *index.Entry) error {
	f, err := m.newFile(e)
	if err != nil {
		return err
	}
	dir := dirs[len(dirs)-1].file
	if old := dir.kids[base]; old != nil && old.file.kind == syscall.S_IFDIR && f.kind == syscall.S_IFDIR {
		f.kids = old.file.kids
	}
	dir.kids[base] = &name{file: f, given: m.layer, set: m.layer}
	m.give(dirs)
	return nil
}

func (m *model) link(dirs []*name, base string, e *index.Entry) error {
	dir := dirs[len(dirs)-1].file
	delete(dir.kids, base)
	target := strings.TrimRight(e.Linkname, "/")
	components := strings.Split(target, "/")
	targetBase := components[len(components)-1]
	found, missing, err := m.walk([]*name{m.root}, components[:len(components)-1], new(int))
	if err != nil {
		return err
	}
	n := found[len(found)-1].file.kids[targetBase]
	if len(missing) > 0 || n == nil || n.file.kind == syscall.S_IFDIR {
		return errModel
	}
	dir.kids[base] = &name{file: n.file, given: m.layer, set: m.layer}
	m.give(dirs)
	f := n.file
	f.uid, f.gid, f.sec, f.nsec = e.UID, e.GID, e.MtimeSec, e.MtimeNsec
	if f.kind != syscall.S_IFLNK {
		f.mode = e.Mode & 0o7777
	}
	delete(f.xattrs, "security.capability")
	return f.setXattrs(e)
}

// walk follows components from the last of dirs, which are a directory and all those above it.
func (m *model) walk(dirs []*name, components []string, links *int) (to []*name, missing []string, err error) {
	for i, c := range components {
		switch {
		case c == "" || c == ".":
			continue
		case c == ".." && len(missing) > 0:
			missing = missing[:len(missing)-1]
			continue
		case c == "..":
			dirs = dirs[:max(len(dirs)-1, 1)]
			continue
		}
		n := dirs[len(dirs)-1].file.kids[c]
		switch {
		case n == nil || len(missing) > 0:
			missing = append(missing, c)
		case n.file.kind == syscall.S_IFDIR:
			dirs = append(slices.Clone(dirs), n)
		case n.file.kind == syscall.S_IFLNK:
			if *links++; *links > 40 {
				return nil, nil, errModel
			}
			if strings.HasPrefix(n.file.target, "/") {
				dirs = dirs[:1]
			}
			rest := append(strings.Split(n.file.target, "/"), components[i+1:]...)
			return m.walk(dirs, rest, links)
		default:
			return nil, nil, fmt.Errorf("%w: %w", errModel, syscall.ENOTDIR)
		}
	}
	return dirs, missing, nil
}

// pathOf is the way to the last of dirs.
func pathOf(dirs []*name) (components []string) {
	for i, d := range dirs[1:] {
		for c, n := range dirs[i].file.kids {
			if n == d {
				components = append(components, c)
			}
		}
	}
	return components
}

func (m *model) newFile(e *index.Entry) (*file, error) {
	f := &file{mode: e.Mode & 0o7777, uid: e.UID, gid: e.GID, sec: e.MtimeSec, nsec: e.MtimeNsec}
	switch e.Type {
	case '0':
		b := make([]byte, e.Size)
		for _, x := range e.Extents {
			if _, err := m.tars[m.layer].tar.ReadAt(b[x.Logical:x.Logical+x.Length], x.Offset); err != nil {
				return nil, fmt.Errorf("content in the tar: %w", err)
			}
			f.stored += uint64(x.Length)
		}
		f.kind, f.size, f.content = syscall.S_IFREG, uint64(e.Size), string(b)
	case '2':
		if e.Linkname == "" || len(e.Linkname) > 4095 {
			return nil, errModel
		}
		f.kind, f.mode, f.size, f.target = syscall.S_IFLNK, 0o777, uint64(len(e.Linkname)), e.Linkname
	case '3', '4':
		if e.Major > 4095 || e.Minor > 1<<20-1 {
			return nil, errModel
		}
		f.kind = map[byte]uint32{'3': syscall.S_IFCHR, '4': syscall.S_IFBLK}[e.Type]
		f.device = [2]uint32{e.Major, e.Minor}
	case '5':
		f.kind, f.size, f.kids = syscall.S_IFDIR, 4096, make(map[string]*name)
	case '6':
		f.kind = syscall.S_IFIFO
	}
	f.xattrs = make(map[string]string)
	return f, f.setXattrs(e)
}

// setXattrs adds an entry's attributes to a file's, and then does with the ACL what chmod does.
func (f *file) setXattrs(e *index.Entry) error {
	for _, x := range e.Xattrs {
		namespace, rest, _ := strings.Cut(x.Name, ".")
		fileOrDir := f.kind == syscall.S_IFREG || f.kind == syscall.S_IFDIR
		acl := x.Name == access && f.kind != syscall.S_IFLNK || x.Name == "system.posix_acl_default" && f.kind == syscall.S_IFDIR
		switch {
		case x.Name == "security.capability" && !strings.HasPrefix(x.Value, netRaw[:4]):
			return errModel // others are not in any test that has a model
		case namespace == "security" && rest != "",
			namespace == "user" && rest != "" && fileOrDir && !strings.HasPrefix(rest, "overlay."),
			acl && tagsOf(x.Value) != "":
			f.xattrs[x.Name] = x.Value
		}
	}
	tags, acl := tagsOf(f.xattrs[access]), []byte(f.xattrs[access])
	for i, tag := range tags {
		if shift, ok := map[rune]int{'u': 6, 'm': 3, 'o': 0}[tag]; ok {
			acl[4+8*i+2] = byte(f.mode >> shift & 7)
		}
	}
	if f.xattrs[access] = string(acl); len(tags) <= 3 {
		delete(f.xattrs, access)
	}
	return nil
}

const access = "system.posix_acl_access"

// tagsOf are the tags of an ACL: u, g and o for owner, group and others, U and G for users and groups, m for the
// mask. There are none if Linux would not take it.
func tagsOf(acl string) (tags string) {
	if !strings.HasPrefix(acl, "\x02\x00\x00\x00") || len(acl)%8 != 4 || len(acl) > 4096 {
		return ""
	}
	for e := range slices.Chunk([]byte(acl[4:]), 8) {
		tag := map[byte]string{1: "u", 2: "U", 4: "g", 8: "G", 16: "m", 32: "o"}[e[0]]
		if tag == "" || e[1] != 0 || e[2] > 7 || e[3] != 0 || (tag == "U" || tag == "G") && string(e[4:]) == "\xff\xff\xff\xff" {
			return ""
		}
		tags += tag
	}
	return orderOfTags.FindString(tags)
}

var orderOfTags = regexp.MustCompile(`^(ugm?|uU*gG*m)o$`)

// listing is the whole tree, by path.
func (m *model) listing() map[string]listed {
	all := make(map[string]listed)
	groups := make(map[*file][]string)
	m.list("/", m.root, all, groups)
	for _, paths := range groups {
		slices.Sort(paths)
		for _, p := range paths {
			l := all[p]
			l.Group = paths[0]
			if l.Mode&syscall.S_IFMT != syscall.S_IFDIR {
				l.Nlink = uint32(len(paths))
			}
			all[p] = l
		}
	}
	return all
}

func (m *model) list(p string, n *name, all map[string]listed, groups map[*file][]string) {
	f := n.file
	groups[f] = append(groups[f], p)
	l := listed{
		Mode: f.kind | f.mode, Owner: fmt.Sprintf("%d:%d", f.uid, f.gid), Mtime: fmt.Sprintf("%d.%09d", f.sec, f.nsec),
		Size: f.size, Blocks: (f.stored + 511) / 512, Nlink: 2, Target: f.target, Layer: n.set,
		Device: fmt.Sprintf("%d:%d", f.device[0], f.device[1]),
	}
	for _, k := range slices.Sorted(maps.Keys(f.xattrs)) {
		l.Xattrs += fmt.Sprintf("%q=%q ", k, f.xattrs[k])
	}
	if f.kind == syscall.S_IFREG {
		l.Sum = fmt.Sprintf("%x", sha256.Sum256([]byte(f.content)))
	}
	for c, kid := range f.kids {
		m.list(path.Join(p, c), kid, all, groups)
		if kid.file.kind == syscall.S_IFDIR {
			l.Nlink++
		}
	}
	all[p] = l
}
