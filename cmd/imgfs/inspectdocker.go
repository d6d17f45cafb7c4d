package main

import (
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"imgfs/fetcher"
	"imgfs/layers"
)

// A dockerInspection is what "docker image inspect" prints of an image (github.com/moby/moby, api/types, ImageInspect), as
// Docker 20.10 does it. GraphDriver and Metadata are left out: they are about Docker's own store.
type dockerInspection struct {
	ID              string `json:"Id"`
	RepoTags        []string
	RepoDigests     []string
	Parent          string // of what was built here: always ""
	Comment         string
	Created         string
	Container       string
	ContainerConfig dockerConfig
	DockerVersion   string
	Author          string
	Config          *dockerConfig
	Architecture    string
	Variant         string `json:",omitempty"`
	Os              string
	OsVersion       string `json:",omitempty"`
	Size            *int64 `json:",omitempty"` // bytes of the files of all layers; nil if a layer is not indexed
	VirtualSize     *int64 `json:",omitempty"` // the same
	RootFS          dockerRootFS
}

type dockerRootFS struct {
	Type   string
	Layers []digest.Digest `json:",omitempty"`
}

// A dockerConfig is the config of a container (github.com/moby/moby, api/types/container, Config).
type dockerConfig struct {
	Hostname        string
	Domainname      string
	User            string
	AttachStdin     bool
	AttachStdout    bool
	AttachStderr    bool
	ExposedPorts    map[string]struct{} `json:",omitempty"`
	Tty             bool
	OpenStdin       bool
	StdinOnce       bool
	Env             []string
	Cmd             []string
	Healthcheck     *dockerHealthcheck `json:",omitempty"`
	ArgsEscaped     bool               `json:",omitempty"`
	Image           string
	Volumes         map[string]struct{}
	WorkingDir      string
	Entrypoint      []string
	NetworkDisabled bool   `json:",omitempty"`
	MacAddress      string `json:",omitempty"`
	OnBuild         []string
	Labels          map[string]string
	StopSignal      string   `json:",omitempty"`
	StopTimeout     *int     `json:",omitempty"`
	Shell           []string `json:",omitempty"`
}

type dockerHealthcheck struct {
	Test        []string      `json:",omitempty"`
	Interval    time.Duration `json:",omitempty"`
	Timeout     time.Duration `json:",omitempty"`
	StartPeriod time.Duration `json:",omitempty"`
	Retries     int           `json:",omitempty"`
}

// A dockerImage is a config as Docker reads it.
type dockerImage struct {
	Comment         string        `json:"comment"`
	Created         time.Time     `json:"created"`
	Container       string        `json:"container"`
	ContainerConfig dockerConfig  `json:"container_config"`
	DockerVersion   string        `json:"docker_version"`
	Author          string        `json:"author"`
	Config          *dockerConfig `json:"config"`
	Architecture    string        `json:"architecture"`
	Variant         string        `json:"variant"`
	OS              string        `json:"os"`
	OSVersion       string        `json:"os.version"`
	RootFS          v1.RootFS     `json:"rootfs"`
	History         []v1.History  `json:"history"`
}

// inspectDocker describes an image as Docker would once it has pulled or loaded it.
func (s *session) inspectDocker(im *fetcher.Image) (*dockerInspection, error) {
	var c dockerImage
	if err := decodeConfig(im, &c); err != nil {
		return nil, err
	}
	i := &dockerInspection{
		ID: im.ConfigDigest.String(), RepoTags: []string{}, RepoDigests: []string{}, Comment: c.Comment,
		Created: c.Created.Format(time.RFC3339Nano), Container: c.Container, ContainerConfig: c.ContainerConfig,
		DockerVersion: c.DockerVersion, Author: c.Author, Config: c.Config, Architecture: c.Architecture, Variant: c.Variant,
		Os: c.OS, OsVersion: c.OSVersion, RootFS: dockerRootFS{c.RootFS.Type, c.RootFS.DiffIDs},
	}
	for _, name := range im.Names {
		i.RepoTags = append(i.RepoTags, familiar(name))
	}
	if repository := im.Ref.Repository(); repository != "" && !im.Made {
		i.RepoDigests = append(i.RepoDigests, familiar(repository)+"@"+im.Digest.String())
	}
	if n := len(c.History); c.Comment == "" && n > 0 {
		i.Comment = c.History[n-1].Comment
	}
	size, err := s.contentSize(im)
	i.Size, i.VirtualSize = size, size
	return i, err
}

// familiar is a name as Docker shows it: docker.io and its library go without saying.
func familiar(name string) string {
	short := strings.TrimPrefix(name, "docker.io/")
	if short != name {
		short = strings.TrimPrefix(short, "library/")
	}
	return short
}

// contentSize is the bytes of all files and links in all layers, as Docker counts them where it has a directory for each layer
// (overlay2). It is nil if a layer is not indexed, or can't be counted for itself.
func (s *session) contentSize(im *fetcher.Image) (*int64, error) {
	var all int64
	for _, l := range im.Layers {
		x, err := s.cachedIndex(l.Digest, l.Digest)
		if x == nil || err != nil {
			return nil, err
		}
		tree, _, err := layers.Merge([]layers.Layer{{Digest: l.Digest, Entries: x.index.Entries(), NumEntries: x.index.NumEntries()}})
		x.close()
		if err != nil {
			s.app.log.Info("the size of a layer's files is not known", "layer", l.Digest, "why", err)
			return nil, nil
		}
		for n := range layers.Node(tree.Len()) {
			if at := tree.Attr(n); at.Mode&unix.S_IFMT != unix.S_IFDIR && tree.Inode(n) == n {
				all += int64(at.Size)
			}
		}
	}
	return &all, nil
}
