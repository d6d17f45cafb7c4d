package fetcher

import (
	"regexp"
	"strings"
)

// A Destination is where an image can be written to.
type Destination struct {
	// Transport is docker, oci, oci-archive, docker-archive or dir.
	Transport string
	// Path is where it goes, but for docker: absolute, or Stdout.
	Path string
	// Tag is the tag in a layout, or the name in an archive of Docker's, in full; "" is none.
	Tag string
	// Ref names the image in a registry, for docker.
	Ref Reference
}

// Stdout is the Path of an archive that goes to standard output.
const Stdout = "-"

const writable = "docker://NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME[:TAG]] or dir:DIR"

// layoutTag is what image-spec lets an org.opencontainers.image.ref.name be (annotations.md).
var layoutTag = regexp.MustCompile(`^[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*$`)

// ParseDestination parses a destination as a user writes it: as references are
// written of which it will be one, but that nothing need be there yet, and that
// a path has to say what it is going to be. In the place of an archive's FILE
// there may be -, for standard output. Errors wrap ErrReference.
func ParseDestination(s string) (Destination, error) {
	transport, rest, _ := strings.Cut(s, ":")
	switch transport {
	case "oci", "oci-archive", "docker-archive", "dir":
		return parseWritable(transport, rest)
	}
	if isPath(s) || transport != "docker" && isTransport(transport) {
		return Destination{}, errorf(ErrReference, "%s: an image is not written there; it can be to %s", s, writable)
	}
	parse, name := parseDocker, s
	if transport == "docker" {
		parse, name = parseDockerURL, rest
	}
	ref, err := parse(name)
	return Destination{Transport: "docker", Ref: ref}, err
}

func parseWritable(transport, rest string) (Destination, error) {
	ref, err := parseWritablePlace(transport, rest)
	switch {
	case err != nil:
		return Destination{}, err
	case ref.digest != "":
		return Destination{}, errorf(ErrReference, "%s:%s: the digest is that of what is written; only a tag can be given", transport, rest)
	case strings.HasPrefix(ref.tag, "@"):
		return Destination{}, errorf(ErrReference, "%s:%s: a name can be given, but no position", transport, rest)
	case strings.HasPrefix(transport, "oci") && ref.tag != "" && !layoutTag.MatchString(ref.tag):
		return Destination{}, errorf(ErrReference, "%s:%s: %q is not a tag of an OCI image layout", transport, rest, ref.tag)
	}
	return Destination{Transport: transport, Path: ref.path, Tag: ref.tag}, nil
}

func parseWritablePlace(transport, rest string) (Reference, error) {
	file, tag, _ := strings.Cut(rest, ":")
	if file == Stdout && transport == "oci-archive" {
		return Reference{path: file, tag: tag}, nil
	}
	if file == Stdout && transport == "docker-archive" {
		return Reference{path: file}.withDockerTag(tag)
	}
	return ParseReference(transport + ":" + rest)
}

// Tagged returns the name and the tag of an image in a registry, without a digest; "" where it has no tag.
func (r Reference) Tagged() string {
	if r.transport != "docker" || r.tag == "" {
		return ""
	}
	return r.repository + ":" + r.tag
}
