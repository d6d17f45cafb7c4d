package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
)

// A stream is a remote blob, or a piece of one. It has one reader.
type stream struct {
	blob    *remoteBlob
	connect func(from *session, off int64) (*streamBody, error)
	again   func(err error) error // nil after a pause, when another attempt is to be made
	release func()                // of the context
	body    *streamBody           // nil when there is no connection
	from    *session              // where body is from
	off     int64
	end     int64
	err     error // from now on
}

func (b *remoteBlob) open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	retry := b.src.f.retrier(b.what)
	begin, end := off, off+n
	s := &stream{
		blob: b, off: off, end: end,
		connect: func(from *session, off int64) (*streamBody, error) {
			whole := n == b.layer.Size || off > begin // what has begun goes on however it can
			return b.openAt(ctx, retry, from, off, end, whole)
		},
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
		switch {
		case s.body == nil:
			s.err = s.reconnect()
			continue
		case s.off == s.end:
			s.err = s.checkEnd()
			continue
		case s.off == s.body.end:
			s.disconnect() // a part of the range is what a server is free to send
			continue
		}
		n, err := s.body.Read(p[:min(int64(len(p)), min(s.end, s.body.end)-s.off)])
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

// checkEnd returns io.EOF, but where the body does not end although the blob does.
func (s *stream) checkEnd() error {
	if s.end == s.blob.layer.Size {
		var one [1]byte
		if n, _ := io.ReadFull(s.body, one[:]); n > 0 {
			return s.blob.wrongSize("more")
		}
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

// openAt opens the blob from off on, to be read up to end: with a range and,
// where the server has none and whole is set, by reading over what is before.
func (b *remoteBlob) openAt(ctx context.Context, retry *retrier, from *session, off, end int64, whole bool) (*streamBody, error) {
	if off > 0 && b.stand != nil && !isTold(b.stand) {
		return nil, fmt.Errorf("%s: the connection broke after %d bytes, and the server does not tell whether the file is the same still", b.what, off)
	}
	w := retry.watch(ctx)
	resp, err := b.getFrom(w.ctx, from, off, end, whole)
	if err == nil {
		if end, err = b.checkFrom(resp, from, off, end, whole); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		w.stop()
		return nil, err
	}
	body := &streamBody{w.reader(resp, b.what), resp.Body, w, end}
	if resp.StatusCode == http.StatusOK {
		if err := w.skip(body, off); err != nil {
			body.Close()
			return nil, connectionError(ctx, b.what, resp.Request.URL.Host, err)
		}
	}
	return body, nil
}

func (b *remoteBlob) getFrom(ctx context.Context, from *session, off, end int64, whole bool) (*http.Response, error) {
	if off == 0 && end == b.layer.Size || whole && b.isWhole(from) {
		return b.get(ctx, from, http.Header{})
	}
	if b.isWhole(from) {
		return nil, b.noRanges()
	}
	resp, err := b.get(ctx, from, http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, end-1)}})
	if whole && errors.Is(err, errors.ErrUnsupported) {
		return b.get(ctx, from, http.Header{})
	}
	return resp, err
}

// checkFrom checks the answer to a request for what is from off to end, and
// returns where it ends.
func (b *remoteBlob) checkFrom(resp *http.Response, from *session, off, end int64, whole bool) (int64, error) {
	if resp.StatusCode != http.StatusPartialContent {
		return b.layer.Size, b.checkWhole(resp, from, whole)
	}
	last, err := b.checkRange(resp, off, end)
	if err != nil {
		return 0, b.ignored(resp, from, whole, err)
	}
	return last + 1, nil
}

// A streamBody is the body of one answer, under watch.
type streamBody struct {
	io.Reader
	body  io.Closer
	watch *watch
	end   int64 // where it ends in the blob, as the answer says
}

func (b *streamBody) Close() error {
	defer b.watch.stop()
	return b.body.Close()
}
