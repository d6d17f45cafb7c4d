package fetcher

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// A Reference names an image. The zero value names none.
type Reference struct {
	transport  string        // one of transports, or byContent
	repository string        // docker: as Docker shows it in full, e.g. docker.io/library/alpine
	path       string        // all but docker: absolute, of a directory or a file; tar: or a URL
	tag        string        // "" where digest is enough, or where a place has one image
	digest     digest.Digest // "" where the tag has to be resolved
}

// byContent is the transport of a path whose content has to tell what it is.
const byContent = "path"

// transports are the kinds of places that images come from, by the prefix
// that names them in a reference. Those without parse are known from other
// tools, and cannot be read.
var transports = []struct {
	name  string
	parse func(rest string) (Reference, error)
}{
	{"docker", parseDockerURL},
	{"oci", func(rest string) (Reference, error) { return parsePlace("oci", rest, isDir) }},
	{"oci-archive", func(rest string) (Reference, error) { return parsePlace("oci-archive", rest, isFile) }},
	{"docker-archive", parseDockerArchive},
	{"dir", func(rest string) (Reference, error) { return parsePath("dir", rest) }},
	{"tar", parseTar},
	{"docker-daemon", nil},
	{"containers-storage", nil},
}

const supported = "a name in a registry (NAME[:TAG][@DIGEST], docker://NAME…), an OCI layout (oci:DIR[:TAG|@DIGEST], oci-archive:FILE…), " +
	"an archive of Docker's (docker-archive:FILE[:NAME|:@N]), a directory of skopeo's (dir:DIR) and a root file system (tar:FILE)"

// ParseReference parses a reference as a user writes it:
//
//   - docker://NAME[:TAG][@DIGEST], or the same without docker://. Names are
//     completed as Docker does: alpine is docker.io/library/alpine:latest. A
//     digest decides where there is a tag as well.
//   - oci:DIR[:TAG] and oci:DIR@DIGEST, an OCI image layout. DIR ends at the
//     first colon that has an existing directory before it, or else at the
//     first colon; a colon at the very end says that all before it is DIR.
//     Without TAG the layout has to hold one image. The tag is the annotation
//     org.opencontainers.image.ref.name of an entry in index.json, or the
//     whole name that containerd and Docker write beside it.
//   - oci-archive:FILE[:TAG] and oci-archive:FILE@DIGEST, the same in a tar.
//   - docker-archive:FILE[:NAME] and docker-archive:FILE:@N, an archive of
//     docker save. NAME is completed as Docker does, and N counts from 0.
//     Without them the archive has to hold one image.
//   - dir:DIR, a directory that skopeo has written.
//   - tar:FILE, a tar of a root file system: an image of one layer. In the
//     place of FILE there may be a URL, https://…, of a server with ranges.
//   - a path, i.e. something that starts with /, ./ or ../, or that is there
//     and begins as an image does: PATH[:TAG|@DIGEST]. Resolve tells by the
//     content which of the above it is.
//
// Archives and tars may be compressed, with gzip or zstd.
//
// Of paths, no more is looked at than whether they exist and, where they may
// be names in a registry as well, how they begin. Errors wrap ErrReference.
func ParseReference(s string) (Reference, error) {
	if strings.ContainsRune(s, 0) {
		return Reference{}, errorf(ErrReference, "%q is not a reference: it has a NUL in it", s)
	}
	if prefix, rest, ok := strings.Cut(s, ":"); ok {
		for _, t := range transports {
			if t.name != prefix {
				continue
			}
			if t.parse == nil {
				return Reference{}, errorf(ErrReference, "%s: is not supported; what is: %s", prefix, supported)
			}
			return t.parse(rest)
		}
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok && (scheme == "https" || scheme == "http") {
		return Reference{}, errorf(ErrReference, "%q is a URL, not an image reference: leave out %s://", s, scheme)
	}
	if isPath(s) {
		return parsePlace(byContent, s, exists)
	}
	if r, err := parsePlace(byContent, s, exists); err == nil && beginsAsImage(r.path) {
		return r, nil
	}
	return parseDocker(s)
}

// SplitPath splits REF:/path, which names a file of an image. The path starts
// at the first ":/" after the prefix of the reference's transport: REF of
// "oci:/srv/layout:v1:/etc/passwd" is "oci:/srv/layout:v1". Without a path it
// is "/". REF is for ParseReference to judge.
func SplitPath(arg string) (ref, path string) {
	start := 0
	if prefix, rest, ok := strings.Cut(arg, ":"); ok {
		switch {
		case strings.HasPrefix(rest, "//"):
			start = len(prefix) + len("://")
		case isTransport(prefix):
			start = len(prefix) + len(":")
			if isURL(rest) {
				start += strings.Index(rest, "//")
			}
		}
	}
	if i := strings.Index(arg[start:], ":/"); i >= 0 {
		return arg[:start+i], arg[start+i+1:]
	}
	return arg, "/"
}

func isTransport(prefix string) bool {
	for _, t := range transports {
		if t.name == prefix {
			return true
		}
	}
	return false
}

// String returns the reference in full. ParseReference makes the same
// Reference of it, as long as nothing appears whose name is a part of a
// path up to a colon.
func (r Reference) String() string {
	switch r.transport {
	case "docker":
		return "docker://" + r.Name()
	case "dir", "tar":
		return r.transport + ":" + r.path
	case byContent:
		return r.place()
	}
	return r.transport + ":" + r.place()
}

// place returns PATH[:TAG|@DIGEST].
func (r Reference) place() string {
	switch {
	case r.digest != "":
		return r.path + "@" + r.digest.String()
	case r.tag != "":
		return r.path + ":" + r.tag
	case strings.Contains(r.path, ":"):
		return r.path + ":"
	}
	return r.path
}

// Name returns the reference as people know it: String, without docker:// and
// without what may be secret in a URL.
func (r Reference) Name() string {
	if u := r.url(); u != nil {
		return "tar:" + publicURL(u)
	}
	if r.transport != "docker" {
		return r.String()
	}
	s := r.repository
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest.String()
	}
	return s
}

// At returns the reference to what has a digest, in the same repository or
// layout. In a place that knows no digests it stays the same.
func (r Reference) At(d digest.Digest) Reference {
	switch r.transport {
	case "docker", "oci", "oci-archive":
		r.tag, r.digest = "", d
	}
	return r
}

// Repository returns the repository that the reference names in full, such as
// docker.io/library/alpine: that of a registry, or of a name in an archive of
// Docker's. It is "" for others.
func (r Reference) Repository() string {
	if r.transport == "docker-archive" {
		r, _ = parseDocker(r.tag)
	}
	return r.repository
}

func parseDockerURL(rest string) (Reference, error) {
	s, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return Reference{}, errorf(ErrReference, "docker:%s: two slashes have to follow docker:", rest)
	}
	return parseDocker(s)
}

// The grammar is that of github.com/distribution/reference. The name package
// completes names the same way, but lets more pass; among it things that
// would mean something in a URL.
var (
	domainPattern     = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

const (
	hub        = "docker.io"
	defaultTag = "latest"
)

func parseDocker(s string) (Reference, error) {
	r := Reference{transport: "docker"}
	rest, d, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		r.digest = digest.Digest(d)
		if err := r.digest.Validate(); err != nil {
			return Reference{}, errorf(ErrReference, "%q is not an image reference: %q is not a digest", s, d)
		}
	}
	base := rest
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		base, r.tag = rest[:i], rest[i+1:]
		if !tagPattern.MatchString(r.tag) {
			return Reference{}, errorf(ErrReference, "%q is not an image reference: %q is not a tag", s, r.tag)
		}
	} else if !hasDigest {
		r.tag = defaultTag
	}
	repo, err := name.NewRepository(base)
	if err != nil || !domainPattern.MatchString(repo.RegistryStr()) || !repositoryPattern.MatchString(repo.RepositoryStr()) {
		return Reference{}, errorf(ErrReference, "%q is not an image reference: %q is not a repository name", s, base)
	}
	domain := repo.RegistryStr()
	if domain == name.DefaultRegistry {
		domain = hub
	}
	r.repository = domain + "/" + repo.RepositoryStr()
	return r, nil
}

// parsePlace parses PATH[:TAG|@DIGEST]. PATH is what exists says is there.
func parsePlace(transport, s string, exists func(path string) bool) (Reference, error) {
	file, tag, d := s, "", digest.Digest("")
	if all, ok := strings.CutSuffix(s, ":"); ok {
		file = all
	} else if i := strings.LastIndexByte(s, '@'); i >= 0 && digest.Digest(s[i+1:]).Validate() == nil {
		file, d = s[:i], digest.Digest(s[i+1:])
	} else {
		file, tag = cutTag(s, exists)
	}
	r, err := parsePath(transport, file)
	r.tag, r.digest = tag, d
	return r, err
}

// parsePath parses a path that nothing follows.
func parsePath(transport, s string) (Reference, error) {
	if s == "" {
		return Reference{}, errorf(ErrReference, "%s: names no path", transport)
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return Reference{}, errorf(ErrReference, "%s:%s: %v", transport, s, err)
	}
	return Reference{transport: transport, path: abs}, nil
}

// parseDockerArchive parses FILE[:NAME|:@N].
func parseDockerArchive(s string) (Reference, error) {
	file, tag := s, ""
	if all, ok := strings.CutSuffix(s, ":"); ok {
		file = all
	} else {
		file, tag = cutTag(s, isFile)
	}
	r, err := parsePath("docker-archive", file)
	if err != nil {
		return Reference{}, err
	}
	return r.withDockerTag(tag)
}

var positionPattern = regexp.MustCompile(`^@(?:0|[1-9][0-9]{0,8})$`)

// withDockerTag returns the reference to the image of a name, or of a position, in a docker archive.
func (r Reference) withDockerTag(tag string) (Reference, error) {
	r.tag = tag
	if tag == "" || positionPattern.MatchString(tag) {
		return r, nil
	}
	name, err := parseDocker(tag)
	if err != nil {
		return Reference{}, err
	}
	if name.digest != "" {
		return Reference{}, errorf(ErrReference, "docker-archive:%s: archives of Docker's know no digests, but names and positions (@0)", r.path)
	}
	r.tag = name.Name()
	return r, nil
}

// cutTag separates PATH from TAG.
func cutTag(s string, exists func(path string) bool) (file, tag string) {
	for i, c := range s {
		if c == ':' && exists(s[:i]) {
			return s[:i], s[i+1:]
		}
	}
	if exists(s) {
		return s, ""
	}
	file, tag, _ = strings.Cut(s, ":")
	return file, tag
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

func isPath(s string) bool {
	return s == "." || s == ".." ||
		slices.ContainsFunc([]string{"/", "./", "../"}, func(p string) bool { return strings.HasPrefix(s, p) })
}
