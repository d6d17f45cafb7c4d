// Package index knows what is in a layer and where, so that a layer can be read at random without unpacking it.
//
// # Terms
//
// A layer is a blob that holds a tar, usually compressed. Its blob digest names the blob, its diff ID is the digest
// of the tar, from its first byte to the last one that the blob decodes to. An entry is one thing in the tar. A
// span is a piece of the tar that can be decoded by itself: it starts at a checkpoint, which is a bit of
// the blob plus what the decoder must know there (for DEFLATE: what is referred to of the 32 KiB before it). What has
// no way in, a large zstd frame, stands in a second file, the frames, in spans as well. An index is all of that in
// one file: the entries, the spans, and a digest for the compressed bytes of each span.
//
// [Build] reads a blob once and writes its index. [Open] reads an index; [Index.Entries] lists the entries, and a
// [Reader] reads the tar, span by span. The format of the file is described in docs/format.md.
//
// # Trust
//
// A blob that was indexed has proved its digest, its size and its diff ID. Later every span's compressed bytes are
// checked by their own digest before they are decoded, and so is every piece of the index: a
// byte that has changed since leads to an error, never to another result.
//
// # Which tars are read, and how
//
// What the tar of a layer means is defined by what containerd makes of it, so the reader follows Go's archive/tar,
// which containerd and umoci use:
//
//   - v7, ustar, star, GNU and PAX headers; sums of signed and unsigned bytes; base-256 numbers; sparse files in
//     the old GNU form and in GNU's PAX forms 0.0, 0.1 and 1.0.
//   - Two blocks of zeros end the tar, and what comes after them counts for nothing but the diff ID. A tar that just
//     ends, at a header or in the padding before it, or after a single block of zeros, is whole. An empty blob is an
//     empty tar: Docker has made such layers.
//   - A link, a directory, a device and a FIFO have no content, whatever their size says: the next header follows. (GNU tar
//     skips a directory's size.)
//   - A PAX global header must be well-formed, and changes nothing, whatever it says: so does containerd. (GNU tar heeds
//     it; umoci refuses the layer.)
//   - A PAX header, a long name and a sparse map are at most 1 MiB long.
//
// Beyond what archive/tar does, these are refused: ids over [MaxID], sizes below zero, names over [MaxName], NULs in
// any name, device numbers over 32 bits, and attributes that Linux can't hold. These are understood: LIBARCHIVE.xattr
// records (those that can't be decoded, or that Linux can't hold, are ignored, as containerd ignores all), and
// SCHILY.devmajor and SCHILY.devminor.
package index
