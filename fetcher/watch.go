package fetcher

import (
	"context"
	"errors"
	"io"
	"time"
)

var errStalled = &transient{err: errors.New("the server has gone silent")}

// A watch ends an attempt whose server goes silent for Fetcher.stall. Time
// that our own reader takes between reads does not count.
type watch struct {
	ctx    context.Context // of the attempt; its cause is errStalled when the server was silent
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

// watch starts a watch, for the answer to begin.
func (f *Fetcher) watch(ctx context.Context) *watch {
	w := &watch{limit: f.stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.limit, func() { w.cancel(errStalled) })
	return w
}

// stop ends the attempt.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// reader returns body under watch. Reads after the watch has ended the
// attempt fail with errStalled.
func (w *watch) reader(body io.Reader) io.Reader {
	w.timer.Stop()
	return readerFunc(func(p []byte) (int, error) {
		w.timer.Reset(w.limit)
		n, err := body.Read(p)
		w.timer.Stop()
		if err != nil && err != io.EOF && w.ctx.Err() != nil {
			err = context.Cause(w.ctx)
		}
		return n, err
	})
}
