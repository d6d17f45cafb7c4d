package index

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A recoder writes parts of a tar as zstd frames, so that they can be entered there. It works beside the one who
// gives it the parts.
type recoder struct {
	w    io.Writer
	zip  *zstd.Encoder
	jobs chan []byte
	free chan []byte
	stop chan struct{} // closed once there is an error
	wait sync.WaitGroup
	once sync.Once
	// The following is for others to see once stop is closed, or close has been called.
	err  error
	done []frame
}

// A frame is one that has been written.
type frame struct {
	len uint32
	sum [sha256.Size]byte
}

// recoderBuffers is how many parts of a tar are kept for the recoder.
const recoderBuffers = 2

func newRecoder(open func() (io.Writer, error)) (*recoder, error) {
	if open == nil {
		return nil, fmt.Errorf("%w: a zstd frame of more than %d bytes", ErrUnsupported, maxSpan)
	}
	w, err := open()
	if err != nil {
		return nil, err
	}
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	r := &recoder{w: w, zip: zip, jobs: make(chan []byte, recoderBuffers), free: make(chan []byte, recoderBuffers), stop: make(chan struct{})}
	for range recoderBuffers {
		r.free <- nil
	}
	r.wait.Go(r.run)
	return r, nil
}

// add gives a part of the tar, which becomes a frame. An error may be that of a part before.
func (r *recoder) add(data []byte) error {
	select {
	case b := <-r.free:
		r.jobs <- append(b[:0], data...)
		return nil
	case <-r.stop:
		return r.err
	}
}

func (r *recoder) run() {
	var buf []byte
	for b := range r.jobs {
		buf = r.zip.EncodeAll(b, buf[:0])
		if _, err := r.w.Write(buf); err != nil {
			r.err = err
			close(r.stop)
			return
		}
		r.done = append(r.done, frame{uint32(len(buf)), sha256.Sum256(buf)})
		r.free <- b
	}
}

// close waits until all has been written.
func (r *recoder) close() error {
	r.once.Do(func() { close(r.jobs) })
	r.wait.Wait()
	return r.err
}
