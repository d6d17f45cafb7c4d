package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// errNotKept wraps why a stream can't go to the disk.
var errNotKept = errors.New("not kept in the cache")

// errWrong wraps how a stream differs from the blob.
var errWrong = errors.New("not what it should be")

// A spool streams the whole blob into its file, for a source without ranges.
type spool struct {
	step chan struct{} // closed and replaced whenever more is there; Blob.mu protects it
	done chan struct{} // closed when err is set
	err  error
}

// flyWhole brings a flight's range where there are no ranges to be had. It
// waits until the stream has come that far, or is at its end. When the disk
// takes nothing it streams the blob past, for these bytes alone.
func (b *Blob) flyWhole(f *flight) {
	f.err = errNotKept
	if b.file != nil && b.file.writable {
		f.err = b.awaitSpool(f.piece)
	}
	if !errors.Is(f.err, errNotKept) {
		return
	}
	var data []byte
	if data, f.err = b.skim(f.piece); f.err == nil {
		f.serve(data, f.lo)
	}
}

func (b *Blob) awaitSpool(p piece) error {
	s := b.startSpool()
	for {
		b.mu.Lock()
		step := s.step
		b.mu.Unlock()
		if b.file.covers(p) {
			return nil
		}
		select {
		case <-step:
		case <-s.done:
			return s.err
		}
	}
}

// startSpool returns the stream that is under way, or starts one.
func (b *Blob) startSpool() *spool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spool == nil {
		b.spool = &spool{step: make(chan struct{}), done: make(chan struct{})}
		b.running.Add(1)
		go b.runSpool(b.spool)
	}
	return b.spool
}

func (b *Blob) runSpool(s *spool) {
	defer b.running.Done()
	s.err = b.spoolOnce(s)
	b.mu.Lock()
	b.spool = nil
	b.mu.Unlock()
	close(s.done)
}

// progress wakes those who wait for more.
func (b *Blob) progress(s *spool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(s.step)
	s.step = make(chan struct{})
}

// spoolOnce streams the blob into the file, unless another process does.
func (b *Blob) spoolOnce(s *spool) error {
	mine, err := b.lockSpool(s)
	if err != nil {
		return err
	}
	if !mine {
		return nil
	}
	defer unlock(b.file.f, spoolByte, 1)
	if b.file.covers(piece{0, b.size}) {
		return nil
	}
	for {
		err := b.stream(s)
		if !errors.Is(err, errWrong) || !b.elsewhere() {
			return err
		}
	}
}

// lockSpool waits until this process may stream, or until another has done
// all of it. One that makes no progress for as long as patience lasts is not
// waited for.
func (b *Blob) lockSpool(s *spool) (mine bool, err error) {
	last := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		mine, err := tryLock(b.file.f, unix.F_WRLCK, spoolByte, 1)
		if err != nil {
			return false, b.cantKeep(err)
		}
		changed, err := b.file.sync(b.closing)
		if err != nil {
			if mine {
				unlock(b.file.f, spoolByte, 1)
			}
			return false, b.cantKeep(err)
		}
		if mine || b.file.covers(piece{0, b.size}) {
			return mine, nil
		}
		if changed {
			last = time.Now()
			b.progress(s)
		}
		if time.Since(last) >= b.patience {
			return false, b.cantKeep(errBusy)
		}
		select {
		case <-b.closing:
			return false, os.ErrClosed
		case <-time.After(pause):
		}
	}
}

func (b *Blob) cantKeep(err error) error {
	b.notKept(err)
	return fmt.Errorf("%w: %w", errNotKept, err)
}

// stream does it. The digest of the whole is checked at its end: if it is
// wrong, nothing of the blob stays.
func (b *Blob) stream(s *spool) error {
	ctx, stop := b.untilClosed()
	defer stop()
	r := b.Stream(ctx)
	defer r.Close()
	r.partly = true
	hash := b.digest.Algorithm().Hash()
	for buf := make([]byte, streamChunk); ; {
		n, err := r.Read(buf)
		hash.Write(buf[:n])
		b.progress(s)
		if r.lost != nil {
			return fmt.Errorf("%w: %w", errNotKept, r.lost)
		}
		if err == io.EOF {
			break
		}
		if errors.Is(err, errWrong) {
			return b.distrust(err)
		}
		if err != nil {
			return err
		}
	}
	if got := digest.NewDigest(b.digest.Algorithm(), hash); got != b.digest {
		return b.distrust(fmt.Errorf("%w: stream has the digest %s", errWrong, got))
	}
	return nil
}

// distrust drops all that there is of the blob. It does not wait for flights,
// which wait for the stream.
func (b *Blob) distrust(err error) error {
	return errors.Join(err, b.file.discard(b.closing, piece{0, b.size}))
}

// skim streams the blob past up to the end of p, and returns p.
func (b *Blob) skim(p piece) ([]byte, error) {
	ctx, stop := b.untilClosed()
	defer stop()
	r, err := b.src.Open(ctx, 0, b.size)
	if err != nil {
		return nil, short(err)
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, p.lo); err != nil {
		return nil, short(err)
	}
	data := make([]byte, p.hi-p.lo)
	_, err = io.ReadFull(r, data)
	return data, short(err)
}

// short returns err, but never io.EOF: to the readers of a blob that means
// the blob's end.
func short(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// untilClosed returns a context that ends with the Blob, or by stop.
func (b *Blob) untilClosed() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = context.WithCancel(context.Background())
	go func() {
		select {
		case <-b.closing:
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, stop
}
