package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
)

// A stream is a whole remote blob. It has one reader.
type stream struct {
	blob    *remoteBlob
	connect func(from *session, off int64) (io.ReadCloser, error)
	again   func(err error) error // nil after a pause, when another attempt is to be made
	release func()                // of the context
	body    io.ReadCloser         // nil when there is no connection
	from    *session              // where body is from
	off     int64
	err     error // from now on
}

func (b *remoteBlob) open(ctx context.Context) (io.ReadCloser, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	retry := b.src.f.retrier(b.what)
	s := &stream{
		blob:    b,
		connect: func(from *session, off int64) (io.ReadCloser, error) { return b.openAt(ctx, retry, from, off) },
		release: func() { unhook(); cancel(nil) },
	}
	s.again = func(err error) error {
		if ctx.Err() == nil && b.moveOn(s.from, err) {
			return nil
		}
		return retry.again(ctx, b.soften(s.from, err))
	}
	if err := s.reconnect(); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// Read implements io.Reader. It goes on after a fault for as long as the
// retrier has patience.
func (s *stream) Read(p []byte) (int, error) {
	for s.err == nil {
		if s.body == nil {
			if s.err = s.reconnect(); s.err != nil {
				break
			}
		}
		left := s.blob.layer.Size - s.off
		if left == 0 {
			s.err = s.checkEnd()
			break
		}
		n, err := s.body.Read(p[:min(int64(len(p)), left)])
		s.off += int64(n)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			s.disconnect()
			s.err = s.again(s.broken(err))
		} else if len(p) == 0 {
			return 0, nil
		}
	}
	return 0, s.err
}

// broken makes an error of the end of a body that had to go on.
func (s *stream) broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	var t *transient
	if errors.As(err, &t) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrClosed) {
		return err
	}
	return &transient{err: fmt.Errorf("%s: after %d of %d bytes: %w", s.blob.what, s.off, s.blob.layer.Size, err)}
}

// checkEnd returns io.EOF when the body ends where the blob does.
func (s *stream) checkEnd() error {
	var one [1]byte
	if n, _ := io.ReadFull(s.body, one[:]); n > 0 {
		return s.blob.wrongSize("more")
	}
	s.from.serve()
	return io.EOF
}

// reconnect opens the body at off.
func (s *stream) reconnect() error {
	for {
		s.from = s.blob.pick()
		body, err := s.connect(s.from, s.off)
		if err == nil {
			s.body = body
			return nil
		}
		if err := s.again(err); err != nil {
			return err
		}
	}
}

func (s *stream) disconnect() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.disconnect()
	s.release()
	if s.err == nil || s.err == io.EOF {
		s.err = errors.New("the stream is closed")
	}
	return nil
}

// openAt opens the blob from off on: with a range, and where the server has
// none by reading over what has been had.
func (b *remoteBlob) openAt(ctx context.Context, retry *retrier, from *session, off int64) (io.ReadCloser, error) {
	if off > 0 && b.stand != nil && !isTold(b.stand) {
		return nil, fmt.Errorf("%s: the connection broke after %d bytes, and the server does not tell whether the file is the same still", b.what, off)
	}
	w := retry.watch(ctx)
	resp, err := b.getFrom(w.ctx, from, off)
	if err == nil {
		if err = b.checkFrom(resp, off); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		w.stop()
		return nil, err
	}
	body := &streamBody{w.reader(resp, b.what), resp.Body, w}
	if resp.StatusCode == http.StatusOK {
		if err := w.skip(body, off); err != nil {
			body.Close()
			return nil, connectionError(ctx, b.what, resp.Request.URL.Host, err)
		}
	}
	return body, nil
}

func (b *remoteBlob) getFrom(ctx context.Context, from *session, off int64) (*http.Response, error) {
	if off > 0 && !b.isWhole(from) {
		resp, err := b.get(ctx, from, http.Header{"Range": {fmt.Sprintf("bytes=%d-", off)}})
		if !errors.Is(err, errors.ErrUnsupported) {
			return resp, err
		}
	}
	return b.get(ctx, from, http.Header{})
}

// checkFrom checks the answer to a request for all from off on.
func (b *remoteBlob) checkFrom(resp *http.Response, off int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		_, err := b.checkRange(resp, off, b.layer.Size)
		return err
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.layer.Size {
		return b.wrongSize(strconv.FormatInt(resp.ContentLength, 10))
	}
	return nil
}

// A streamBody is the body of one answer, under watch.
type streamBody struct {
	io.Reader
	body  io.Closer
	watch *watch
}

func (b *streamBody) Close() error {
	defer b.watch.stop()
	return b.body.Close()
}
