package index

import (
	"hash"
	"io"
	"sync"
)

const (
	// chunkSize is how much of the tar is decoded at a time: little enough that it is hashed and walked while it is
	// in the processor's cache.
	chunkSize = 128 << 10
	// chunks is how many of them there are.
	chunks = 16
)

// A chunk is some of the tar.
type chunk struct {
	mem    []byte
	b      []byte   // part of mem: all of it, but at the end of the tar
	states [][]byte // of spans that begin in b, encoded
	err    error    // what comes after b
}

// A stream is a tar that is decoded and hashed, each by a goroutine beside the one that takes it.
type stream struct {
	scan    io.Reader
	spans   *spanner
	hash    hash.Hash
	free    chan *chunk
	decoded chan *chunk
	hashed  chan *chunk
	quit    chan struct{}
	wait    sync.WaitGroup
	taken   *chunk
	state   func([]byte) error // takes the states
}

// newStream starts to decode what scan gives.
func newStream(scan io.Reader, spans *spanner, h hash.Hash, state func([]byte) error) *stream {
	s := &stream{
		scan: scan, spans: spans, hash: h, state: state,
		free: make(chan *chunk, chunks), decoded: make(chan *chunk, chunks), hashed: make(chan *chunk, chunks),
		quit: make(chan struct{}),
	}
	for range chunks {
		s.free <- &chunk{mem: make([]byte, chunkSize)}
	}
	s.wait.Go(s.decode)
	s.wait.Go(s.sum)
	return s
}

// close ends what runs beside. It waits for a call of scan's Read that is under way.
func (s *stream) close() {
	close(s.quit)
	s.wait.Wait()
}

func (s *stream) decode() {
	defer close(s.decoded)
	for err := error(nil); err == nil; {
		select {
		case <-s.quit:
			return
		case c := <-s.free:
			err = c.fill(s.scan)
			c.states = s.spans.take()
			s.decoded <- c
		}
	}
}

// fill decodes a chunk.
func (c *chunk) fill(scan io.Reader) error {
	n := 0
	c.err = nil
	for n < len(c.mem) && c.err == nil { // not io.ReadFull: its io.ErrUnexpectedEOF could be the reader's own
		var m int
		m, c.err = scan.Read(c.mem[n:])
		n += m
	}
	c.b = c.mem[:n]
	return c.err
}

func (s *stream) sum() {
	defer close(s.hashed)
	for c := range s.decoded {
		s.hash.Write(c.b)
		s.hashed <- c
	}
}

// next gives the next chunk's bytes, valid until the next call, and what comes after them.
func (s *stream) next() ([]byte, error) {
	if s.taken != nil {
		s.free <- s.taken
	}
	s.taken = <-s.hashed
	for _, state := range s.taken.states {
		if err := s.state(state); err != nil {
			return nil, err
		}
	}
	return s.taken.b, s.taken.err
}
