package main

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"imgfs/cache"
	"imgfs/fs"
)

// A mountStats is the work of a mount since it began, the indexing of layers that were new included.
type mountStats struct {
	BytesFetched  int64 `json:"bytes_fetched"` // over the network
	Requests      int64 `json:"requests"`
	Retries       int64 `json:"retries"` // requests that were repeated after a fault
	SpansDecoded  int64 `json:"spans_decoded"`
	CacheHits     int64 `json:"cache_hits"`   // spans found decoded in memory
	CacheMisses   int64 `json:"cache_misses"` // spans that were not
	BlobHits      int64 `json:"blob_hits"`    // compressed ranges found on disk
	BlobMisses    int64 `json:"blob_misses"`  // compressed ranges that were fetched
	Reads         int64 `json:"reads"`        // read requests of the kernel
	BytesRead     int64 `json:"bytes_read"`
	Errors        int64 `json:"errors"` // requests answered with EIO
	Files         int64 `json:"files"`
	ImageBytes    int64 `json:"image_bytes"`    // compressed size of all layers
	MemoryBytes   int64 `json:"memory_bytes"`   // decoded spans now in memory
	ResidentBytes int64 `json:"resident_bytes"` // memory of the server, all in all

	Layers []layerStats `json:"layers"` // bottom to top
}

// A layerStats is how a layer of a mount stands.
type layerStats struct {
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
	Cached       int64         `json:"cached"` // bytes of it on disk
	Access       access        `json:"access"`
	SpansDecoded int64         `json:"spans_decoded"`
}

// An access is how the bytes of a layer are come by.
type access string

const (
	accessLazy     access = "lazy"      // in ranges, as they are read
	accessLocal    access = "local"     // from the image's own file, in place
	accessCached   access = "cached"    // all of it is in the cache
	accessFrames   access = "frames"    // from the cache, recompressed: the blob has no way in
	accessNoRanges access = "no ranges" // as a whole: the server serves no ranges
	accessOffline  access = "offline"   // what the cache has, and no more
)

func (m *mounting) stats(server *fs.Server) mountStats {
	net, mem, srv := m.session.fetch.Stats(), m.session.memory.Stats(), server.Stats()
	s := mountStats{
		BytesFetched: net.Bytes, Requests: net.Requests, Retries: net.Retries,
		CacheHits: mem.Hits, CacheMisses: mem.Misses, MemoryBytes: mem.Bytes, ResidentBytes: residentBytes(),
		Reads: int64(srv.Reads), BytesRead: int64(srv.Bytes), Errors: int64(srv.Errors),
		Files: int64(m.image.tree.Len()),
	}
	for _, l := range m.image.layers {
		one, blob := l.stats()
		s.Layers = append(s.Layers, one)
		s.SpansDecoded += one.SpansDecoded
		s.ImageBytes += one.Size
		s.BlobHits += blob.Hits
		s.BlobMisses += blob.Misses
	}
	return s
}

func (l *layer) stats() (layerStats, cache.BlobStats) {
	s := layerStats{Digest: l.Digest, Size: l.Size, SpansDecoded: l.decoded()}
	var blob cache.BlobStats
	if l.blob != nil {
		blob = l.blob.Stats()
	}
	s.Cached = blob.Cached
	switch {
	case l.current.Load().frames != nil:
		s.Access = accessFrames
	case l.src.Local():
		s.Access = accessLocal
	case blob.Rangeless:
		s.Access = accessNoRanges
	case blob.Cached == l.Size:
		s.Access = accessCached
	case l.session.offline:
		s.Access = accessOffline
	default:
		s.Access = accessLazy
	}
	return s, blob
}

// residentBytes is the memory of this process; 0 if that is not known.
func residentBytes() int64 {
	var size, resident int64
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		_, _ = fmt.Sscan(string(b), &size, &resident) // in pages
	}
	return resident * int64(os.Getpagesize())
}
