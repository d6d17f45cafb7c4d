package fetcher

import (
	"context"
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// source returns what a reference names, and the reference with its transport where the content had to tell it.
func (f *Fetcher) source(ctx context.Context, ref Reference) (Reference, source, error) {
	switch ref.transport {
	case "docker":
		r, err := f.route(ref)
		return ref, &registrySource{f: f, ref: ref, route: r}, err
	case "oci":
		return ref, &layout{ref: ref, files: directory(ref.path)}, nil
	case "dir":
		return ref, &skopeoDir{ref: ref, files: directory(ref.path)}, nil
	case "oci-archive", "docker-archive":
		files, err := f.openArchive(ctx, ref.path)
		if err != nil {
			return ref, nil, err
		}
		if ref.transport == "oci-archive" {
			return ref, &layout{ref: ref, files: files}, nil
		}
		return ref, f.newDockerArchive(ref, files), nil
	case "tar":
		t, err := f.openTar(ctx, ref)
		return ref, f.newRootfs(ref, t), err
	case byContent:
		return f.recognise(ctx, ref)
	}
	return ref, nil, errorf(ErrReference, "the reference is empty")
}

func (f *Fetcher) newRootfs(ref Reference, t Tar) *rootfs {
	return &rootfs{f: f, ref: ref, tar: t, platform: f.platform, documents: map[digest.Digest][]byte{}}
}

// recognise tells by the content what a path is. A directory is a layout before it is skopeo's; an archive is a layout
// before it is Docker's, as podman load has it (what docker save writes is often both), and if it is neither, it is a root
// file system.
func (f *Fetcher) recognise(ctx context.Context, ref Reference) (Reference, source, error) {
	info, err := os.Stat(ref.path)
	switch {
	case err != nil:
		return ref, nil, errorf(ErrNotFound, "%s: there is no such file or directory", ref.path)
	case info.IsDir():
		return f.recogniseDir(ref)
	}
	if err := checkBeginning(ref.path); err != nil {
		return ref, nil, err
	}
	files, err := f.openArchive(ctx, ref.path)
	switch {
	case errors.Is(err, errTooMany):
		return f.recogniseRootfs(ctx, ref, files)
	case err != nil:
		return ref, nil, err
	case isLayout(ref, files):
		ref = f.taken(ref, "oci-archive", "an OCI image layout in an archive")
		return ref, &layout{ref: ref, files: files}, nil
	}
	if !isDockerArchive(files) {
		return f.recogniseRootfs(ctx, ref, files)
	}
	ref, err = f.taken(ref, "docker-archive", "an archive of docker save").withDockerTag(ref.tag)
	if err == nil && ref.digest != "" {
		err = errorf(ErrReference, "%s is an archive of docker save, which knows no digests", ref.path)
	}
	return ref, f.newDockerArchive(ref, files), err
}

// isLayout tells whether an archive is to be taken for an OCI image layout. If it is Docker's as well, that may have what the
// index lacks: a position, and what Docker 25.0 was asked for by its digest (github.com/moby/moby, issue 47210).
func isLayout(ref Reference, files *archive) bool {
	if !files.has(v1.ImageLayoutFile) || !files.has(v1.ImageIndexFile) {
		return false
	}
	if !files.has(dockerManifestFile) {
		return true
	}
	entries, err := (&layout{ref: ref, files: files}).entries()
	return !positionPattern.MatchString(ref.tag) && (err != nil || len(entries) > 0)
}

// isDockerArchive tells whether an archive lists images, as Docker's do. There are others with a file of that name, but one
// that makes no sense where there are layers of Docker's as well is broken.
func isDockerArchive(files *archive) bool {
	items, err := dockerItems(files)
	if errors.Is(err, ErrMalformed) || err == nil && len(items) == 0 {
		return files.hasDockerLayers()
	}
	return !errors.Is(err, ErrNotFound)
}

func (f *Fetcher) recogniseDir(ref Reference) (Reference, source, error) {
	dir := directory(ref.path)
	switch {
	case hasFile(dir, v1.ImageLayoutFile):
		ref = f.taken(ref, "oci", "an OCI image layout")
		return ref, &layout{ref: ref, files: dir}, nil
	case !isSkopeoDir(dir):
		return ref, nil, errorf(ErrNotFound, "%s is not an image: it is a directory with neither an %s file, as OCI image layouts have it, "+
			"nor skopeo's %s and %s", dir, v1.ImageLayoutFile, dirManifestFile, dirVersionFile)
	case ref.tag != "" || ref.digest != "":
		return ref, nil, errorf(ErrReference, "%s is a directory of skopeo's, which holds one image without a tag", dir)
	}
	ref = f.taken(ref, "dir", "a directory of skopeo's")
	return ref, &skopeoDir{ref: ref, files: dir}, nil
}

func (f *Fetcher) recogniseRootfs(ctx context.Context, ref Reference, files *archive) (Reference, source, error) {
	if ref.tag != "" || ref.digest != "" {
		return ref, nil, errorf(ErrReference, "%s is a tar of a root file system, which has no tags", ref.path)
	}
	t := files.tar
	if t == nil {
		var err error
		if t, err = f.openTar(ctx, ref); err != nil {
			return ref, nil, err
		}
	}
	ref = f.taken(ref, "tar", "a tar of a root file system")
	return ref, f.newRootfs(ref, t), nil
}

// taken returns the reference with its transport, and tells what it is taken for.
func (f *Fetcher) taken(ref Reference, transport, what string) Reference {
	f.log.Info("recognised by its content", "path", ref.path, "as", what, "transport", transport)
	ref.transport = transport
	return ref
}

func hasFile(d directory, name string) bool {
	file, err := d.open(name)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

func isSkopeoDir(d directory) bool { return hasFile(d, dirManifestFile) && hasFile(d, dirVersionFile) }

// checkBeginning refuses a file that is no archive and no tar.
func checkBeginning(path string) error {
	file, _, err := openPlain(path)
	if err != nil {
		return err
	}
	defer file.Close()
	f, head, err := formatOf(file)
	if err == nil && f == plain && !isTarHead(head) {
		err = errorf(ErrReference, "%s is not an image: neither a tar nor a compressed one", path)
	}
	return err
}

// beginsAsImage tells whether what is at a path may well be meant, where it could be the name of an image as well.
func beginsAsImage(path string) bool {
	if isDir(path) {
		d := directory(path)
		return hasFile(d, v1.ImageLayoutFile) || isSkopeoDir(d)
	}
	return isFile(path) && checkBeginning(path) == nil
}
