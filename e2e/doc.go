// Package e2e runs the built program against real peers.
//
// A peer is a program of somebody else: docker-registry serves the images,
// skopeo pushes them, umoci and buildah make them, and containerd and umoci
// unpack them; skopeo, buildah, podman, Docker and containerd copy them to all
// kinds of places. An unpack by a peer is the oracle: the tree that imgfs mounts
// has to equal it, and package treediff says where it does not.
//
// The images are made of real Debian packages. That takes a minute, so they
// are kept under the user's cache directory by a hash of their recipe, which
// is package images.
//
// All of it needs root (devices, mounts, chroot) and the packages that
// prepare.sh installs. Nothing is skipped: a missing part fails the tests.
package e2e
