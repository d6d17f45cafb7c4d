package main

import "imgfs/fs"

// A mountStats is the work of a mount since it began, the indexing of layers that were new included.
type mountStats struct {
	BytesFetched int64 `json:"bytes_fetched"` // over the network
	Requests     int64 `json:"requests"`
	Retries      int64 `json:"retries"` // requests that were repeated after a fault
	SpansDecoded int64 `json:"spans_decoded"`
	CacheHits    int64 `json:"cache_hits"`   // spans found decoded in memory
	CacheMisses  int64 `json:"cache_misses"` // spans that were not
	BlobHits     int64 `json:"blob_hits"`    // compressed ranges found on disk
	BlobMisses   int64 `json:"blob_misses"`  // compressed ranges that were fetched
	Reads        int64 `json:"reads"`        // read requests of the kernel
	BytesRead    int64 `json:"bytes_read"`
	Errors       int64 `json:"errors"` // requests answered with EIO
	Files        int64 `json:"files"`
	ImageBytes   int64 `json:"image_bytes"`  // compressed size of all layers
	MemoryBytes  int64 `json:"memory_bytes"` // decoded spans now in memory
}

func (m *mounting) stats(server *fs.Server) mountStats {
	net, mem, srv := m.session.fetch.Stats(), m.session.memory.Stats(), server.Stats()
	s := mountStats{
		BytesFetched: net.Bytes, Requests: net.Requests, Retries: net.Retries,
		CacheHits: mem.Hits, CacheMisses: mem.Misses, MemoryBytes: mem.Bytes,
		Reads: int64(srv.Reads), BytesRead: int64(srv.Bytes), Errors: int64(srv.Errors),
		Files: int64(m.image.tree.Len()),
	}
	for _, l := range m.image.layers {
		s.SpansDecoded += l.decoded()
		s.ImageBytes += l.Size
		if l.blob != nil {
			b := l.blob.Stats()
			s.BlobHits += b.Hits
			s.BlobMisses += b.Misses
		}
	}
	return s
}
