package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A fate is what became of a blob that was to be pushed.
type fate int

const (
	present fate = iota
	mounted
	uploaded
)

// An upload is a blob on its way to a registry. It goes there in one request.
// When that fails the upload begins anew.
type upload struct {
	*session
	what   string
	blob   v1.Descriptor
	read   func(ctx context.Context, read func(io.Reader) error) error // calls read with the blob, from the start
	retry  *retrier
	became fate

	at      *place // where the registry wants it; nil: it has to be asked
	sent    int64  // bytes, of the attempt that came furthest
	renewed bool   // an attempt was refused, and there was another
}

func (u *upload) run(ctx context.Context) error {
	there, err := u.isThere(ctx)
	if err != nil || there {
		return err
	}
	if u.from != "" && u.mount(ctx) {
		u.became = mounted
		return nil
	}
	u.became = uploaded
	for {
		err := u.attempt(ctx)
		var src *sourceError
		if err == nil || errors.As(err, &src) {
			return err
		}
		if err = u.retry.again(ctx, err); err != nil {
			return err
		}
	}
}

// A sourceError is about where a blob comes from, which has patience of its own.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

func (u *upload) isThere(ctx context.Context) (bool, error) {
	for {
		there, err := u.hasBlob(ctx)
		if err == nil {
			return there, nil
		}
		if err = u.retry.again(ctx, err); err != nil {
			return false, err
		}
	}
}

// hasBlob asks whether the repository has the blob.
func (u *upload) hasBlob(ctx context.Context) (bool, error) {
	w := u.retry.watch(ctx)
	defer w.stop()
	resp, at, err := u.follow(w.ctx, u.url("blobs", u.blob.Digest.String()), request{method: http.MethodHead, what: u.what})
	switch {
	case err != nil:
		return false, err
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotFound || at.expired(resp.StatusCode):
		discard(resp)
		return resp.StatusCode == http.StatusOK, nil // a redirect may be signed for GET alone
	}
	return false, u.answerError(resp, u.what)
}

// mount asks for the blob to be taken from the other repository. If it is not there, or may not be, the registry begins an upload.
func (u *upload) mount(ctx context.Context) bool {
	at, err := u.begin(ctx, url.Values{"mount": {u.blob.Digest.String()}, "from": {u.from}})
	if err != nil {
		u.f.log.Info("a blob is not mounted, and is uploaded", "blob", u.blob.Digest, "error", err)
	}
	u.at = at
	return err == nil && at == nil
}

// begin asks the registry for an upload, and returns where it is to go: nowhere if the registry has the blob already.
func (u *upload) begin(ctx context.Context, query url.Values) (*place, error) {
	w := u.retry.watch(ctx)
	defer w.stop()
	target := u.url("blobs", "uploads/")
	if query != nil {
		target.RawQuery = query.Encode()
	}
	resp, from, err := u.follow(w.ctx, target, request{method: http.MethodPost, what: u.what})
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusAccepted:
		return u.uploadPlace(resp, from)
	case resp.StatusCode == http.StatusCreated && query != nil:
		discard(resp)
		return nil, checkStored(u.what, u.blob, resp.Header)
	}
	return nil, u.answerError(resp, u.what)
}

// uploadPlace returns where an answer from a place says that the blob is to go. If that is another server, it goes there without
// credentials.
func (u *upload) uploadPlace(resp *http.Response, from place) (*place, error) {
	discard(resp)
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, errorf(ErrMalformed, "%s: registry %s does not say where it is to go", u.what, u.name)
	}
	next, err := parseLocation(from.url, location)
	if err == nil {
		err = checkWritten(originOf(from.url), next)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.what, err)
	}
	return &place{url: next, redirected: true, astray: from.astray || originOf(next) != originOf(from.url)}, nil
}

// attempt makes one attempt, at whatever places it is redirected to.
func (u *upload) attempt(ctx context.Context) error {
	for hops := 0; ; hops++ {
		next, err := u.once(ctx)
		if err != nil || next == nil {
			return err
		}
		if hops == maxRedirects {
			return fmt.Errorf("%s: %s redirects more than %d times", u.what, u.name, maxRedirects)
		}
		u.at = next
	}
}

// errUnread ends the reading of a blob that is not wanted any more.
var errUnread = errors.New("the registry has answered before it was sent all")

// once sends the blob to one place, and returns where to send it instead, if the answer is that.
func (u *upload) once(ctx context.Context) (next *place, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error // but for the source
	err = u.read(ctx, func(r io.Reader) error {
		body := &sentBody{upload: u, r: r, done: make(chan struct{})}
		next, failed = u.put(ctx, body)
		if body.err == nil {
			cancel() // a transport that still reads need not wait for the source
		}
		switch body.wait(); {
		case body.err != nil:
			next, failed = nil, nil
			return body.err
		case next != nil || failed != nil:
			return errUnread
		}
		return nil
	})
	if err != nil && next == nil && failed == nil {
		failed = &sourceError{err}
	}
	return next, failed
}

// put sends the blob to a place: to u.at, or else to where the registry wants it.
func (u *upload) put(ctx context.Context, body *sentBody) (next *place, err error) {
	at := u.at
	if u.at = nil; at == nil {
		if at, err = u.begin(ctx, nil); err != nil {
			return nil, err
		}
	}
	if u.blob.Size == 0 { // transports don't read what is empty
		if _, err := body.r.Read(make([]byte, 1)); err != io.EOF {
			body.err = err
			return nil, err
		}
	}
	body.watch = u.retry.watch(ctx)
	defer body.watch.stop()
	resp, err := u.send(body.watch.ctx, withDigest(at.url, u.blob), request{
		method: http.MethodPut, header: http.Header{"Content-Type": {"application/octet-stream"}}, what: u.what,
		keepToken: true, astray: at.astray, body: body.hand, length: u.blob.Size,
	})
	body.answered()
	if err != nil {
		return nil, err
	}
	return u.judge(resp, *at)
}

// withDigest returns the URL that ends an upload with one request. What the registry has in its query stays as it is: it
// may be signed.
func withDigest(u *url.URL, d v1.Descriptor) *url.URL {
	to := *u
	if to.RawQuery != "" {
		to.RawQuery += "&"
	}
	to.RawQuery += "digest=" + url.QueryEscape(d.Digest.String())
	return &to
}

// judge makes of the answer to an upload what to do.
func (u *upload) judge(resp *http.Response, at place) (*place, error) {
	switch status := resp.StatusCode; {
	case status == http.StatusCreated:
		discard(resp)
		return nil, checkStored(u.what, u.blob, resp.Header)
	case keepsMethod(status) && resp.Header.Get("Location") != "":
		return u.uploadPlace(resp, at)
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusRequestedRangeNotSatisfiable:
		return nil, &transient{err: u.answerError(resp, u.what)} // the registry has forgotten it: another may do
	case isRefusal(status) && !u.renewed:
		u.renewed = true
		return nil, &transient{err: u.answerError(resp, u.what)} // the token may have been too old; the next attempt gets another
	}
	return nil, u.answerError(resp, u.what)
}

// A sentBody is a blob as the body of a request, under watch: the server is waited for, and not our own reader. What is
// sent again after a failure makes up for no more than the time that it takes.
type sentBody struct {
	upload *upload
	r      io.Reader
	watch  *watch
	handed bool          // to a transport, which reads it and closes it when it likes
	done   chan struct{} // closed by then

	mu    sync.Mutex // protects the following, and watch as long as it is not over
	off   int64
	taken int64 // of off, by the server
	over  bool  // there is an answer
	err   error // of r, before that
}

// A registry may be silent about a whole blob for longer than otherwise: some store it only then, at some rate at least.
const (
	settleRate = 4 << 20 // bytes a second
	mostSettle = 5 * time.Minute
)

// settling returns how long the answer to the whole blob is waited for.
func (u *upload) settling() time.Duration {
	return min(mostSettle, u.f.stall+time.Duration(u.blob.Size/settleRate)*time.Second)
}

// hand gives the body to a transport.
func (b *sentBody) hand() io.ReadCloser {
	b.handed = true
	return b
}

func (b *sentBody) Read(p []byte) (int, error) {
	if err := b.take(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	b.give(n, err)
	return n, err
}

// take notes that the server has taken what it was given, as more is asked for.
func (b *sentBody) take() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over && b.off == b.upload.blob.Size:
		return io.EOF
	case b.over:
		return errUnread
	}
	retry := b.upload.retry
	left, failed := retry.left, retry.failed
	b.watch.rest(int(b.off - b.taken))
	b.taken = b.off
	if b.off > b.upload.sent {
		b.upload.sent = b.off
	} else {
		retry.left, retry.failed = min(retry.left, left), failed
	}
	return nil
}

// give begins the wait for the server to take n bytes or, after the last ones, to answer.
func (b *sentBody) give(n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	b.off += int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	if b.off == b.upload.blob.Size {
		b.watch.waitFor(b.upload.settling())
	} else {
		b.watch.wait()
	}
}

// Close implements io.Closer, for the transport.
func (b *sentBody) Close() error {
	select {
	case <-b.done:
	default:
		close(b.done)
	}
	return nil
}

// answered notes that there is an answer. From then on all of it is the caller's, once wait has returned.
func (b *sentBody) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

// wait returns when nobody reads the body any more.
func (b *sentBody) wait() {
	if b.handed {
		<-b.done
	}
}
