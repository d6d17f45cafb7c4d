// Package cache keeps what was fetched: on disk, shared by all processes of a
// user, and decoded in memory, for one process.
//
// # Terms
//
// A document is a small JSON file named by its digest: a manifest, a manifest
// list, a config. A ref is what a name given by the user resolved to. An
// index tells what is in a layer, and frames are the content of a layer that
// can't be read at random out of its blob; of both, this package sees only
// bytes. A blob is a layer's compressed bytes: the cache keeps any part of
// them, and fetches the rest from a [Source] when it is read. A span is a piece
// of a layer decoded by itself; [Memory] keeps the latest of them.
//
// # Disk
//
// One directory holds everything; see docs/design.md for its layout. It is a
// cache: all of it may be deleted at any time, kill -9 at any moment is
// harmless, and damage costs a fetch. Documents are checked against their
// digest whenever they are read. Blobs and frames are not: who reads them
// checks every span, and calls [Blob.Discard] for what is wrong; who reads a
// blob as a whole checks its digest, and calls [Blob.Distrust]. Documents,
// refs, indexes and frames appear under their names complete, or not at all.
// Blobs come in pieces, whoever fetches them, and stay in pieces when that is
// cut short. No byte of blobs and frames is ever synced: after a power failure
// the map of a blob may promise what the disk has lost, which is damage like
// any other.
//
// # Bounds
//
// [Limits] bound what all of it takes on disk. Who adds to a cache collects, in
// between and at the end: what was used least recently goes until the cache is
// within its limits, first of all blobs their parts of a MiB, then indexes
// with their frames. A part of a blob is used when it is read or brought, which
// each [Blob] keeps in memory and writes to the blob's file now and then; to
// lose that loses an order and nothing else. What some process has open is
// never taken away, and neither are documents and refs.
//
// # Processes
//
// Several processes, and several Caches in one process, may use a directory
// at the same time. They meet in byte-range locks that belong to an open file
// (F_OFD_SETLK), which the kernel drops when the process dies, however it
// dies. Locks lie far behind the bytes they stand for, or on the very range
// that is being fetched. No lock is ever waited for while a lock that another
// waiter needs first is held: ranges are locked whole, and the lock of a
// blob's map is always the last to be taken.
package cache
