package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"
	"sync"
)

// A remoteBlob is a blob in a registry.
type remoteBlob struct {
	src   *registrySource
	route route
	layer Layer
	what  string
	stand http.Header // of a file without a digest: what the server said of it at first; nil for all others

	// ctx is what reads run on, whoever waits for them. It ends when the blob is
	// closed, and its cause says that.
	ctx context.Context
	end context.CancelCauseFunc

	// asking is held by the one who asks the registry where the blob is,
	// while others wait to be told.
	asking chan struct{}

	// mu protects the following.
	mu    sync.Mutex
	place place
	unfit map[*session]bool // mirrors that have shown that they lack the blob, or cannot serve it
	whole map[*session]bool // those that have shown that they have no ranges
}

func newRemoteBlob(src *registrySource, r route, l Layer) *remoteBlob {
	b := &remoteBlob{
		src: src, route: r, layer: l, asking: make(chan struct{}, 1),
		unfit: map[*session]bool{}, whole: map[*session]bool{},
		what: fmt.Sprintf("layer %s of %s", l.Digest, src.ref.Name()),
	}
	b.ctx, b.end = context.WithCancelCause(context.Background())
	return b
}

func (b *remoteBlob) length() int64 { return b.layer.Size }
func (b *remoteBlob) local() bool   { return false }

func (b *remoteBlob) close() error {
	b.end(fmt.Errorf("%s: %w", b.what, fs.ErrClosed))
	return nil
}

// usable tells why the blob cannot be read at all.
func (b *remoteBlob) usable() error {
	if err := context.Cause(b.ctx); err != nil {
		return err
	}
	if b.src.f.opts.Offline {
		return errorf(ErrOffline, "%s is not in the cache, and offline it cannot be fetched", b.what)
	}
	return nil
}

// ReadAt fills p, which ends inside of the blob. What has arrived before a
// fault is not asked for again.
func (b *remoteBlob) ReadAt(p []byte, off int64) (int, error) {
	if err := b.usable(); err != nil {
		return 0, err
	}
	retry := b.src.f.retrier(b.what)
	for done := 0; ; {
		from := b.pick()
		n, err := b.readRange(b.ctx, retry, from, p[done:], off+int64(done))
		done += n
		if err == nil {
			from.serve()
		}
		if done == len(p) {
			return done, nil
		}
		if err == nil || b.moveOn(from, err) {
			continue // a part of the range is what a server is free to send
		}
		if err := retry.again(b.ctx, b.soften(from, err)); err != nil {
			return done, fmt.Errorf("bytes %d-%d: %w", off, off+int64(len(p))-1, err)
		}
	}
}

// readRange makes one attempt at p, and returns how much it got.
func (b *remoteBlob) readRange(ctx context.Context, retry *retrier, from *session, p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	whole := off == 0 && end == b.layer.Size
	if b.isWhole(from) && !whole {
		return 0, b.noRanges()
	}
	w := retry.watch(ctx)
	defer w.stop()
	resp, err := b.get(w.ctx, from, http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, end-1)}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	part := p
	if resp.StatusCode == http.StatusOK {
		if err := b.checkWhole(resp, from, whole); err != nil {
			return 0, err
		}
	} else {
		last, err := b.checkRange(resp, off, end)
		if err != nil {
			return 0, b.ignored(resp, from, whole, err)
		}
		part = p[:last+1-off]
	}
	n, err := io.ReadFull(w.reader(resp, b.what), part)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("the answer ends after %d of %d bytes", n, len(part))
	}
	if err != nil {
		return n, connectionError(ctx, b.what, resp.Request.URL.Host, err)
	}
	return n, nil
}

// ignored returns the error for an answer that is not the range that was asked
// for, but says that it is the whole blob: that server has no ranges.
func (b *remoteBlob) ignored(resp *http.Response, from *session, wanted bool, err error) error {
	if !wanted && resp.Header.Get("Content-Range") == fmt.Sprintf("bytes 0-%d/%d", b.layer.Size-1, b.layer.Size) {
		b.setWhole(from)
		return b.noRanges()
	}
	return err
}

// ranges asks whoever is next for a byte, once, and tells whether it comes alone.
func (b *remoteBlob) ranges(ctx context.Context) (bool, error) {
	if err := b.usable(); err != nil {
		return false, err
	}
	retry := b.src.f.retrier(b.what)
	_, err := b.readRange(ctx, retry, b.pick(), make([]byte, 1), b.layer.Size/2)
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil, err
}

// noRanges returns the error for servers without ranges.
func (b *remoteBlob) noRanges() error {
	return unsupported("%s: the server does not serve ranges", b.what)
}

// checkWhole checks an answer with the whole blob. It is good for a reader
// who wants just that.
func (b *remoteBlob) checkWhole(resp *http.Response, from *session, wanted bool) error {
	if !wanted {
		b.setWhole(from)
		return b.noRanges()
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.layer.Size {
		return b.wrongSize(strconv.FormatInt(resp.ContentLength, 10))
	}
	return nil
}

func (b *remoteBlob) wrongSize(found string) error {
	return &MismatchError{What: "size of " + b.what, Expected: strconv.FormatInt(b.layer.Size, 10), Found: found}
}

var contentRange = regexp.MustCompile(`^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$`)

// checkRange checks that an answer is the range from off to end, or the first
// part of it (RFC 9110, section 15.3.7, allows that), and returns its last
// byte's offset. The total has to be the size of the blob, where it is given.
func (b *remoteBlob) checkRange(resp *http.Response, off, end int64) (last int64, err error) {
	wrong := &transient{err: fmt.Errorf("%s: asked for bytes %d-%d of %d, the answer does not say what it is", b.what, off, end-1, b.layer.Size)}
	m := contentRange.FindStringSubmatch(resp.Header.Get("Content-Range"))
	if m == nil {
		return 0, wrong
	}
	wrong.err = fmt.Errorf("%s: asked for bytes %d-%d of %d, the answer is %q", b.what, off, end-1, b.layer.Size, m[0])
	first, _ := strconv.ParseInt(m[1], 10, 64)
	last, _ = strconv.ParseInt(m[2], 10, 64)
	total := b.layer.Size
	if m[3] != "*" {
		total, _ = strconv.ParseInt(m[3], 10, 64)
	}
	if first != off || last < first || last >= end || total != b.layer.Size {
		return 0, wrong
	}
	if resp.ContentLength >= 0 && resp.ContentLength != last+1-first {
		return 0, wrong
	}
	return last, nil
}
