// Package inflate decodes gzip files so that they can be entered in the middle.
//
// A gzip file (RFC 1952) is a row of members; a member is a header, a DEFLATE stream (RFC 1951) and a trailer with a
// CRC and a size; a DEFLATE stream is a row of blocks: stored, fixed or dynamic. None of these need say how long it
// is, so a place in the decoded bytes cannot be found without decoding all that comes before it.
//
// A [Checkpoint] is a place where decoding can start: a bit offset in the file and its window, the at most 32 KiB
// decoded before it, which is as far back as DEFLATE can refer. A [Reader] decodes a whole file once, checks it, and
// tells of checkpoints as it goes. A span is what lies between two checkpoints; [Decode] decodes one span from its
// checkpoint and its compressed bytes, and nothing else. Spans are independent of each other and bounded in size,
// compressed and decoded: see [MaxSpan].
//
// Of a window only the bytes that its span refers to are kept. Which these are is known once the first 32 KiB of the
// span have been decoded, so a Reader tells of a checkpoint when it is that far beyond it.
//
// The decoder follows the design that libdeflate has shown to be fast: a 64-bit bit buffer, tables whose entries carry
// all there is to know about a symbol, and a loop that checks its bounds once for several symbols. It is Go alone:
// no assembly, no cgo, no unsafe; the compiler proves or checks every access.
package inflate
