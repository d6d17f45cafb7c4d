package fetcher

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Reference names an image. The zero value names none.
type Reference struct {
	transport  string        // a name in transports that can be parsed
	repository string        // docker: as Docker shows it in full, e.g. docker.io/library/alpine
	dir        string        // oci: absolute path of the layout
	tag        string        // "" where digest is enough, or where a layout has one image
	digest     digest.Digest // "" where the tag has to be resolved
}

// transports are the kinds of places that images come from, by the prefix
// that names them in a reference. Those without parse are known from other
// tools, and cannot be read.
var transports = []struct {
	name  string
	parse func(rest string) (Reference, error)
}{
	{name: "docker", parse: parseDockerURL},
	{name: "oci", parse: parseLayout},
	{name: "oci-archive"},
	{name: "docker-archive"},
	{name: "docker-daemon"},
	{name: "containers-storage"},
	{name: "dir"},
	{name: "tar"},
}

const supported = "a name in a registry (NAME[:TAG][@DIGEST], docker://NAME…) or an OCI layout (oci:DIR[:TAG|@DIGEST])"

// ParseReference parses a reference as a user writes it:
//
//   - docker://NAME[:TAG][@DIGEST], or the same without docker://. Names are
//     completed as Docker does: alpine is docker.io/library/alpine:latest. A
//     digest decides where there is a tag as well.
//   - oci:DIR[:TAG] and oci:DIR@DIGEST, an OCI image layout. DIR ends at the
//     first colon that has an existing directory before it, or else at the
//     first colon; a colon at the very end says that all before it is DIR.
//     Without TAG the layout has to hold one image. The tag is the annotation
//     org.opencontainers.image.ref.name of an entry in index.json.
//   - a path, i.e. something that starts with /, ./ or ../, or the existing
//     directory of an OCI layout: as if oci: stood before it.
//
// Nothing but the existence of paths is looked at. Errors wrap ErrReference.
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
		return parseLayout(s)
	}
	if r, err := parseLayout(s); err == nil && isLayout(r.dir) {
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
// Reference of it, as long as no directory appears whose name is a part of a
// layout's name up to a colon.
func (r Reference) String() string {
	switch {
	case r.transport == "docker":
		return "docker://" + r.Name()
	case r.digest != "":
		return "oci:" + r.dir + "@" + r.digest.String()
	case r.tag != "":
		return "oci:" + r.dir + ":" + r.tag
	case strings.Contains(r.dir, ":"):
		return "oci:" + r.dir + ":"
	}
	return "oci:" + r.dir
}

// Name returns the reference as people know it: String, without docker://.
func (r Reference) Name() string {
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

// parseLayout parses DIR[:TAG|@DIGEST].
func parseLayout(s string) (Reference, error) {
	r := Reference{transport: "oci"}
	dir := s
	if all, ok := strings.CutSuffix(s, ":"); ok {
		dir = all
	} else if i := strings.LastIndexByte(s, '@'); i >= 0 && digest.Digest(s[i+1:]).Validate() == nil {
		dir, r.digest = s[:i], digest.Digest(s[i+1:])
	} else {
		dir, r.tag = cutTag(s)
	}
	if dir == "" {
		return Reference{}, errorf(ErrReference, "oci:%s names no directory", s)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Reference{}, errorf(ErrReference, "oci:%s: %v", s, err)
	}
	r.dir = abs
	return r, nil
}

// cutTag separates DIR from TAG.
func cutTag(s string) (dir, tag string) {
	for i, c := range s {
		if c == ':' && isDir(s[:i]) {
			return s[:i], s[i+1:]
		}
	}
	if isDir(s) {
		return s, ""
	}
	dir, tag, _ = strings.Cut(s, ":")
	return dir, tag
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func isPath(s string) bool {
	return s == "." || s == ".." ||
		slices.ContainsFunc([]string{"/", "./", "../"}, func(p string) bool { return strings.HasPrefix(s, p) })
}

// isLayout tells whether dir has the file that marks an OCI image layout.
func isLayout(dir string) bool {
	fi, err := os.Stat(filepath.Join(dir, v1.ImageLayoutFile))
	return err == nil && fi.Mode().IsRegular()
}
