package fetcher

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

var errStalled = fmt.Errorf("the server has gone silent, or sends less than %d KiB a second", slowest>>10)

// A watch ends an attempt whose server goes silent for Fetcher.stall, or is
// waited for longer than the retrier has patience. Time that our own reader
// takes between reads does not count.
type watch struct {
	ctx    context.Context // of the attempt; its cause is errStalled when the server was too slow
	cancel context.CancelCauseFunc
	timer  *time.Timer
	retry  *retrier
	since  time.Time // when the wait under way began; zero between waits
}

// watch starts a watch, with the wait for the answer to begin.
func (r *retrier) watch(ctx context.Context) *watch {
	w := &watch{retry: r, since: r.f.now()}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(min(r.f.stall, r.left), func() { w.cancel(errStalled) })
	return w
}

// stop ends the attempt.
func (w *watch) stop() {
	w.rest(0)
	w.cancel(nil)
}

// wait begins a wait for bytes.
func (w *watch) wait() {
	if w.retry.left <= 0 {
		w.cancel(errStalled)
	}
	w.waitFor(min(w.retry.f.stall, w.retry.left))
}

// waitFor begins a wait that may take as long as d.
func (w *watch) waitFor(d time.Duration) {
	w.since = w.retry.f.now()
	w.timer.Reset(d)
}

// rest ends a wait, which has brought n bytes.
func (w *watch) rest(n int) {
	w.timer.Stop()
	if !w.since.IsZero() {
		w.retry.spend(w.retry.f.now().Sub(w.since))
		w.since = time.Time{}
	}
	w.retry.earn(n)
}

// reader returns the body of an answer to a request for what, under watch.
// Once the watch has ended the attempt, reads fail with an error that says so.
func (w *watch) reader(resp *http.Response, what string) io.Reader {
	w.rest(0)
	failed := func(err error) error { return connectionError(w.ctx, what, resp.Request.URL.Host, err) }
	return readerFunc(func(p []byte) (int, error) {
		if w.wait(); w.ctx.Err() != nil {
			return 0, failed(nil)
		}
		n, err := resp.Body.Read(p)
		w.rest(n)
		if err != nil && err != io.EOF && w.ctx.Err() != nil {
			err = failed(err)
		}
		return n, err
	})
}

// skip reads over n bytes that have been had before. They make up for no more
// than the time that they take: a server that breaks at the same place again
// and again makes no progress.
func (w *watch) skip(body io.Reader, n int64) error {
	left, failed := w.retry.left, w.retry.failed
	_, err := io.CopyN(io.Discard, body, n)
	w.retry.left, w.retry.failed = min(w.retry.left, left), failed
	return err
}
