// Package fetcher turns a reference into an image, and a layer's blob into an
// io.ReaderAt: from registries by ranged requests, and in place from files: OCI
// image layouts, archives, skopeo's directories and root file systems.
//
// # Terms
//
// A reference is what a user types. A document is a manifest, an index (Docker
// calls it a manifest list) or a config: small, and kept whole. A blob is the
// bytes of a layer: large, and read in ranges. To resolve is to go from a
// reference to the documents of one image for one platform.
//
// # Trust
//
// Nothing a registry or a file says is believed. Documents are compared with
// their digests before anything is made of them, and their sizes are bounded.
// Ranges of blobs cannot be compared with the digest of the blob: whoever reads
// them has to know digests of the ranges. What is checked here is that the
// server says that these bytes are the range that was asked for. An answer with
// anything else is an error, after some more attempts.
//
// Credentials go to the origin (scheme, host and port) of the registry they are
// for, and to the token server that it names, if checkRealm lets them. Requests
// that are redirected elsewhere carry none, even if they come back. No error and
// no log line has a secret in it: of what servers write, errors have only words
// that are known.
//
// # Bundles
//
// A bundle is an image, or an index and all below it, on its way to another
// place: its documents, and a way to read its layers. Push writes one to a
// registry, package save to files. Blobs are compared with their digests on the
// way: their last bytes come once all are right.
//
// # Mirrors
//
// What podman's registries.conf or containerd's hosts.toml say of an image makes
// its route: mirrors, in order, and at last its registry. Each request goes
// along it until one has what is wanted. Who has failed is left alone for a
// while, unless all have: then they are asked in turns, by the rules of faults
// below. A mirror is another registry with its own credentials and certificates,
// and is trusted no more than any other.
//
// # Faults
//
// A request that fails for a reason that may pass (no connection, 5xx, 429,
// silence, a body that ends early) is made again after a pause. An answer's
// Retry-After is honoured. A server gets 30 seconds in all, which bytes that
// arrive earn back, a second for each 16 KiB: silence ends after 30 seconds,
// and so does a trickle. One that refuses connections gets 3 seconds where a
// command begins with it. Tokens and redirects that have expired are renewed,
// once for all readers who wait.
//
// Everything here may be called from several goroutines at once.
package fetcher
